"""Frozen parts that a machine was sent, in files by digest.

``<state_dir>/frozen/<digest>.f32`` holds the values of a part (:mod:`rsdgc.frozen_part`). All sites
of the machine and later runs use it, so that it crosses the network once.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rsdgc.durable import make_folder, replace_bytes
from rsdgc.errors import RunError, StateError, WireError
from rsdgc.frozen_part import FrozenPart

if TYPE_CHECKING:  # imports torch, and whoever deletes old parts loads no model
    from clients.model_parts import ModelParts

FOLDER = "frozen"
"""Name of the folder, in the root of a machine's states."""

_log = logging.getLogger(__name__)


class FrozenPartMissing(Exception):  # noqa: N818  # an outcome that the server answers, not a failure
    """The site's frozen part is not the server's, and the machine has not been sent it.

    The server answers it with the part.
    """


def load_frozen_part(
    parts: ModelParts, digest: bytes, state_dir: Path, received: bytes | None
) -> None:
    """Make the frozen part of a model on the CPU that of this digest.

    Parameters
    ----------
    parts : ModelParts
        The model as built, before training.
    digest : bytes
        Of the server's frozen part.
    state_dir : path
        Root of the states on this machine.
    received : bytes or None
        The part, if the message brought it; it is kept on this machine.

    Raises
    ------
    FrozenPartMissing
        The model's part is another one, and there is neither a file nor a received part.
    RunError
        The received part is not that of the digest.
    StateError
        The received part cannot be written.
    """
    own = parts.frozen_part()
    if own.digest == digest:
        return
    path = state_dir / FOLDER / f"{digest.hex()}.f32"
    if received is None:
        part = _read(path, own, digest)
    else:
        try:
            part = own.unpack(received, digest)
        except WireError as error:
            raise RunError(str(error)) from None
        _write(path, received)
    parts.load_frozen_part(part)


def _read(path: Path, own: FrozenPart, digest: bytes) -> FrozenPart:
    try:
        part = own.unpack(path.read_bytes(), digest)
    except FileNotFoundError:
        raise FrozenPartMissing("this machine does not have the frozen part") from None
    except (OSError, WireError) as error:
        raise FrozenPartMissing(f"{path} cannot be used ({error})") from None
    with suppress(OSError):
        os.utime(path)  # `rsdgc site clean` goes by the time of the last use
    return part


def _write(path: Path, content: bytes) -> None:
    try:
        make_folder(path.parent, levels=2)
        replace_bytes(path, content)
    except OSError as error:
        raise StateError(
            f"the model's frozen part cannot be written to {path.parent} "
            f"({error.strerror or error}): free space, fix the permissions, or set another "
            "state-dir"
        ) from error
    _log.info("keeping the frozen part of the model in %s", path)
