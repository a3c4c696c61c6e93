"""What ``from rsdgc import …`` offers; imported with the first of these names that is used."""

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
