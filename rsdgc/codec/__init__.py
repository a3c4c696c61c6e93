"""The wire format: an update as bytes, and back.

Encoding goes down this list, decoding goes up:

- :mod:`~rsdgc.codec.wire` defines the format; ``encode`` and ``decode`` are its ends.
- :mod:`~rsdgc.codec.header` writes and checks the fixed first bytes.
- :mod:`~rsdgc.codec.indices` codes which neighborhoods are sent.
- :mod:`~rsdgc.codec.values` holds the value codings and what one has to implement;
  :mod:`~rsdgc.codec.dead_zone` is the default one. It finds its step with
  :mod:`~rsdgc.codec.step_search`, rounds with :mod:`~rsdgc.codec.quantizer` and writes with
  :mod:`~rsdgc.codec.bit_planes`.
- :mod:`~rsdgc.codec.golomb_rice` and :mod:`~rsdgc.codec.byte_stream` turn numbers into bits and
  bytes.

:mod:`~rsdgc.codec.sizes` predicts how many bytes all this takes, without an update.
"""

# The dead-zone coding registers itself when it is imported, so every user of the codec has it.
from rsdgc.codec.dead_zone import DeadZone
from rsdgc.codec.values import VALUE_CODINGS, JointCoding, LayerCoding, ValueCoding

__all__ = ["VALUE_CODINGS", "DeadZone", "JointCoding", "LayerCoding", "ValueCoding"]
