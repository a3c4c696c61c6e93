"""What the mod and the strategy wrapper say to each other, in records beside those of the app.

========  ====================  ================================================================
message   record                fields
========  ====================  ================================================================
train →   ``rsdgc`` (config)    ``accepted``: number of the node's last decoded upload, 0 for none
train ←   ``rsdgc`` (config)    ``upload``: number of this upload, from 1
train ←   the app's own arrays  one array, ``rsdgc``: the change (:mod:`rsdgc.model_change`) as
                                bytes, instead of the model
========  ====================  ================================================================

The other end removes them: the app's functions and its strategy see what they always saw.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from rsdgc.errors import WireError
from rsdgc.model_change import AnyArray

RECORD = "rsdgc"
ACCEPTED = "accepted"
UPLOAD = "upload"


def is_train(message: Message) -> bool:
    """Return whether a message is about training, with whatever action."""
    return message.metadata.message_type.partition(".")[0] == "train"


def to_arrays(record: ArrayRecord) -> dict[str, AnyArray]:
    """Return the arrays of a record by name."""
    return {name: array.numpy() for name, array in record.items()}


def to_record(arrays: Mapping[str, AnyArray]) -> ArrayRecord:
    """Return arrays as a record."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def pack(payload: bytes) -> ArrayRecord:
    """Return bytes as a record of one array."""
    return ArrayRecord({RECORD: Array(np.frombuffer(payload, np.uint8))})


def unpack(record: ArrayRecord) -> bytes:
    """Return the bytes of a record that :func:`pack` made.

    Raises
    ------
    WireError
        It is not such a record.
    """
    if list(record) != [RECORD]:
        raise WireError(f"arrays {list(record)[:3]} arrived instead of one upload")
    try:
        array = record[RECORD].numpy()
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise WireError(f"the upload's array cannot be read: {error}") from None
    if array.dtype != np.uint8 or array.ndim != 1:
        raise WireError(f"the upload is {array.dtype} {array.shape}, not bytes")
    return array.tobytes()
