"""Mutants of bytes, of JSON values and of tables: what a valid file becomes by a few changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa

Rng = np.random.Generator

NUMBERS = (0, 1, 127, 128, 254, 255)
#: What a field may hold instead of its value.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "x", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", "\ud800", "\x1b[2J", "a\nb"),
    *("\u202e", "x" * 500, "1", "nan", "object", "uint8", "float32"),
    *([], {}, [[]], [None], [0], [-1], ["x"], {"": 0}, {"x": {}}, [1] * 300),
)


def changed_bytes(rng: Rng, data: bytes) -> bytes:
    """Change, flip, remove, insert, repeat or cut some bytes."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not result:
            return rng.bytes(int(rng.integers(20)))
        at, length = int(rng.integers(len(result))), int(rng.integers(1, 9))
        match rng.integers(8):
            case 0 | 1:
                result[at] = int(rng.choice(NUMBERS))
            case 2:
                result[at] = int(rng.integers(256))
            case 3:
                result[at] ^= 1 << int(rng.integers(8))
            case 4:
                del result[at : at + length]
            case 5:
                result[at:at] = rng.bytes(length)
            case 6:
                result[at:at] = result[at : at + int(rng.integers(1, 65))]
            case _:
                if rng.random() < 0.1:
                    del result[at:]
                else:
                    result[at : at + 8] = int(rng.choice([0, 1, 2**31, 2**63 - 1])).to_bytes(
                        8, "little"
                    )
    return bytes(result)


def changed_json(rng: Rng, values: Any) -> Any:
    """Replace, remove, add, nest or swap some of nested values."""
    changed = deepcopy(values)
    for _ in range(rng.integers(1, 4)):
        holder, key = _place(rng, changed)
        if holder is None:
            return nasty(rng)
        _change_one(rng, holder, key)
    return changed


def _change_one(rng: Rng, holder: Any, key: Any) -> None:
    match rng.integers(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(nasty(rng))] = holder.pop(key)
        case 1 | 2:
            copy = deepcopy(holder[key])
            if isinstance(holder, dict):
                holder[f"{key}2"] = copy
            else:
                holder.append(copy)
        case 3:
            for _ in range(int(rng.choice([1, 100]))):
                holder[key] = [holder[key]]
        case 4 if isinstance(holder[key], int | float):
            holder[key] = holder[key] + pick(rng, (-1, 1, 0.5, -2 * holder[key]))
        case 5 if isinstance(holder[key], str):
            holder[key] += str(nasty(rng))
        case _:
            holder[key] = nasty(rng)


def _place(rng: Rng, values: Any) -> tuple[Any, Any]:
    """Return a container in nested values, and a key of it; None where there is none."""
    holder, key = None, None
    while isinstance(values, dict | list) and values:
        holder = values
        key = (
            pick(rng, list(values)) if isinstance(values, dict) else int(rng.integers(len(values)))
        )
        values = holder[key]
        if rng.random() < 0.25:
            break
    return holder, key


def json_mutant(rng: Rng, seed: bytes) -> bytes:
    """Change the bytes of a JSON text, or its values."""
    if rng.random() < 0.3:
        return changed_bytes(rng, seed)
    return json.dumps(changed_json(rng, json.loads(seed))).encode()


def lines_mutant(rng: Rng, seed: bytes) -> bytes:
    """Change a line of a file with a JSON object a line."""
    lines = seed.splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = json_mutant(rng, lines[at])
    return b"\n".join(lines)


def changed_table(rng: Rng, table: pa.Table) -> pa.Table:
    """Change a column of a table: its values, its type, its name; or leave it out."""
    at = int(rng.integers(table.num_columns))
    name, values = table.column_names[at], table.column(at).to_pylist()
    changes: tuple[Callable[[], pa.Table], ...] = (
        lambda: table.remove_column(at),
        lambda: table.append_column(pick(rng, table.column_names), table.column(at)),
        lambda: table.slice(0, int(rng.integers(table.num_rows))),
        lambda: pa.concat_tables([table, table.slice(0, int(rng.integers(1, 9)))]),
        lambda: table.set_column(at, name, pa.array([pick(rng, VALUES[:3])] * len(values))),
    )
    if rng.random() < 0.3:
        return pick(rng, changes)()
    for _ in range(rng.integers(1, 3)):
        values[int(rng.integers(len(values)))] = pick(rng, (values[0], values[-1], *VALUES))
    try:
        return table.set_column(at, name, pa.array(values, type=table.schema.field(at).type))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        texts = pa.array([ascii(value) for value in values])  # of another type, then
        return table.set_column(at, name, texts)


def pick(rng: Rng, choices: Any) -> Any:
    """Return one of a sequence, whatever its elements are."""
    return choices[int(rng.integers(len(choices)))]


def nasty(rng: Rng) -> Any:
    """Return a copy of one of :data:`VALUES`."""
    return deepcopy(pick(rng, VALUES))
