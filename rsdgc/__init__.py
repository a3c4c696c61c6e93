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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsdgc import exports
    from rsdgc.exports import *  # noqa: F403  # __getattr__ finds them

    __all__: list[str] = []
    __all__ += exports.__all__


def __getattr__(name: str) -> Any:
    """Return an exported name.

    NumPy and the codec are imported with the first of them: a command that needs only
    :mod:`rsdgc.errors` or :mod:`rsdgc.registry` starts without.
    """
    if name == "__all__" or not name.startswith("_"):
        module = import_module("rsdgc.exports")
        if name == "__all__" or name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module 'rsdgc' has no attribute '{name}'", name=name, obj=None)


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("rsdgc.exports").__all__})
