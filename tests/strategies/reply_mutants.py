"""Replies with one fault, made of valid ones: bytes, heads, names, numbers and the tree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from flwr.proto.message_pb2 import ObjectTree

from tests.flower_link import DIVIDER, Objects

Rng = np.random.Generator
KINDS = ("Message", "RecordDict", "ArrayRecord", "MetricRecord", "Array", "ArrayChunk")
BODIES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"1e999",
    b'{"a": 1}',
    b'{"a": []}',
    b'"\xff\xfe"',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"packed": "' + b"0" * 64 + b'"}',
    b'{"\\ud800": "' + b"f" * 64 + b'"}',
    b'{"dtype": "uint8"}',
)
ARRAY_FIELDS = {
    "dtype": ("", "object", "O", 7, None, "float999", ["f4"]),
    "shape": ("", [2**63], [-1], 7, None, [[1]], ["1"], [1.5], [True], [1] * 1000),
    "stype": ("", "torch.Tensor", 7, None),
    "arraychunk_ids": (
        *([], [1], [-1], [2**63], [0.0], [True], ["0"], None, 7, {"0": 0}),
        *([0] * 2000, [[0]], [None]),
    ),
}


def mutant(rng: Rng, objects: Objects) -> Objects:
    """Return a reply with one of the faults."""
    faults: tuple[Callable[[Rng, Objects], Objects], ...] = (
        changed_bytes,
        changed_bytes,
        cut_or_longer,
        other_body,
        other_array,
        other_kind,
        other_children,
        other_root,
        other_names,
        other_tree,
    )
    return faults[rng.integers(len(faults))](rng, objects)


def pick(rng: Rng, objects: Objects) -> str:
    ids = list(objects.contents)
    return ids[rng.integers(len(ids))]


def changed_bytes(rng: Rng, objects: Objects) -> Objects:
    """Change one to four bytes of a body."""
    target = pick(rng, objects)
    body = bytearray(objects.body(target))
    for _ in range(rng.integers(1, 5) if body else 0):
        body[rng.integers(len(body))] = rng.integers(256)
    return objects.with_body(target, bytes(body))


def cut_or_longer(rng: Rng, objects: Objects) -> Objects:
    target = pick(rng, objects)
    body = objects.body(target)
    cut = body[: rng.integers(len(body) + 1)]
    return objects.with_body(target, cut if rng.random() < 0.5 else body + rng.bytes(9))


def other_body(rng: Rng, objects: Objects) -> Objects:
    return objects.with_body(pick(rng, objects), BODIES[rng.integers(len(BODIES))])


def other_array(rng: Rng, objects: Objects) -> Objects:
    """Change or omit a field of an array."""
    arrays = objects.ids("Array")
    if not arrays:
        return changed_bytes(rng, objects)
    target = arrays[rng.integers(len(arrays))]
    fields = json.loads(objects.body(target))
    name = list(ARRAY_FIELDS)[rng.integers(len(ARRAY_FIELDS))]
    values = ARRAY_FIELDS[name]
    if rng.random() < 0.2:
        del fields[name]
    else:
        fields[name] = values[rng.integers(len(values))]
    return objects.with_body(target, json.dumps(fields).encode())


def other_kind(rng: Rng, objects: Objects) -> Objects:
    target = pick(rng, objects)
    head, _, body = objects.contents[target].partition(DIVIDER)
    _, _, rest = head.partition(b" ")
    kind = KINDS[rng.integers(len(KINDS))].encode()
    return objects.with_content(target, kind + b" " + rest + DIVIDER + body)


def other_children(rng: Rng, objects: Objects) -> Objects:
    """Let a head name no child, an unknown one, an object of another level, or one twice."""
    target = pick(rng, objects)
    head, _, body = objects.contents[target].partition(DIVIDER)
    kind, children, length = head.split(b" ")
    # Objects are listed children first: an earlier one cannot hold this one.
    earlier = list(objects.contents)[: list(objects.contents).index(target) + 1]
    other = earlier[rng.integers(len(earlier))].replace(target, "1" * 64).encode()
    choices = (b"", b"0" * 64, other, children + b"," + children)
    children = choices[rng.integers(len(choices))]
    return objects.with_content(target, b" ".join((kind, children, length)) + DIVIDER + body)


def other_root(rng: Rng, objects: Objects) -> Objects:
    return replace(objects, root=pick(rng, objects))


def other_names(rng: Rng, objects: Objects) -> Objects:
    """Rename, omit or multiply the names of records or arrays."""
    holders = objects.ids("RecordDict") + objects.ids("ArrayRecord")
    if not holders:
        return changed_bytes(rng, objects)
    target = holders[rng.integers(len(holders))]
    names = json.loads(objects.body(target))
    choices = (
        {f"{name}x": child for name, child in names.items()},
        dict(list(names.items())[1:]),
        names | {f"{n}-{i}": child for n, child in names.items() for i in range(2000)},
        dict(zip(["x" * 100_000], names.values(), strict=False)),
        dict.fromkeys(names, "0" * 64),
    )
    body = json.dumps(choices[rng.integers(len(choices))]).encode()
    return objects.with_body(target, body)


def other_tree(rng: Rng, objects: Objects) -> Objects:
    """Declare other objects than the heads name: too many, too deep, or too few."""
    extra = (f"{number:064x}" for number in range(5000))
    root = ObjectTree(object_id=objects.root)
    if rng.random() < 0.3:
        root.children.extend(ObjectTree(object_id=each) for each in extra)
    elif rng.random() < 0.5:
        node = root
        for each in list(extra)[:50]:
            node = node.children.add(object_id=each)
    return replace(objects, tree=root)
