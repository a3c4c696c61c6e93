"""What a reply is made of, checked before Flower builds anything of it.

Flower sends a message as a tree of objects: the message, its ``RecordDict``, the records in it,
the arrays of a record, and the chunks of an array. An object names its children by their SHA-256,
and the SuperLink checks the hash and little else. The bodies of a ``RecordDict``, an
``ArrayRecord`` and an ``Array`` are JSON that names the same child as often as it likes, so that a
reply may expand to a multiple of what was sent. :func:`open_reply` follows these names, adds up
what the reply would expand to, and only then lets Flower inflate it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from rsdgc.errors import WireError

LEVELS = (
    ("Message",),
    ("RecordDict",),
    ("ArrayRecord", "MetricRecord", "ConfigRecord"),
    ("Array",),
    ("ArrayChunk",),
)
"""Types of the objects of a reply, by their depth in the tree."""

# Of one object: head, metadata, dtype and shape. What depends on its children comes on top: their
# hashes in the head, and in a JSON body together with their names.
OBJECT_BYTES = 4096
CHILD_BYTES = 512
# The objects of a reply that are neither arrays nor their chunks.
OTHER_OBJECTS = 64

MIB = 1024**2


class OversizedReplyError(WireError):
    """A reply has more objects or bytes than any valid one."""


@dataclass(frozen=True)
class ReplyLimits:
    """What no valid reply to a message exceeds.

    ``num_bytes`` limits the content of its arrays, as sent and as expanded; ``arrays`` is how many
    it may have. ``record_bytes`` limits the serialized numbers and texts: a byte of them may become
    forty in memory.
    """

    num_bytes: int = 16 * MIB
    arrays: int = 128
    record_bytes: int = 1 * MIB

    def less(self, used_bytes: int) -> ReplyLimits:
        """Return the limits of a second reply to the same message, after one of these bytes."""
        return replace(self, num_bytes=max(0, self.num_bytes - used_bytes))

    @property
    def objects(self) -> int:
        """Objects that a reply may have: each array has a chunk, and one more per 5 MiB."""
        return OTHER_OBJECTS + 2 * self.arrays + self.num_bytes // MIB

    @property
    def json_bytes(self) -> int:
        """Bytes of a body that names other objects. Equal arrays are one object of many names."""
        return OBJECT_BYTES + CHILD_BYTES * self.objects

    @property
    def sent_bytes(self) -> int:
        """Bytes of all objects, with their heads."""
        return self.num_bytes + self.record_bytes + self.objects * (OBJECT_BYTES + CHILD_BYTES)


SMALL_REPLY = ReplyLimits()
"""Limits of a reply without a model or an upload."""


def listed_objects(tree: ObjectTree, limits: ReplyLimits) -> list[str]:
    """Return the ids of a reply's objects, children first, each once.

    Raises
    ------
    OversizedReplyError
        There are more than the limits allow.
    WireError
        The tree is deeper than that of a message.
    """
    ids: dict[str, None] = {}
    level, listed = [tree], 0
    for _ in LEVELS:
        listed += len(level)
        if listed > limits.objects:
            raise OversizedReplyError(f"it has more than {limits.objects} objects")
        ids |= dict.fromkeys(node.object_id for node in level)
        level = [child for node in level for child in node.children]
    if level:
        raise WireError(f"its objects are nested more than {len(LEVELS)} deep")
    return list(reversed(ids))


def open_reply(root: str, contents: dict[str, bytes], limits: ReplyLimits) -> Message:
    """Inflate a reply from its objects, which are consumed.

    Parameters
    ----------
    root : str
        Id of the message's own object.
    contents : dict of str to bytes
        The objects by id, as :func:`listed_objects` lists them.
    limits : ReplyLimits
        What the reply may expand to.

    Raises
    ------
    OversizedReplyError
        The reply would expand to more than the limits allow.
    WireError
        The objects are not those of a message.
    """
    try:
        reply = _Objects(contents, limits).open(root)
    except WireError:
        raise
    # The parsers of JSON, protobuf and Flower raise whatever they come upon.
    except Exception as error:
        raise WireError(f"{type(error).__name__}: {error}") from None
    return reply


@dataclass(frozen=True)
class _Object:
    kind: str
    children: list[str]
    body: memoryview
    limits: ReplyLimits

    def names(self) -> dict[str, str]:
        """Return the ids of a record's children by name."""
        names = self._json()
        if not all(isinstance(child, str) for child in names.values()):
            raise WireError(f"the body of a {self.kind} does not name its children")
        if set(names.values()) != set(self.children):
            raise WireError(f"head and body of a {self.kind} name different children")
        return names

    def chunks(self) -> list[str]:
        """Return the ids of an array's chunks in their order."""
        indices = self._json().get("arraychunk_ids")
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise WireError("an array does not list its chunks")
        if any(not 0 <= index < len(self.children) for index in indices):
            raise WireError("an array has a chunk index that is out of range")
        return [self.children[index] for index in indices]

    def _json(self) -> dict[str, Any]:
        if len(self.body) > self.limits.json_bytes:
            raise OversizedReplyError(f"the body of a {self.kind} has {len(self.body)} bytes")
        fields = json.loads(bytes(self.body).decode())
        if not isinstance(fields, dict):
            raise WireError(f"the body of a {self.kind} is not a JSON object")
        return fields


class _Objects:
    """The objects of one reply, which are followed from the message down to the chunks."""

    def __init__(self, contents: dict[str, bytes], limits: ReplyLimits) -> None:
        self._contents = contents
        self._limits = limits
        self._sizes: dict[str, int] = {}  # of arrays, as expanded

    def open(self, root: str) -> Message:
        message = self._read(root, 0)
        # A message with an error has no child.
        for child in message.children[:1]:
            records = self._read(child, 1).names().items()
            self._check_sizes([(len(name), self._read(record, 2)) for name, record in records])
        if len(message.children) > 1:
            raise WireError(f"a message has {len(message.children)} contents")
        if len(message.body) > self._limits.record_bytes:
            raise OversizedReplyError(f"its error or metadata have {len(message.body)} bytes")
        reply = inflate_object_from_contents(root, self._contents)
        if not isinstance(reply, Message):
            raise WireError("its first object is not a message")
        return reply

    def _read(self, object_id: str, level: int) -> _Object:
        content = self._contents.get(object_id)
        if content is None:
            raise WireError("an object names a child that was not sent")
        end = content.find(HEAD_BODY_DIVIDER)
        if end < 0:
            raise WireError("an object has no head")
        kind, children, length = content[:end].decode().split(HEAD_VALUE_DIVIDER)
        if kind not in LEVELS[level]:
            raise WireError(f"an object is not a {' or '.join(LEVELS[level])}")
        body = memoryview(content)[end + len(HEAD_BODY_DIVIDER) :]
        if len(body) != int(length):
            raise WireError(f"a {kind} is not of the length that it states")
        return _Object(kind, children.split(",") if children else [], body, self._limits)

    def _check_sizes(self, records: list[tuple[int, _Object]]) -> None:
        """Add up records, with the lengths of their names; a name counts with all it leads to."""
        in_arrays = in_records = 0
        for name_bytes, record in records:
            if record.kind == "ArrayRecord":
                arrays = record.names().items()
                in_arrays += sum(len(name) + self._array_bytes(array) for name, array in arrays)
            else:
                in_records += len(record.body)
            in_records += name_bytes
        if in_arrays > self._limits.num_bytes:
            raise OversizedReplyError(f"its arrays expand to {in_arrays} bytes")
        if in_records > self._limits.record_bytes:
            raise OversizedReplyError(f"its metrics and texts have {in_records} bytes")

    def _array_bytes(self, object_id: str) -> int:
        if object_id not in self._sizes:
            chunks = self._read(object_id, 3).chunks()
            sizes = {chunk: len(self._read(chunk, 4).body) for chunk in set(chunks)}
            self._sizes[object_id] = sum(sizes[chunk] for chunk in chunks)
        return self._sizes[object_id]
