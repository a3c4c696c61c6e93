"""The catalog of malformed uploads: what is spoilt of a valid one.

Each case is a name, a function that changes a :class:`tests.rsdgc.forge.Forge`, and the kinds of
values, whole values and indices of the upload that it is made for.
"""

import struct

import numpy as np

from rsdgc import ModelSpec
from tests.rsdgc.forge import leb128


def header(**fields):
    return lambda forge: forge.header.update(fields)


def code(index, value):
    def change(forge):
        forge.codes[index] = value

    return change


def count(index, coded):
    """Another count of a layer: a number, or the bytes themselves."""

    def change(forge):
        forge.counts[index] = coded if isinstance(coded, bytes) else leb128(coded)

    return change


def stream(which, name, bits):
    """Other bits of an array in a stream; of its own bits if a function is passed."""

    def change(forge):
        found = getattr(forge, which)
        found[name] = bits(found[name]) if callable(bits) else bits

    return change


def unary(name, bits):
    return stream("unary", name, bits)


def plain(name, bits):
    return stream("plain", name, bits)


def padding(which):
    """The last padding bit of a stream is 1."""

    def change(forge):
        found = getattr(forge, which)
        rest = -len("".join(found.values())) % 8
        assert rest
        found["padding"] = "1".rjust(rest, "0")

    return change


def body(name, data):
    return lambda forge: forge.body.update({name: bytes.fromhex(data)})


def step(number):
    return lambda forge: forge.quantizer.update(step=struct.pack("<f", number))


def plane(index, value, num_ids=...):
    """Another code of a plane (3: of the large levels); and another count, bytes or number."""

    def change(forge):
        old = forge.planes[0][index]
        forge.planes[0][index] = (value, old[1] if num_ids is ... else num_ids)

    return change


def recount(index, num_ids):
    return lambda forge: plane(index, forge.planes[0][index][0], num_ids)(forge)


def both(*changes):
    def change(forge):
        for one in changes:
            one(forge)

    return change


CATALOGUE = {
    "magic of zeros": header(magic=bytes(4)),
    "magic in another case": header(magic=b"rsdg"),
    "magic backwards": header(magic=b"GDSR"),
    "version 0": header(version=0),
    "version 1": header(version=1),
    "version 3": header(version=3),
    "version 255": header(version=255),
    "unknown neighborhood": header(neighborhood=3),
    "neighborhood 255": header(neighborhood=255),
    "other neighborhood: element": header(neighborhood=2),
    "tile_px 0": header(tile_px=0),
    "tile_px 65": header(tile_px=65),
    "tile_px 255": header(tile_px=255),
    "tile_px of another cut": header(tile_px=4),
    "unknown value kind": header(values=5),
    "value kind 255": header(values=255),
    "value kind of other width": header(values=0),
    "value kind float16 for int8": header(values=1),
    "value kind ternary for int8": header(values=3),
    "value kind levels for int8": header(values=4),
    "unknown dense kind": header(dense_values=3),
    "dense kind 255": header(dense_values=255),
    "dense kind of other width": header(dense_values=0),
    "dense kind int8 for float16": header(dense_values=2),
    "unknown index kind": header(indices=2),
    "index kind 255": header(indices=255),
    "index kind int32 for Rice": header(indices=1),
    "signature of zeros": header(signature=bytes(8)),
    "signature of another model": header(
        signature=ModelSpec.from_shapes({"conv": (4, 2, 3, 3), "fc": (41, 3), "b": (5,)}).signature
    ),
    "no layers": header(num_layers=0),
    "a layer too few": header(num_layers=2),
    "a layer too many": header(num_layers=4),
    "2^31 layers": header(num_layers=2**31),
    "all layers claimed sparse": code(2, 0),
    "whole layer claimed sparse and all kept": code(2, 254),
    "sparse layer claimed whole": code(0, 255),
    "sparse layer claimed all kept": code(0, 254),
    "every layer claimed whole": both(code(0, 255), code(1, 255)),
    "Rice parameter 32": code(0, 32),
    "Rice parameter 253": code(0, 253),
    "Rice parameter above the layer": code(0, 4),
    "Rice parameter without plain bits": code(0, 1),
    "plain bits without Rice parameter": code(1, 0),
    "nothing kept, bits there": count(0, 0),
    "nothing kept, with a Rice parameter": count(1, 0),
    "one kept too few": count(0, 2),
    "one kept too many": count(0, 4),
    "all kept, as a count": count(0, 8),
    "more kept than there are": count(0, 9),
    "2^31 kept": count(0, 2**31),
    "2^35-1 kept": count(0, 2**35 - 1),
    "a count of six bytes": count(0, leb128(2**35)),
    "a count of ten bytes": count(0, leb128(2**63)),
    "a count in two bytes that needs one": count(0, leb128(3, 2)),
    "a count in five bytes that needs one": count(0, leb128(3, 5)),
    "a count that does not end": count(0, b"\xff" * 40),
    "all claims at their largest": both(
        count(0, 2**35 - 1), count(1, 2**35 - 1), code(0, 31), code(1, 31)
    ),
    "a count missing": lambda forge: forge.counts.pop(),
    "a count too many": lambda forge: forge.counts.append(b"\0"),
    "a code missing": lambda forge: forge.codes.pop(),
    "a code too many": lambda forge: forge.codes.append(0),
    "no unary stream": lambda forge: forge.unary.clear(),
    "no plain stream": lambda forge: forge.plain.clear(),
    "no streams": both(lambda forge: forge.unary.clear(), lambda forge: forge.plain.clear()),
    "ids all zero bits": both(unary("ids 0", "0000000"), unary("ids 1", "00000")),
    "ids: a one too many": unary("ids 1", "01011"),
    "ids: a one too few": unary("ids 1", "01"),
    "id just past the end": unary("ids 0", "010010001"),
    "id far past the end": unary("ids 0", "01001" + "0" * 4000 + "1"),
    "id past the end by its plain bits": plain("ids 1", "1111"),
    "ids followed by a zero byte": unary("padding", "0000" + "0" * 8),
    "ids followed by a one": padding("unary"),
    "plain padding set": padding("plain"),
    "plain stream a byte too long": plain("padding", "0000" + "0" * 8),
    "plain stream a megabyte too long": plain("padding", "0" * (8 << 20)),
    "unary stream a megabyte too long": unary("padding", "0" * (8 << 20)),
    "scale NaN": body("0 scale", "0000c07f"),
    "scale infinite": body("0 scale", "0000807f"),
    "scale -infinite": body("0 scale", "000080ff"),
    "scale negative": body("0 scale", "000080bf"),
    "scale that overflows": body("0 scale", "ffff7f7f"),
    "scale missing": body("0 scale", ""),
    "int8 -128": body("1 values", "80" + "00" * 9),
    "a value missing": body("1 values", "00" * 9),
    "a value too many": body("1 values", "00" * 11),
    "values missing": body("0 values", ""),
    "whole layer NaN": body("2 values", "007e" + "00" * 8),
    "whole layer infinite": body("2 values", "00" * 8 + "007c"),
    "whole layer -infinite": body("2 values", "00" * 8 + "00fc"),
    "whole layer half there": body("2 values", "00" * 5),
    "whole layer missing": body("2 values", ""),
    "whole layer too long": body("2 values", "00" * 12),
    "a layer doubled": lambda forge: forge.body.update({"again": forge.body["2 values"]}),
    "trailing byte": lambda forge: forge.body.update({"tail": b"\0"}),
    "trailing megabyte": lambda forge: forge.body.update({"tail": bytes(1 << 20)}),
}
LEVELS = {
    "step NaN": step(np.nan),
    "step infinite": step(np.inf),
    "step -infinite": step(-np.inf),
    "step 0": step(0.0),
    "step -0": step(-0.0),
    "step negative": step(-0.5),
    "step the smallest denormal": step(1e-45),
    "step the largest denormal": step(1.1754942e-38),
    "quantizer missing": lambda forge: forge.quantizer.clear(),
    "offsets missing": lambda forge: forge.quantizer.pop("offsets"),
    "an offset too many": lambda forge: forge.quantizer.update(more=b"\0"),
    "plane code 64": plane(0, 64),
    "plane code 254": plane(0, 254),
    "plane sent as it is, with a count": plane(0, 255),
    "plane sent as it is, too few bits": plane(0, 255, None),
    "last plane sent as it is, too few bits": plane(2, 255, None),
    "plane's Rice parameter above its size": plane(0, 31),
    "plane's Rice parameter for no ids": both(plane(0, 1, 0), unary("plane 0.0", "")),
    "plane of ones taken for one of zeros": lambda forge: plane(
        0, (forge.planes[0][0][0] + 32) % 64
    )(forge),
    "plane with a one too many": unary("plane 0.0", lambda bits: bits + "1"),
    "plane with a one too few": unary("plane 0.0", lambda bits: bits[:-1]),
    "plane with an id past its end": unary("plane 0.0", lambda bits: "0" * 37 + bits),
    "planes' plain bits missing": both(plain("plane 0.0", ""), plain("plane 0.1", "")),
    "large levels' plain bits missing": plain("large 0", ""),
    "plane with no ids, bits there": recount(0, 0),
    "plane with more ids than values": recount(0, 38),
    "plane with 2^31 ids": recount(0, 2**31),
    "plane with 2^35-1 ids": recount(0, 2**35 - 1),
    "plane's count too long": recount(0, leb128(2**35)),
    "plane's count in more bytes than it needs": recount(0, leb128(3, 2)),
    "plane's count missing": recount(0, b""),
    "second plane with an id too many": recount(1, 37),
    "large levels' Rice parameter 32": plane(3, 32),
    "large levels' Rice parameter 255": plane(3, 255),
    "large levels' Rice parameter 31": plane(3, 31),
    "a large level too many": unary("large 0", lambda bits: bits + "1"),
    "a large level too few": unary("large 0", lambda bits: bits[: bits.rindex("1", 0, -1) + 1]),
    "a level above the largest": unary("large 0", lambda bits: "0" * 65_536 + bits),
    "a sign too many": plain("signs 0", lambda bits: bits + "0" * 8),
    "a sign too few": plain("signs 0", lambda bits: bits[:-8]),
    "no signs": plain("signs 0", ""),
    "a group missing": lambda forge: forge.planes.pop(),
    "a group too many": lambda forge: forge.planes.append(forge.planes[0]),
    "a plane missing": lambda forge: forge.planes[0].pop(),
    "a plane too many": lambda forge: forge.planes[0].append((0, 0)),
    "levels of a larger neighborhood": plain("ids 1", "0000"),
    "ids taken for levels": header(values=2),
    "levels claimed all kept": code(0, 254),
    "levels: no neighborhood, bits there": both(
        code(1, 0), count(0, 0), count(1, 0), lambda forge: forge.planes.clear()
    ),
    "levels: trailing byte": lambda forge: forge.body.update({"tail": b"\0"}),
    "levels: plain padding set": padding("plain"),
    "levels: unary padding set": padding("unary"),
}
PLAIN_IDS = {
    "plain ids: Rice parameter": code(1, 2),
    "plain ids: an unused unary stream": unary("ids 0", "0100101"),
    "plain ids: an unused plain stream": plain("ids 0", "00000001"),
    "plain ids: repeated": lambda forge: forge.ids.update({0: struct.pack("<3I", 1, 1, 6)}),
    "plain ids: unsorted": lambda forge: forge.ids.update({0: struct.pack("<3I", 4, 1, 6)}),
    "plain ids: past the end": lambda forge: forge.ids.update({0: struct.pack("<3I", 1, 4, 8)}),
    "plain ids: -1": lambda forge: forge.ids.update({0: struct.pack("<3i", 1, 4, -1)}),
    "plain ids: big-endian": lambda forge: forge.ids.update({0: struct.pack(">3I", 1, 4, 6)}),
    "plain ids: one missing": lambda forge: forge.ids.update({0: struct.pack("<2I", 1, 4)}),
    "plain ids: one too many": lambda forge: forge.ids.update({0: struct.pack("<4I", 1, 4, 6, 7)}),
    "plain ids: all missing": lambda forge: forge.ids.clear(),
}
CASES = [
    *[(name, change, ("int8", "float16", "rice")) for name, change in CATALOGUE.items()],
    *[(name, change, ("deadzone", "float16", "rice")) for name, change in LEVELS.items()],
    *[(name, change, ("int8", "float16", "int32")) for name, change in PLAIN_IDS.items()],
]
