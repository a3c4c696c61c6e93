"""The wire format read in the plainest way, bit by bit, so that tests can spoil one part of it.

:class:`Forge` takes an upload apart without the package's decoder, and joins the parts again with
lengths and checksum that fit. It is also the reference that the decoder is compared with.
"""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from rsdgc import ModelSpec, Scheme, Stamp, encode
from rsdgc.codec.header import HEADER_BYTES

SPEC = ModelSpec.from_shapes({"conv": (4, 2, 3, 3), "fc": (3, 41), "bias": (5,)})
"""8 kernel slices; 3 rows of four runs of nine and one of five; sent whole."""
KEPT = [np.array([1, 4, 6]), np.array([4, 14]), None]
BUDGET = {"rice": 106, "int32": 126}

HEADER = {
    "magic": "4s",
    "version": "B",
    "neighborhood": "B",
    "tile_px": "B",
    "values": "B",
    "dense_values": "B",
    "indices": "B",
    "run": "Q",
    "round": "I",
    "base": "I",
    "signature": "8s",
    "num_layers": "I",
    "unary": "I",
    "plain": "I",
}
LAYOUT = struct.Struct("<" + "".join(HEADER.values()))
CHECKSUM_AT = LAYOUT.size
KINDS = [
    ("kernel", "tile", "element"),
    ("float32", "float16", "int8", "ternary", "deadzone"),
    ("float32", "float16", "int8"),
    ("rice", "int32"),
]
"""The names of the codes 0, 1, 2 … of the header's fields."""


def update():
    """Return values of which the kept ones have levels of 0, 1, 2 and more."""
    return np.random.default_rng(3).standard_t(1.5, SPEC.size).astype(np.float32)


def valid(values="int8", dense_values="float16", indices="rice"):
    scheme = Scheme(values=values, dense_values=dense_values, indices=indices)
    return encode(SPEC, scheme, Stamp(7, 8, 9), update(), KEPT, BUDGET[indices]).payload


def sealed(data):
    """Return the data with the checksum that belongs to it."""
    if len(data) < HEADER_BYTES:
        return data
    rest = data[:CHECKSUM_AT] + data[HEADER_BYTES:]
    return data[:CHECKSUM_AT] + struct.pack("<I", zlib.crc32(rest)) + data[HEADER_BYTES:]


def packed(bits):
    """Return a text of zeros and ones as bytes, the first bit highest, zeros at the end."""
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


def leb128(number, num_bytes=None):
    """Return a count as it is written, in more bytes than it needs if asked."""
    digits = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    digits += [0] * ((num_bytes or 0) - len(digits))
    return bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:])


class Tape:
    """Bits or bytes that are taken off the front."""

    def __init__(self, items):
        self.items = items

    def take(self, count):
        assert count <= len(self.items), "the upload is not valid"
        taken, self.items = self.items[:count], self.items[count:]
        return taken

    def count(self):
        taken = self.take(1)
        while taken[-1] >= 0x80:
            taken += self.take(1)
        return sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(taken))


@dataclass
class Forge:
    """The parts of an upload, to be changed before they are joined.

    ``unary`` and ``plain`` hold the bits of each array in the two streams, ``ids`` plain ones,
    ``planes`` the (code, count) of each plane of each group, ``found`` what it all stands for.
    """

    header: dict
    codes: list
    counts: list = field(default_factory=list)
    unary: dict = field(default_factory=dict)
    plain: dict = field(default_factory=dict)
    ids: dict = field(default_factory=dict)
    quantizer: dict = field(default_factory=dict)
    planes: list = field(default_factory=list)
    body: dict = field(default_factory=dict)
    found: list = field(default_factory=list)

    @classmethod
    def of(cls, values="int8", dense_values="float16", indices="rice"):
        return cls.apart(valid(values, dense_values, indices), SPEC)

    @classmethod
    def apart(cls, data, spec):
        """Take a valid upload apart."""
        header = dict(zip(HEADER, LAYOUT.unpack_from(data), strict=True))
        grid, value_kind, dense_kind, index_kind = (
            kinds[header[name]]
            for kinds, name in zip(
                KINDS, ("neighborhood", "values", "dense_values", "indices"), strict=True
            )
        )
        rest = Tape(data[HEADER_BYTES:])
        forge = cls(header, list(rest.take(len(spec.layers))))
        grids = [Scheme(grid, header["tile_px"]).cut(layer.shape) for layer in spec.layers]
        counts = []
        for code, grid in zip(forge.codes, grids, strict=True):
            number = rest.count() if code < 254 else grid.count
            forge.counts += [leb128(number)] if code < 254 else []
            counts.append(number)
        streams = _Streams(forge, *(rest.take(header[name]) for name in ("unary", "plain")))
        ids = []
        for i, (code, count, grid) in enumerate(zip(forge.codes, counts, grids, strict=True)):
            if code >= 254:
                ids.append(list(range(grid.count)))
            elif index_kind == "rice":
                ids.append(_ids(streams.numbers(f"ids {i}", count, code)))
            else:
                forge.ids[i] = rest.take(4 * count)
                ids.append(list(struct.unpack(f"<{count}I", forge.ids[i])))
        index = [g.elements(np.array(some, np.int64)) for g, some in zip(grids, ids, strict=True)]
        sparse = [i for i, code in enumerate(forge.codes) if code < 255]
        values = {}
        if value_kind == "deadzone":
            values = forge._read_levels(rest, streams, {i: index[i].size for i in sparse})
        for i, code in enumerate(forge.codes):
            if i not in values:
                kind = value_kind if code < 255 else dense_kind
                values[i] = forge._read_values(rest, i, index[i].size, kind)
            forge.found.append((None if code == 255 else ids[i], index[i], values[i]))
        assert not rest.items
        assert set(streams.unary.items + streams.plain.items) <= {"0"}
        return forge

    def _read_levels(self, rest, streams, sizes):
        values, group = {}, []
        if any(sizes.values()):
            self.quantizer = {"step": rest.take(4), "offsets": rest.take(3)}
        for i in sizes:
            group.append(i)
            total = sum(sizes[j] for j in group)
            if total >= 1024 or (total and i == max(sizes)):
                levels = iter(self._read_group(rest, streams, total))
                values.update({j: np.array([next(levels) for _ in range(sizes[j])]) for j in group})
                group = []
        values.update({j: np.empty(0) for j in group})
        return values

    def _read_group(self, rest, streams, total):
        name, planes, members, magnitudes = len(self.planes), [], list(range(total)), [0] * total
        for plane in range(3):
            code = rest.take(1)[0]
            count = None if code == 255 else rest.count()
            planes.append((code, count))
            if count is None:
                flags = [bit == "1" for bit in streams.bits(f"plane {name}.{plane}", len(members))]
            else:
                gaps = streams.numbers(f"plane {name}.{plane}", count, code % 32)
                chosen = set(_ids(gaps))
                flags = [(i in chosen) == (code < 32) for i in range(len(members))]
            members = [i for i, flag in zip(members, flags, strict=True) if flag]
            for i in members:
                magnitudes[i] += 1
        planes.append((rest.take(1)[0], None))
        numbers = streams.numbers(f"large {name}", len(members), planes[-1][0])
        for i, number in zip(members, numbers, strict=True):
            magnitudes[i] += number
        outside = [i for i, magnitude in enumerate(magnitudes) if magnitude]
        signs = streams.bits(f"signs {name}", len(outside))
        (step,), offsets = (
            struct.unpack(layout, self.quantizer[part])
            for layout, part in (("<f", "step"), ("<3b", "offsets"))
        )
        values = [0.0] * total
        for i, sign in zip(outside, signs, strict=True):
            exact = step * (magnitudes[i] + offsets[min(magnitudes[i], 3) - 1] / 256)
            exact = min(exact, float(np.finfo(np.float32).max))
            values[i] = np.float32(-exact if sign == "1" else exact)
        self.planes.append(planes)
        return values

    def _read_values(self, rest, i, count, kind):
        if not count:
            return np.empty(0, np.float32)
        if kind.startswith("float"):
            self.body[f"{i} values"] = rest.take(count * (4 if kind == "float32" else 2))
            kind = "<f4" if kind == "float32" else "<f2"
            return np.frombuffer(self.body[f"{i} values"], kind).astype(np.float32)
        self.body[f"{i} scale"] = rest.take(4)
        scale = np.frombuffer(self.body[f"{i} scale"], "<f4")[0]
        self.body[f"{i} values"] = rest.take(count if kind == "int8" else -(-count // 8))
        if kind == "int8":
            return scale * np.frombuffer(self.body[f"{i} values"], np.int8).astype(np.float32)
        signs = "".join(f"{byte:08b}" for byte in self.body[f"{i} values"])[:count]
        return np.array([-scale if sign == "1" else scale for sign in signs])

    def pieces(self):
        """Return all sections in order, the header aside."""
        table = list(self.quantizer.values())
        for group in self.planes:
            for code, count in group:
                counted = leb128(count) if isinstance(count, int) else count
                table += [bytes([code]), counted or b""]
        return [
            bytes(self.codes),
            *self.counts,
            packed("".join(self.unary.values())),
            packed("".join(self.plain.values())),
            *self.ids.values(),
            *table,
            *self.body.values(),
        ]

    def build(self, **lengths):
        """Join the parts; the streams have their lengths, unless others are passed."""
        pieces = self.pieces()
        unary, plain = pieces[1 + len(self.counts) : 3 + len(self.counts)]
        fields = {**self.header, "unary": len(unary), "plain": len(plain), **lengths}
        return sealed(LAYOUT.pack(*fields.values()) + bytes(4) + b"".join(pieces))

    def ends(self):
        """Return where each piece after the header ends."""
        sizes = [len(piece) for piece in self.pieces()]
        return sorted(set(np.cumsum([HEADER_BYTES, *sizes]).tolist()))


class _Streams:
    """Takes arrays off both streams, and files their bits."""

    def __init__(self, forge, unary, plain):
        self.forge = forge
        self.unary, self.plain = (
            Tape("".join(f"{byte:08b}" for byte in stream)) for stream in (unary, plain)
        )

    def numbers(self, name, count, rice):
        high, taken = [], ""
        for _ in range(count):
            high.append(self.unary.items.index("1"))
            taken += self.unary.take(high[-1] + 1)
        planes = [self.plain.take(count) for _ in range(rice)]
        self.forge.unary[name], self.forge.plain[name] = taken, "".join(planes)
        low = [int("".join(plane[i] for plane in planes) or "0", 2) for i in range(count)]
        return [(q << rice) + rest for q, rest in zip(high, low, strict=True)]

    def bits(self, name, count):
        self.forge.plain[name] = self.plain.take(count)
        return self.forge.plain[name]


def _ids(gaps):
    ids = [-1]
    for gap in gaps:
        ids.append(ids[-1] + gap + 1)
    return ids[1:]
