"""Files of weights: safetensors, and PyTorch's checkpoints converted into them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_app.models.checkpoint_objects import load_tensors, module_tensors
from rsdgc.documents import DocumentError, parse_json, read_text
from rsdgc.durable import replace_file
from rsdgc.errors import SettingError
from rsdgc.plain_text import plain_line

BANDS = "bands"
"""Key of a file's metadata, in JSON: a list of the bands that a model takes, or an object of such
lists by modality, in the model's order. It is one key because safetensors writes several in any
order, and equal runs write equal files."""

FLOATING_POINT = frozenset({"F64", "F32", "F16", "BF16"})
"""safetensors' names of the types that weights can be read from."""

STATE_KEYS = (
    *("state_dict", "model_state_dict", "model", "teacher", "student"),
    *("model_ema", "state_dict_ema", "network", "net", "weights", "params"),
)
"""Keys of checkpoints that hold a model's entries, in the order in which they are looked for."""


SHARD = re.compile(r"-\d{5}-of-(?!00001)(\d{5})\.")
"""What the names of the files have in which a large model is saved."""


@dataclass(frozen=True)
class Entry:
    """Shape and type (safetensors' name of it, such as ``F32``) of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str


class WeightFile:
    """A safetensors file: names, shapes and types at once, values when they are asked for.

    Raises
    ------
    SettingError
        The file is missing, cannot be read, or is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if part := SHARD.search(path.name):
            raise SettingError(
                f"weights {path} are one of {int(part[1])} files of a model: join them with `rsdgc "
                "weights convert` of the .index.json beside it"
            )
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise SettingError(f"weights {path} cannot be read (it is not a file)")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118
                #: entries by name, in the order of the file
                self.entries = {
                    name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in slices
                }
        except (SafetensorError, UnicodeError):
            raise SettingError(
                f"{path} is not a safetensors file, or is damaged: copy it again, or convert a "
                "PyTorch checkpoint with `rsdgc weights convert`"
            ) from None
        except OSError as error:
            reason = "it does not exist" if not path.exists() else error.strerror or error
            raise SettingError(
                f"weights {path} cannot be read ({reason}): name the file where it is"
            ) from None
        #: bands by modality, which is empty where the file does not name it; none if it names none
        self.bands = _parse_bands(metadata.get(BANDS, ""))

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Read entries as float32, one after the other.

        Raises
        ------
        SettingError
            An entry holds NaN or infinity, in float32.
        """
        with safe_open(self.path, "pt") as file:
            for name in names:
                try:
                    tensor: Tensor = file.get_tensor(name).to(torch.float32)
                except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
                    reason = plain_line(str(error))
                    raise SettingError(
                        f"{name} in {self.path} cannot be read ({reason}): choose other weights"
                    ) from None
                if not bool(torch.isfinite(tensor).all()):
                    raise SettingError(
                        f"{name} in {self.path} holds NaN or infinity: choose other weights"
                    )
                yield name, tensor


def convert_checkpoint(source: Path, target: Path, key: str = "") -> int:
    """Convert a PyTorch checkpoint to safetensors; return the number of tensors.

    The source may also be the index (``.index.json``) of a model that is saved in several files.

    The file is read by ``torch.load(weights_only=True)``, which runs no code of the file. What it
    holds beside tensors is left out (:mod:`fl_app.models.checkpoint_objects`). The model's entries
    may be nested under a key such as ``state_dict``, or be those of a network that was saved whole.

    Parameters
    ----------
    key : str
        Where the entries are, such as ``teacher`` or ``models.encoder``; empty: where one of
        :data:`STATE_KEYS` leads.

    Raises
    ------
    SettingError
        The checkpoint cannot be read without running its code, or no tensors are there; or the
        target is the checkpoint itself.
    """
    # A checkpoint often holds more than the model, such as the optimizer, to train on from.
    if target.resolve() == source.resolve():
        raise SettingError(f"{target} would be replaced by its own weights: name another target")
    if source.suffix == ".json":
        content: object = _read_shards(source)
    else:
        content = _read(source)
    tensors = _find_tensors(content, key, source)
    try:
        write_tensors(target, {name: _dense(tensor) for name, tensor in tensors.items()})
    except OSError as error:
        raise SettingError(f"{target} cannot be written ({error.strerror or error})") from None
    except Exception as error:  # safetensors and PyTorch fail on odd tensors in many ways
        raise SettingError(
            f"{source} has tensors that safetensors cannot hold ({_reason(error)}): name the "
            "model's with --key, or save them as float32"
        ) from None
    return len(tensors)


def _read(source: Path) -> object:
    """Return the content of a checkpoint; raise :class:`SettingError` if it cannot be read."""
    try:
        if source.suffix == ".safetensors":  # a shard, as a rule
            return load_file(source)
        return load_tensors(source)
    except OSError as error:
        raise SettingError(f"{source} cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError:
        raise SettingError(
            f"{source} is not a checkpoint of tensors alone: it would run code when it is loaded, "
            "or is damaged. Save its state_dict() or a safetensors file where you trust it"
        ) from None
    # PyTorch fails on a damaged file in as many ways as there are damages.
    except Exception as error:
        if "TorchScript" in str(error):
            raise SettingError(
                f"{source} is a program of torch.jit: save the state_dict() of what "
                "torch.jit.load returns"
            ) from None
        raise SettingError(
            f"{source} is not a PyTorch checkpoint, or is damaged ({_reason(error)}): copy it again"
        ) from None


def _read_shards(index: Path) -> dict[str, object]:
    """Return the entries of all files that an index names, as large models are saved.

    Raises :class:`SettingError` if it is not an index, or a file or an entry is missing.
    """
    try:
        content = parse_json(read_text(index))
        names = content["weight_map"]
        files = {Path(index.parent, file) for file in names.values()}
        if not files or any(file.parent != index.parent for file in files):
            raise ValueError
    except OSError as error:
        raise SettingError(f"{index} cannot be read ({error.strerror or error})") from None
    except (DocumentError, ValueError, TypeError, KeyError, AttributeError):
        raise SettingError(
            f"{index} is not an index of a model's files beside it: name the .index.json that "
            "came with them, or a checkpoint"
        ) from None
    entries: dict[str, object] = {}
    for file in sorted(files):
        part = _read(file)
        entries |= part if isinstance(part, Mapping) else {}
    missing = [name for name in names if name not in entries]
    if missing:
        file = Path(index.parent, names[missing[0]])
        raise SettingError(f"{file} has no '{missing[0]}', which {index} names: copy both again")
    return entries


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Replace a safetensors file; raise :class:`OSError` if it cannot be written."""
    contiguous: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory, as tied weights do.
        contiguous[name] = (tensor.clone() if storage in storages else tensor).contiguous()
        storages.add(storage)

    def write(draft: Path) -> None:
        save_file(contiguous, draft, metadata)
        draft.chmod(0o644)  # safetensors lets only the owner read what it writes

    replace_file(path, write)


def _dense(tensor: Tensor) -> Tensor:
    """Return the values of a sparse or quantized tensor as a plain one."""
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _reason(error: Exception) -> str:
    line = plain_line((str(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _find_tensors(content: object, key: str, source: Path) -> dict[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise SettingError(f"{source} has no key '{key}'{_keys(content)}")
        content = content[part]
    while isinstance(content, Mapping):
        if whole := module_tensors(content):
            content = whole
        # Clones, because safetensors refuses tensors that share memory, as tied weights do.
        tensors = {
            str(name): value.detach().clone()
            for name, value in content.items()
            if isinstance(value, Tensor)
        }
        nested = next((name for name in STATE_KEYS if _is_mapping_at(content, name)), None)
        if nested is None or key:
            if tensors:
                return tensors
            break
        content = content[nested]
    raise SettingError(
        f"{source} holds no model's tensors: name their place with --key{_keys(content)}"
    )


def _is_mapping_at(content: Mapping[str, object], name: str) -> bool:
    return isinstance(content.get(name), Mapping)


def _keys(content: object) -> str:
    """Return the first keys of a mapping, for a message."""
    if not isinstance(content, Mapping) or not content:
        return ""
    return f"; it has {', '.join(str(name) for name in list(content)[:8])}"


def bands_metadata(modalities: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the metadata that name the bands of each modality, in the order of the model."""
    bands = {name: list(names) for name, names in modalities.items()}
    (only, *more) = bands.values()
    return {BANDS: json.dumps(bands if more else only)}


def _parse_bands(text: str) -> dict[str, tuple[str, ...]]:
    """Return the bands that a file's metadata name; none if they do not name them."""
    try:
        bands = parse_json(text or "[]")
    except DocumentError:
        return {}
    if isinstance(bands, list):
        bands = {"": bands}
    elif not isinstance(bands, dict) or not all(bands):
        return {}
    if not all(isinstance(names, list) for names in bands.values()):
        return {}
    return {modality: tuple(map(str, names)) for modality, names in bands.items() if names}
