"""RS-DGC: gradient compression by neighborhood statistics, for any training framework.

At a site, an update goes through these modules in this order: :mod:`~rsdgc.spec` describes the
model, :mod:`~rsdgc.neighborhoods` cuts its layers as a :mod:`~rsdgc.scheme` says,
:mod:`~rsdgc.ratios` fits how much of each layer to send into a byte budget, and the
:mod:`~rsdgc.compressor` scores (:mod:`~rsdgc.indicators`), selects (:mod:`~rsdgc.selection`) and
encodes (:mod:`~rsdgc.codec`) what is sent; :mod:`~rsdgc.feedback` keeps the rest for the next
round. The server decodes the bytes to an :mod:`~rsdgc.update` and combines those of all sites
(:mod:`~rsdgc.aggregation`); the result returns as :mod:`~rsdgc.patches`. Indicators, value codings
and aggregation rules from outside are found through a :mod:`~rsdgc.registry`. Without a server that
steers it, a :mod:`~rsdgc.budget_compressor` does all that a worker needs, as its
:mod:`~rsdgc.compression` says; :mod:`rsdgc.torch` puts it into PyTorch. The other modules serve the
whole project: :mod:`~rsdgc.errors`, :mod:`~rsdgc.arrays`, :mod:`~rsdgc.durable`.

::

    spec = ModelSpec.from_shapes({"conv.weight": (32, 4, 3, 3), "fc.weight": (10, 32)})
    scheme = Scheme()
    budget = spec.dense_bytes / 5
    ratios = fit_ratios(spec, scheme, uniform_shares(spec), budget)
    feedback = ErrorFeedback(Compressor(spec, scheme, make_indicator("nsi")))
    payload = feedback.compress(change, ratios, Stamp(run=1, round=1), budget)  # at a site

    mean = WeightedMean(spec)  # at the server
    mean.add("site-00", payload, weight=312)
    update = mean.aggregate()

Method: Xie, Wang, Ma, Li, Li, "RS-DGC: Exploring Neighborhood Statistics for Dynamic Gradient
Compression on Remote Sensing Image Interpretation", arXiv 2312.17530.
"""

from rsdgc.aggregation import AGGREGATORS, Aggregator, WeightedMean
from rsdgc.budget_compressor import BudgetCompressor, CompressorState
from rsdgc.clipping import NormClip
from rsdgc.codec import VALUE_CODINGS, JointCoding, LayerCoding
from rsdgc.codec.sizes import estimate_bytes
from rsdgc.codec.wire import decode, encode
from rsdgc.compression import Compression
from rsdgc.compressor import Compressor
from rsdgc.errors import DataError, RsdgcError, RunError, SettingError, StateError, WireError
from rsdgc.feedback import ErrorFeedback
from rsdgc.indicators import INDICATORS, L1, NSI, RMS, Indicator, Random, make_indicator
from rsdgc.model_change import ChangeCompressor, apply_change
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.ratios import fit_ratios, uniform_shares, update_shares, weight_shares
from rsdgc.robust_rules import SignAgreement, TrimmedMean
from rsdgc.scheme import Scheme
from rsdgc.selection import kept_count, top_k
from rsdgc.spec import Layer, ModelSpec
from rsdgc.update import LayerUpdate, SparseUpdate, Stamp

__all__ = [
    "AGGREGATORS",
    "INDICATORS",
    "L1",
    "NSI",
    "RMS",
    "VALUE_CODINGS",
    "Aggregator",
    "BudgetCompressor",
    "ChangeCompressor",
    "Compression",
    "Compressor",
    "CompressorState",
    "DataError",
    "ErrorFeedback",
    "Indicator",
    "JointCoding",
    "Layer",
    "LayerCoding",
    "LayerUpdate",
    "ModelSpec",
    "Neighborhoods",
    "NormClip",
    "Random",
    "RsdgcError",
    "RunError",
    "Scheme",
    "SettingError",
    "SignAgreement",
    "SparseUpdate",
    "Stamp",
    "StateError",
    "TrimmedMean",
    "WeightedMean",
    "WireError",
    "apply_change",
    "decode",
    "encode",
    "estimate_bytes",
    "fit_ratios",
    "kept_count",
    "make_indicator",
    "top_k",
    "uniform_shares",
    "update_shares",
    "weight_shares",
]
