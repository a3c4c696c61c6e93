"""The methods of the app: how each compresses an update, unless the settings say otherwise.

Rival methods stand beside RS-DGC, each in the coding that its authors or the usual practice give
it, so that all of them run through the same app, ledger and report. A method of your own is a
:class:`Method` in any module that server and sites can import: ``method=package.module:NAME``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rsdgc.errors import SettingError
from rsdgc.registry import Registry


@dataclass(frozen=True)
class Method:
    """The values of the settings that are left at ``auto``."""

    title: str  #: name in the report
    about: str  #: one line for the documentation
    #: neighborhood, indicator, values, dense_values, indices, transform: see
    #: :class:`rsdgc.scheme.Scheme` and :mod:`rsdgc.indicators`
    neighborhood: str = "kernel"
    indicator: str = "nsi"
    values: str = "deadzone"
    dense_values: str = "float16"
    indices: str = "rice"
    transform: str = "none"
    #: see :mod:`strategies.rate_control`; ``whole`` sends every layer whole
    ratio_policy: str = "update"
    #: budget_down, budget_final: sizes of a message to a site and of the last patch, as the
    #: settings; ``1x`` is the whole model
    budget_down: str = "67x"
    budget_final: str = "10x"
    #: epochs at the start with larger uploads, see :func:`strategies.rate_control.round_weights`
    warm_up_epochs: float = 0.0
    #: momentum that sites keep over rounds, with factor masking, in place of the optimizer's; 0
    #: for none
    momentum_correction: float = 0.0
    #: what the largest gradient norm is multiplied by, see the setting ``clip-scale``
    clip_scale: str = "none"
    #: longest step ahead of the received model that local training starts from, in lengths of the
    #: site's last change, see :mod:`rsdgc.feedback`; 0 for none
    step_ahead: float = 0.0
    #: momentum of the global model, see :mod:`strategies.rs_dgc`; 0 for none
    server_momentum: float = 0.0


# What was published for data-parallel training compresses the exchange of gradients alone, in
# float32, and builds on Deep Gradient Compression (Lin et al. 2018): its momentum correction with
# factor masking (sections 3.2 and 3.3), and its warm-up of four epochs (section 3.3).
_published_method = partial(
    Method,
    values="float32",
    dense_values="float32",
    budget_down="1x",
    budget_final="1x",
    warm_up_epochs=4.0,
    momentum_correction=0.9,
)
_paper_method = partial(_published_method, neighborhood="tile")
_elementwise_method = partial(
    Method, neighborhood="element", indicator="l1", ratio_policy="uniform"
)

_BUILT_IN = {
    "rs-dgc": Method(
        "RS-DGC",
        "neighborhoods by NSI in the principal axes of the channels, dead-zone levels of one "
        "step, ratios by the aggregated update, step-ahead at the sites, momentum of the global "
        "model",
        transform="channels",
        step_ahead=1.0,
        server_momentum=0.4,
    ),
    "rs-dgc-paper": _paper_method(
        "RS-DGC as published",
        "as published: p×p tiles by NSI, float32 values, ratios by mean |weight|, momentum "
        "correction, and warm-up; downloads are the whole model",
        ratio_policy="weight",
    ),
    "rs-dgc-static": _paper_method(
        "RS-DGC with fixed ratios",
        "as `rs-dgc-paper`, with the same ratio for every layer",
        ratio_policy="uniform",
    ),
    "topk": _elementwise_method(
        "Element top-k",
        "largest elements, int8 values, coded indices, error feedback",
        values="int8",
    ),
    "topk-naive": _elementwise_method(
        "Naive top-k",
        "largest elements, float32 values and int32 indices, error feedback",
        values="float32",
        indices="int32",
    ),
    "dgc": _published_method(
        "Deep Gradient Compression",
        "Deep Gradient Compression (Lin et al. 2018): top-k with momentum correction, momentum "
        "factor masking, warm-up, and clipping by 1/√N; float32 values and int32 indices; "
        "downloads are the whole model",
        neighborhood="element",
        indicator="l1",
        ratio_policy="uniform",
        indices="int32",
        clip_scale="sites",
    ),
    "random-k": _elementwise_method(
        "Random-k",
        "random elements, float32 values, coded indices, error feedback",
        indicator="random",
        values="float32",
    ),
    "stc": _elementwise_method(
        "Sparse Ternary Compression",
        "Sparse Ternary Compression (Sattler et al. 2019): largest elements as sign times mean, "
        "Golomb-coded indices, error feedback",
        values="ternary",
    ),
    "int8": Method(
        "Whole updates in int8",
        "every element as int8 with one scale per layer, error feedback; a quarter of the bytes",
        values="int8",
        dense_values="int8",
        ratio_policy="whole",
    ),
    "fedavg": Method(
        "Dense FedAvg", "the whole model in float32 in both directions, Flower's own FedAvg"
    ),
}

METHODS: Registry[Method] = Registry("method")
for _name, _method in _BUILT_IN.items():
    METHODS.register(_name)(_method)


def find_method(name: str) -> Method:
    """Return a registered method, or the one at a path ``package.module:NAME``.

    Raises
    ------
    SettingError
        The name is unknown, the path cannot be imported, or it names something else.
    """
    method: object = METHODS[name]
    if not isinstance(method, Method):
        raise SettingError(
            f"method {name!r} is of type {type(method).__name__}: name a fl_app.methods.Method"
        )
    return method


def markdown_table() -> str:
    """Return the table of all methods for the documentation."""
    rows = [f"| `{name}` | " + METHODS[name].about.replace("|", "\\|") + " |" for name in METHODS]
    return "\n".join(["| method | what it sends |", "|---|---|", *rows]) + "\n"
