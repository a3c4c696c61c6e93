"""Builds uploads field by field, so that tests can spoil one and keep the checksum right."""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from rsdgc import ModelSpec, Scheme, Stamp, encode

SPEC = ModelSpec.from_shapes({"conv": (4, 2, 3, 3), "fc": (3, 40), "bias": (5,)})
"""8 kernel slices; 3 rows of four runs of nine and one of four; sent whole."""

HEADER = {
    "magic": "4s",
    "version": "B",
    "neighborhood": "B",
    "tile_px": "B",
    "values": "B",
    "dense_values": "B",
    "run": "Q",
    "round": "I",
    "base": "I",
    "signature": "8s",
    "num_layers": "I",
}
KEPT = [np.array([1, 4, 6]), np.array([4, 14]), None]


def update():
    return np.arange(SPEC.size, dtype=np.float32) - 50


def valid(values="int8", dense_values="float16"):
    scheme = Scheme(values=values, dense_values=dense_values)
    return encode(SPEC, scheme, Stamp(7, 8, 9), update(), KEPT)


def sealed(data, at=37):
    """Return the data with the checksum that belongs to it."""
    if len(data) < at + 4:
        return data
    rest = data[:at] + data[at + 4 :]
    return data[:at] + struct.pack("<I", zlib.crc32(rest)) + data[at + 4 :]


@dataclass
class Forge:
    """The parts of :func:`valid`, to be changed before they are joined."""

    header: dict = field(
        default_factory=lambda: {
            "magic": b"RSDG",
            "version": 1,
            "neighborhood": 0,
            "tile_px": 3,
            "values": 2,
            "dense_values": 0,
            "run": 7,
            "round": 8,
            "base": 9,
            "signature": SPEC.signature,
            "num_layers": 3,
        }
    )
    codes: list = field(default_factory=lambda: [0, 2, 255])
    rows: list = field(default_factory=lambda: [(3, 1), (2, 1)])
    body: dict = field(default_factory=dict)

    @classmethod
    def of(cls, values="int8", dense_values="float16"):
        """Take a valid upload apart."""
        data = valid(values, dense_values)
        forge = cls()
        forge.header = dict(zip(HEADER, struct.unpack_from(layout(), data), strict=True))
        forge.codes = list(data[41:44])
        forge.rows = [struct.unpack_from("<II", data, 44 + 8 * i) for i in range(2)]
        item = {"int8": 1, "float16": 2, "float32": 4}[values]
        at = 60
        for name, row, code, members in zip(
            ("conv", "fc"), forge.rows, forge.codes, (27, 8), strict=False
        ):
            sizes = {
                "unary": row[1],
                "rest": (row[0] * code + 7) // 8,
                "scale": 4 * (item == 1),
                "values": item * members,
            }
            for part, size in sizes.items():
                forge.body[f"{name}.{part}"] = data[at : at + size]
                at += size
        forge.body["bias"] = data[at:]
        assert forge.build() == data
        return forge

    def boundaries(self):
        """Return where each part after the header ends."""
        ends, at = [42, 43, 44, 48, 52, 56, 60], 60
        for part in self.body.values():
            at += len(part)
            ends.append(at)
        return sorted(set(ends))

    def build(self):
        head = struct.pack(layout(), *self.header.values())
        table = b"".join(struct.pack("<II", *row) for row in self.rows)
        data = head + bytes(4) + bytes(self.codes) + table + b"".join(self.body.values())
        return sealed(data)


def layout():
    return "<" + "".join(HEADER.values())
