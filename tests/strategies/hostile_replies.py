"""Hostile replies by the hundred: every part of an honest reply, spoilt in every way of its kind.

A case changes the content of an honest reply. :func:`through_flower` then takes it through the
objects that Flower sends, so that it arrives as a peer's would.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from strategies import messages
from strategies.transport import chunk_upload
from tests.rsdgc.forge import CHECKSUM_AT, HEADER, LAYOUT, sealed

Change = Callable[[RecordDict], RecordDict | Error | None]

INVALID_UPLOAD, UNEXPECTED, MALFORMED, INCOMPLETE, CONTRADICTORY, WEIGHT = (
    *("not a valid upload", "unexpected content", "malformed report", "incomplete report"),
    *("contradictory scores", "num-examples out of range"),
)
UGLY = "\x1b[2J\x07\r\nINFO : round 1/1 | accuracy 1.000\u202e\u200b" + "x" * 2000
"""A name that drives a terminal, forges a line of the log, reverses text and is long."""


@dataclass(frozen=True)
class Case:
    """A hostile reply: its name, the reason for which it is refused, how it is made."""

    name: str
    reason: str
    change: Change


@dataclass(frozen=True)
class Deflated:
    """The objects by which Flower sends something, by id, and the id of the outermost."""

    root: str
    contents: Mapping[str, bytes]


def deflate(thing: Message | RecordDict) -> Deflated:
    """Return the objects of a message or of its content."""
    nested = get_all_nested_objects(thing)
    contents = {object_id: nested[object_id].deflate() for object_id in nested}
    return Deflated(thing.object_id, contents)


def inflate(sent: Deflated) -> Any:
    """Return what arrives of objects that were sent."""
    return inflate_object_from_contents(sent.root, dict(sent.contents))


def through_flower(message: Message) -> Message:
    """Return a message as it arrives: taken apart into Flower's objects, and put together again."""
    arrived = inflate(deflate(message))
    assert isinstance(arrived, Message)
    return arrived


def hostile(message: Message, reply: Message, case: Case) -> Message:
    """Return the reply that a case makes of an honest one."""
    made = case.change(reply.content)
    if isinstance(made, Error):
        return Message(made, reply_to=message)
    return Message(reply.content if made is None else made, reply_to=message)


# ---- figures ----------------------------------------------------------------------------------

_NO_NUMBERS = {
    "a list": [1],
    "an empty list": [],
    "a list of floats": [0.5, 0.5],
    "a long list": list(range(1000)),
}
_NO_COUNTS: dict[str, Any] = {
    **_NO_NUMBERS,
    "negative": -1,
    "very negative": -(2**62),
    "NaN": math.nan,
    "infinite": math.inf,
    "a float": 1.0,
    "a fraction": 0.5,
    "1e18": 10**18,
    "2^63": 2**63,
    "2^64 - 1": 2**64 - 1,
}
_NO_SECONDS: dict[str, Any] = {
    **_NO_NUMBERS,
    "a number": 1.5,
    "a negative part": messages.pack_seconds([0.0, -1e-9, 0.0, 0.0]),
    "a negative last part": messages.pack_seconds([0.0, 0.0, 0.0, -1.0]),
    "negative and infinite": messages.pack_seconds([-math.inf, 0.0, 0.0, 0.0]),
    "NaN": messages.pack_seconds([math.nan, 0.0, 0.0, 0.0]),
    "NaN for all": math.nan,
    "infinite": messages.pack_seconds([0.0, 0.0, math.inf, 0.0]),
    "a century": messages.pack_seconds([0.0, 3e9, 0.0, 0.0]),
    "2^64 - 1": 2**64 - 1,
}
_NO_LOSSES: dict[str, Any] = {
    **_NO_NUMBERS,
    "negative": -5.0,
    "negative and infinite": -math.inf,
    "a negative count": -3,
}
_NO_LISTS: dict[str, Any] = {
    "a number": 6,
    "empty": [],
    "one too few": [2, 2],
    "one too many": [2, 2, 2, 0],
    "twenty thousand": [0] * 20_000,
    "floats": [2.0, 2.0, 2.0],
    "NaN": [math.nan] * 3,
    "negative": [4, 4, -2],
    "2^40": [2**40, 0, 0],
    "2^62, whose sum wraps": [2**62, 2**62, 2**62],
    "2^64 - 1": [2**64 - 1, 0, 0],
}


def set_figure(key: str, value: object) -> Change:
    """Return a change that sets a figure of the report, or takes it away if it is None."""

    def change(content: RecordDict) -> None:
        metrics = content.metric_records[messages.METRICS]
        if value is None:
            del metrics[key]
        else:
            metrics[key] = value  # type: ignore[assignment]

    return change


def set_all(figures: Mapping[str, object]) -> Change:
    """Return a change that sets several figures."""

    def change(content: RecordDict) -> None:
        for key, value in figures.items():
            set_figure(key, value)(content)

    return change


def figure_cases(
    wrong: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str] = {}
) -> Iterator[Case]:
    """Yield every figure with every wrong value of its kind, and each figure's absence."""
    for key, values in wrong.items():
        reason = reasons.get(key, MALFORMED)
        for name, value in values.items():
            yield Case(f"{key}: {name}", reason, set_figure(key, value))
        yield Case(f"{key}: absent", INCOMPLETE, set_figure(key, None))


def count_cases(keys: tuple[str, ...], samples: int) -> Iterator[Case]:
    """Yield counts of three classes that no confusion matrix of so many samples has."""
    contradictory = {
        "more than the site has": ([samples, 1, 0], [samples, 1, 0], [samples, 1, 0]),
        "62,500,000 right": ([62_500_000, 0, 0],) * 3,
        "more right than there are": ([2, 2, 0], [2, 2, 0], [3, 1, 0]),
        "more right than predicted": ([2, 2, 0], [1, 3, 0], [2, 2, 0]),
        "fewer predictions than samples": ([2, 2, 0], [1, 1, 0], [1, 1, 0]),
        "more predictions than samples": ([1, 1, 0], [2, 2, 0], [1, 1, 0]),
        "an error without another class": ([4, 0, 0], [4, 0, 0], [3, 0, 0]),
        "errors that do not match": ([2, 1, 0], [3, 0, 0], [0, 0, 0]),
    }
    for name, counts in contradictory.items():
        figures = dict(zip(keys, counts, strict=True))
        yield Case(f"{keys[0]} …: {name}", CONTRADICTORY, set_all(figures))


# ---- records and names ------------------------------------------------------------------------


def _bytes_record() -> ArrayRecord:
    return ArrayRecord({"x": Array(np.zeros(3, np.uint8))})


RECORDS: dict[str, Callable[[], Any]] = {
    "arrays": _bytes_record,
    "metrics": lambda: MetricRecord({"x": 1}),
    "config": lambda: ConfigRecord({"x": "y"}),
    "config of empty values": lambda: ConfigRecord({"a": "", "b": b"", "c": []}),
    "empty arrays": ArrayRecord,
    "empty metrics": MetricRecord,
}
_NAMES = ("more", "task", "site", "model", "", UGLY)


def set_record(name: str, make: Callable[[], Any]) -> Change:
    """Return a change that sets a record, whatever stands there."""

    def change(content: RecordDict) -> RecordDict:
        others = {key: record for key, record in content.items() if key != name}
        return RecordDict({**others, name: make()})

    return change


def without_record(name: str) -> Change:
    return lambda content: RecordDict({k: v for k, v in content.items() if k != name})


def record_cases(expected: Mapping[str, type], figure: str) -> Iterator[Case]:
    """Yield records and figures that are not expected, and those that are, of another kind."""
    for kind, make in RECORDS.items():
        for name in _NAMES:
            yield Case(f"record {name!r:.12}: {kind}", UNEXPECTED, set_record(name, make))
        for name, right in expected.items():
            if not isinstance(make(), right):
                yield Case(f"record '{name}' as {kind}", UNEXPECTED, set_record(name, make))
    for name in ("more", "accuracy", figure, "val-accuracy", "", UGLY):
        yield Case(f"a figure {name!r:.12}", UNEXPECTED, set_figure(name, 1))
    empty = RecordDict()
    yield Case("no records", INCOMPLETE, lambda _: empty)
    yield Case("no report", INCOMPLETE, without_record(messages.METRICS))
    for request in (messages.RESYNC, messages.FROZEN):
        yield Case(f"'{request}' beside the rest", INCOMPLETE, set_figure(request, 1))


def error_cases() -> Iterator[Case]:
    """Yield errors, of texts that are empty, long, nested or made for a terminal."""
    texts = {
        "none": "",
        "ugly": UGLY,
        "long": "out of memory " * 10_000,
        "of lines": "a\n" * 1000,
        "of a wrapped error": f"<class 'rsdgc.errors.DataError'>:<'{UGLY}'>",
        "of wrappings": "<class 'X'>:<'" * 10_000,
        "half a pair": "\\ud800",
    }
    for name, text in texts.items():
        for code in (0, 1, 255):
            error = Error(code, text)
            yield Case(f"error {code}, text {name}", "error at the site", lambda _, e=error: e)


# ---- arrays -----------------------------------------------------------------------------------


def saved(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def archive(values: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, values)
    return file.getvalue()


def _header(data: bytes, text: str) -> bytes:
    """Return an array's file with another header; the values stay."""
    body = text.encode("latin-1")
    body += b" " * (-(len(body) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body + data[128:]


def _text(shape: str, descr: str) -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def spoilt_arrays(array: Array) -> Iterator[tuple[str, Array]]:
    """Yield arrays that stand in the place of an honest one, most with its description."""
    values = array.numpy()
    descr = values.dtype.str
    others: dict[str, Any] = {
        "0-d": values.reshape(-1)[0],
        "a leading one": values[None],
        "a trailing one": values[..., None],
        "one row": values[:1],
        "one too many": np.concatenate([values, values[:1]]),
        "none": values[:0],
        "float64": values.astype(np.float64),
        "float64 1e300": np.full(values.shape, 1e300),
        "float16": values.astype(np.float16),
        "int64": values.astype(np.int64),
        "int8": values.astype(np.int8),
        "booleans": values.astype(np.bool_),
        "complex": values.astype(np.complex64),
        "text": np.full(values.shape, "x"),
        "times": np.zeros(values.shape, "datetime64[s]"),
        "big-endian": values.astype(">u2" if descr == "|u1" else ">f4"),
        "records": np.zeros(values.shape, [("a", descr)]),
    }
    for name, other in others.items():
        made = Array(np.asarray(other))
        yield name, made
        yield f"{name}, said to be right", replace(made, shape=array.shape, dtype=array.dtype)
    data = array.data
    files = {
        "nothing": b"",
        "the magic alone": data[:6],
        "a header that is cut": data[:60],
        "no values": data[:128],
        "a byte too few": data[:-1],
        "a byte too many": data + b"\0",
        "twice": data + data,
        "an archive": archive(values),
        "an archive's end": b"PK\x05\x06" + bytes(18),
        "half an archive": archive(values)[:60],
        "a pickle": saved(np.array([{}]), allow_pickle=True),
        "a bare pickle": b"\x80\x04K\x01.",
        "version 2": b"\x93NUMPY\x02\x00" + data[8:],
        "version 255": b"\x93NUMPY\xff\xff" + data[8:],
        "a header of 64 kB": data[:8] + b"\xff\xff" + data[10:],
        "a header of spaces": data[:10] + b" " * 118 + data[128:],
        "2^45 values": _header(data, _text(f"({2**45},)", descr)),
        "2^64 values": _header(data, _text(f"({2**64},)", descr)),
        "a product that wraps": _header(data, _text(f"({2**32}, {2**32})", descr)),
        "a negative shape": _header(data, _text("(-1,)", descr)),
        "a shape of words": _header(data, _text("('x',)", descr)),
        "nested parentheses": _header(data, _text("(" * 200 + ")" * 200, descr)),
        "an open bracket": _header(data, _text("(" * 200, descr)),
        "another descr": _header(data, _text(str(values.shape), "|O")),
        "a descr of half a megabyte": _header(data, _text(str(values.shape), "x" * 60_000)),
        "column order": data.replace(b"'fortran_order': False", b"'fortran_order': True "),
    }
    for name, file in files.items():
        yield f"file: {name}", replace(array, data=file)
    described: dict[str, dict[str, Any]] = {
        "torch": {"stype": "torch.Tensor"},
        "ugly serialization": {"stype": UGLY},
        "no serialization": {"stype": ""},
        "float64": {"dtype": "float64"},
        "ugly dtype": {"dtype": UGLY},
        "flat": {"shape": (values.size + 1,)},
        "0-d": {"shape": ()},
        "2^70": {"shape": (2**70,)},
        "negative": {"shape": (-1,)},
        "a thousand dimensions": {"shape": (1,) * 1000},
    }
    for name, fields in described.items():
        yield f"said to be {name}", replace(array, **fields)


def set_array(record: str, name: str, array: Array) -> Change:
    """Return a change that puts an array into a record."""

    def change(content: RecordDict) -> None:
        content.array_records[record][name] = array

    return change


def array_cases(record: str, name: str, example: Array, reason: str) -> Iterator[Case]:
    """Yield every spoilt array in the place of an honest one."""
    for kind, array in spoilt_arrays(example):
        yield Case(f"{record}/{name}: {kind}", reason, set_array(record, name, array))


def array_name_cases(record: str, reason: str) -> Iterator[Case]:
    """Yield records whose arrays have other names, or are more or fewer."""

    def renamed(name: str) -> Change:
        def change(content: RecordDict) -> None:
            arrays = content.array_records[record]
            first = next(iter(arrays))
            arrays[name] = arrays[first]
            del arrays[first]

        return change

    def added(names: list[str]) -> Change:
        def change(content: RecordDict) -> None:
            arrays = content.array_records[record]
            for name in names:
                arrays[name] = Array(np.zeros(1, np.uint8))

        return change

    def emptied(content: RecordDict) -> None:
        content.array_records[record].clear()

    for name in ("x", "packed-0001", "packed-9999", "", UGLY):
        yield Case(f"{record}: renamed {name!r:.12}", reason, renamed(name))
        yield Case(f"{record}: and {name!r:.12}", reason, added([name]))
    many = [f"packed-{number:04}" for number in range(300)]
    yield Case(f"{record}: 300 arrays", reason, added(many))
    yield Case(f"{record}: emptied", reason, emptied)


def packed_cases(record: str, reason: str) -> Iterator[Case]:
    """Yield packed bytes that are not those of an encoded update or of statistics."""

    def packed(spoil: Callable[[bytes], bytes]) -> Change:
        def change(content: RecordDict) -> None:
            payload = content.array_records[record][messages.PACKED].numpy().tobytes()
            content[record] = chunk_upload(spoil(payload))

        return change

    spoils: dict[str, Callable[[bytes], bytes]] = {
        "nothing": lambda _: b"",
        "zeros": lambda p: bytes(len(p)),
        "ones": lambda p: b"\xff" * len(p),
        "half of it": lambda p: p[: len(p) // 2],
        "a byte too few": lambda p: p[:-1],
        "a byte too many": lambda p: p + b"\0",
        "twice": lambda p: p + p,
        "30 kB more": lambda p: p + bytes(30_000),
        "another magic": lambda p: b"RSDX" + p[4:],
        "text": lambda _: UGLY.encode(),
    }
    for name, spoil in spoils.items():
        yield Case(f"{record}: {name}", reason, packed(spoil))


def upload_cases() -> Iterator[Case]:
    """Yield encoded uploads with other fields in their header, under a checksum that fits."""

    def rewritten(field: str, value: object) -> Change:
        def change(content: RecordDict) -> None:
            payload = content.array_records[messages.UPDATE][messages.PACKED].numpy().tobytes()
            fields = dict(zip(HEADER, LAYOUT.unpack_from(payload), strict=True))
            fields[field] = value
            head = LAYOUT.pack(*fields.values())
            content[messages.UPDATE] = chunk_upload(sealed(head + payload[CHECKSUM_AT:]))

        return change

    reasons = {
        "run": "from another run",
        "round": "from another round",
        "base": "from another version",
    }
    for field, code in HEADER.items():
        largest: Any = b"\xff" * 8 if "s" in code else 2 ** (8 * struct.calcsize("<" + code)) - 1
        values = [largest] if "s" in code else [largest, largest // 2, 99]
        for value in values:
            reason = reasons.get(field, INVALID_UPLOAD)
            yield Case(f"upload: {field} is {value!r}", reason, rewritten(field, value))


def value_cases(layers: Mapping[str, tuple[int, ...]]) -> Iterator[Case]:
    """Yield whole models in which one value, or all of a layer, is not finite."""

    def spoilt(layer: str, index: int | slice, value: float) -> Change:
        def change(content: RecordDict) -> None:
            arrays = content.array_records[messages.UPDATE]
            values = arrays[layer].numpy().copy()
            values.reshape(-1)[index] = value
            arrays[layer] = Array(values)

        return change

    for layer in layers:
        for value in (math.nan, math.inf, -math.inf):
            for name, index in {"first": 0, "last": -1, "every": slice(None)}.items():
                yield Case(
                    f"{layer}: {name} is {value}", INVALID_UPLOAD, spoilt(layer, index, value)
                )


def train_cases(honest: RecordDict, *, dense: bool, samples: int, val: int) -> list[Case]:
    """Return the hostile replies to a round's task, given an honest one."""
    counts = dict.fromkeys((*messages.CLASS_COUNTS, *messages.VAL_CLASS_COUNTS), _NO_LISTS)
    wrong: dict[str, Mapping[str, Any]] = {
        messages.NUM_EXAMPLES: {**_NO_COUNTS, "none": 0, "one too many": 11},
        messages.TRAIN_LOSS: _NO_LOSSES,
        messages.SECONDS: _NO_SECONDS,
        messages.SCORE_LOSS: _NO_LOSSES,
        messages.VAL_LOSS: _NO_LOSSES,
        **counts,
    }
    expected = {
        messages.METRICS: MetricRecord,
        messages.UPDATE: ArrayRecord,
        messages.RUNNING: ArrayRecord,
    }
    if not dense:
        wrong[messages.VERSION] = {**_NO_COUNTS, "of a patch to come": 1}
    cases = [
        *figure_cases(wrong, {messages.NUM_EXAMPLES: WEIGHT}),
        *count_cases(messages.CLASS_COUNTS, samples),
        *count_cases(messages.VAL_CLASS_COUNTS, val),
        *record_cases(expected, messages.CONFUSION),
        *error_cases(),
        Case("no update", INVALID_UPLOAD, without_record(messages.UPDATE)),
        *array_name_cases(messages.UPDATE, INVALID_UPLOAD),
        *packed_cases(messages.RUNNING, "not valid running statistics"),
        *array_name_cases(messages.RUNNING, "not valid running statistics"),
    ]
    arrays = honest.array_records
    running = arrays[messages.RUNNING][messages.PACKED]
    cases += array_cases(messages.RUNNING, messages.PACKED, running, "not valid running statistics")
    for name, array in arrays[messages.UPDATE].items():
        cases += array_cases(messages.UPDATE, name, array, INVALID_UPLOAD)
    if dense:
        shapes = {name: tuple(a.shape) for name, a in arrays[messages.UPDATE].items()}
        cases += value_cases(shapes)
        cases.append(Case("an encoded update", INVALID_UPLOAD, _encoded_instead))
    else:
        cases += [*upload_cases(), *packed_cases(messages.UPDATE, INVALID_UPLOAD)]
        cases.append(Case("a whole model", INVALID_UPLOAD, _model_instead))
    return cases


def evaluate_cases(honest: RecordDict, *, val: int) -> list[Case]:
    """Return the hostile replies to the final evaluation, given an honest one."""
    matrices: dict[str, Any] = {
        **_NO_LISTS,
        "of two classes": [3, 0, 0, 3],
        "a huge class": [2**40, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    wrong = {
        messages.NUM_EXAMPLES: {**_NO_COUNTS, "one too many": 7},
        messages.SCORE_LOSS: _NO_LOSSES,
        messages.CONFUSION: matrices,
    }
    expected = {messages.METRICS: MetricRecord, messages.LOCAL: ArrayRecord}
    local = honest.array_records[messages.LOCAL][messages.PACKED]
    reason = "not valid local entries"
    return [
        *figure_cases(wrong),
        *count_cases(messages.VAL_CLASS_COUNTS, val),
        *record_cases(expected, messages.SECONDS),
        *error_cases(),
        *packed_cases(messages.LOCAL, reason),
        *array_name_cases(messages.LOCAL, reason),
        *array_cases(messages.LOCAL, messages.PACKED, local, reason),
        Case("more scored than said", CONTRADICTORY, set_figure(messages.CONFUSION, [3] + [0] * 8)),
        Case("fewer scored than said", CONTRADICTORY, set_figure(messages.NUM_EXAMPLES, 5)),
    ]


def _encoded_instead(content: RecordDict) -> None:
    content[messages.UPDATE] = chunk_upload(b"RSDG" + bytes(200))


def _model_instead(content: RecordDict) -> None:
    content[messages.UPDATE] = ArrayRecord({"conv.weight": Array(np.zeros((8, 4, 3, 3), "f4"))})
