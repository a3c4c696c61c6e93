"""The wire format: an update as bytes, and back.

Encoding goes down this list, decoding goes up:

- :mod:`~rsdgc.codec.wire` defines the format; ``encode`` and ``decode`` are its ends.
- :mod:`~rsdgc.codec.header` writes and checks the fixed first bytes.
- :mod:`~rsdgc.codec.indices` codes which neighborhoods are sent.
- :mod:`~rsdgc.codec.values` says what a value coding has to implement.
  :mod:`~rsdgc.codec.layer_codings` holds the plain ones and :mod:`~rsdgc.codec.dead_zone` the
  default. That finds its step with :mod:`~rsdgc.codec.step_search`, rounds with
  :mod:`~rsdgc.codec.quantizer` and writes with :mod:`~rsdgc.codec.bit_planes`.
- :mod:`~rsdgc.codec.golomb_rice` and :mod:`~rsdgc.codec.byte_stream` turn numbers into bits and
  bytes.

:mod:`~rsdgc.codec.sizes` predicts how many bytes all this takes, without an update.
"""

# Codings are registered when they are imported. Here, so that every user of the codec has them.
from rsdgc.codec import dead_zone, layer_codings
from rsdgc.codec.values import VALUE_CODINGS, JointCoding, LayerCoding

__all__ = ["VALUE_CODINGS", "JointCoding", "LayerCoding", "dead_zone", "layer_codings"]
