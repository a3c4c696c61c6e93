"""Settings that change nothing beside the others, each in a line of the run's log.

Such a run is possible, and a comparison of methods has them: what is for one method is in the
settings of all. So they are named, and not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clients.model_parts import ModelParts
from fl_app.models.group_norm import InsteadOfBatchNorm
from fl_app.settings import Settings, hyphenated
from rsdgc.budget import parse_budget
from rsdgc.codec.values import JointCoding
from rsdgc.robust_rules import SignAgreement, TrimmedMean
from strategies.rate_control import WARM_UP_START
from strategies.sites import SiteManager, sites_in_round

_BUDGETS = ("budget", "budget_down", "budget_final")
_NSI_WEIGHTS = ("nsi_mean_weight", "nsi_std_weight")
_NEIGHBORHOODS = ("neighborhood", "tile_px", "indicator", *_NSI_WEIGHTS)
_COMPRESSION = (
    *(*_BUDGETS, *_NEIGHBORHOODS, "values", "dense_values", "indices", "transform"),
    *("dense_share", "ratio_policy", "top_share", "warm_up_rounds"),
    *("momentum_correction", "step_ahead"),
)
_DENSE_VALUES_GAIN = 4
"""How many times smaller than the float32 model whole layers are at least sent (``int8``)."""

_AS_DENSE = {
    **dict.fromkeys(_BUDGETS, "1x"),
    **dict.fromkeys(("values", "dense_values"), "float32"),
    **dict.fromkeys(("warm_up_rounds", "momentum_correction", "step_ahead"), 0),
    "transform": "none",
    "ratio_policy": "whole",
}
"""Values that say what a method does that sends everything."""


def idle_settings(settings: Settings, dense_bytes: int) -> Iterator[str]:
    """Yield a line for settings that were given and change nothing, and what to do about it.

    ``dense_bytes`` are those of the trained part of the model in float32.
    """
    compression = _without_compression if settings.method == "fedavg" else _of_compression
    rules = (*compression(settings, dense_bytes), *_of_the_rest(settings))
    for names, reason, remedy in rules:
        given = [
            f"{hyphenated(name)}={getattr(settings, name)}"
            for name in names
            if getattr(settings, name) != Settings.model_fields[name].default
        ]
        if given:
            verb, pronoun = ("does", "it") if len(given) == 1 else ("do", "them")
            text = f"{', '.join(given)} {verb} nothing {reason}: "
            yield f"{text}leave {pronoun} out{remedy and f', or {remedy}'}"


def idle_with_the_model(
    settings: Settings, model: ModelParts, inputs: Sequence[tuple[int, int, int]]
) -> Iterator[str]:
    """Yield one line for each setting that does nothing with a model of such inputs (C, H, W)."""
    kept = {
        "local": "batch normalization that is trained",
        "local-statistics": "batch normalization with running statistics that is trained",
    }
    if settings.batch_norm in kept and not model.local:
        yield (
            f"batch-norm={settings.batch_norm} does nothing: model {settings.model} has no "
            f"{kept[settings.batch_norm]}; all sites have the same model, as with "
            "batch-norm=average"
        )
    replaced = (isinstance(module, InsteadOfBatchNorm) for module in model.model.modules())
    if settings.batch_norm == "group" and not any(replaced):
        yield (
            f"batch-norm=group does nothing: model {settings.model} has no batch normalization; "
            "leave it out"
        )
    if settings.modality_dropout and len(inputs) == 1:
        yield (
            f"modality-dropout={settings.modality_dropout:g} does nothing with one modality, which "
            "always stays: leave it out"
        )
    if settings.band_dropout and max(shape[0] for shape in inputs) == 1:
        yield (
            f"band-dropout={settings.band_dropout:g} does nothing with one band, which always "
            "stays: leave it out"
        )


def idle_with_the_sites(settings: Settings, sites: SiteManager) -> Iterator[str]:
    """Yield a line for settings that change nothing, or let no round count, with these sites."""
    drawn = sites_in_round(settings.fraction, len(sites.sites))
    where = f"the {drawn} sites that train in a round (fraction={settings.fraction:g})"
    if settings.quorum > drawn:
        yield (
            f"quorum={settings.quorum} is more than {where}: no round counts until more sites "
            "join; lower quorum, or raise fraction"
        )
    least = {
        "trimmed-mean": round(1 / TrimmedMean.trim_share),
        "sign-agreement": SignAgreement.least_senders,
    }.get(settings.aggregation, 0)
    if drawn < least and not settings.dp_noise_multiplier:
        yield (
            f"aggregation={settings.aggregation} does nothing with {where}, it is their mean: it "
            f"takes {least} sites in a round"
        )
    unknown = sorted(set(settings.weight_rules().chips) - set(sites.sites))
    if unknown:
        yield (
            f"max-site-chips does nothing for {', '.join(unknown)}, unless a site of that name "
            f"joins: the sites are {', '.join(sorted(sites.sites)[:20])}"
        )


_Rule = tuple[Sequence[str], str, str]
"""Names of settings, why they do nothing, and what else than leaving them out may be meant."""


def _without_compression(settings: Settings, dense_bytes: int) -> Iterator[_Rule]:  # noqa: ARG001
    names = [name for name in _COMPRESSION if not _says_dense(settings, name)]
    yield names, "with method=fedavg, which sends the whole model", "choose another method"


def _of_compression(settings: Settings, dense_bytes: int) -> Iterator[_Rule]:
    in_levels = isinstance(settings.scheme().value_coding, JointCoding)
    whole = settings.resolved("ratio_policy") == "whole"
    if whole:
        names = [*_BUDGETS, "dense_share", "top_share", "warm_up_rounds"]
        if not in_levels:
            names += [*_NEIGHBORHOODS, "values", "indices"]
        names = [name for name in names if not _says_dense(settings, name)]
        reason = "where every layer is sent whole (ratio-policy=whole)"
        yield names, reason, "set ratio-policy=update"
    else:
        yield from _of_ratios(settings, dense_bytes, in_levels=in_levels)
    if in_levels:
        budgets = [parse_budget(settings.resolved(name), dense_bytes) for name in _BUDGETS]
        if max(budgets) * _DENSE_VALUES_GAIN < dense_bytes:
            reason = "with values in levels, unless a budget allows the whole model"
            yield ["dense_values"], reason, "set values=int8"
    if in_levels or not whole:
        yield from _of_neighborhoods(settings)


def _of_ratios(settings: Settings, dense_bytes: int, *, in_levels: bool) -> Iterator[_Rule]:
    if settings.resolved("ratio_policy") == "uniform":
        yield ["top_share"], "with ratio-policy=uniform", "set ratio-policy=update"
    if in_levels:
        yield ["dense_share"], "with values in levels", "set values=int8"
    if settings.warm_up_rounds == 0:
        return
    if parse_budget(settings.budget, dense_bytes) * WARM_UP_START >= dense_bytes:
        yield (
            ["warm_up_rounds"],
            "with a budget of a quarter of the model or more",
            "set a smaller budget",
        )
    elif settings.rounds == 1:
        yield ["warm_up_rounds"], "in a run of one round", "set rounds"


def _of_neighborhoods(settings: Settings) -> Iterator[_Rule]:
    indicator = settings.resolved("indicator")
    if indicator in ("rms", "l1", "random"):
        yield _NSI_WEIGHTS, f"with indicator={indicator}", "set indicator=nsi"
    if settings.resolved("neighborhood") == "element":
        yield ["tile_px"], "with neighborhood=element", "set neighborhood=tile"
        if indicator == "nsi":
            yield _NSI_WEIGHTS, "with neighborhood=element", "set neighborhood=kernel"


def _of_the_rest(settings: Settings) -> Iterator[_Rule]:
    if settings.dp_noise_multiplier:
        names = ["max_site_chips"]
        names += ["clip_updates"] if settings.clip_updates else []
        names += ["max_site_share"] if settings.max_site_share != 1 else []
        reason = "with differential privacy, which clips by dp-clip and counts all sites alike"
        yield names, reason, ""
    else:
        yield ["dp_clip", "dp_delta"], "without noise", "set dp-noise-multiplier"
    if settings.clip_norm == 0 and settings.clip_scale == "sites":
        yield ["clip_scale"], "with clip-norm=0", "set clip-norm"
    if settings.checkpoint_every == 0:
        yield ["checkpoint_keep"], "with checkpoint-every=0", "set checkpoint-every"
    if settings.local_steps:
        yield ["local_epochs"], f"with local-steps={settings.local_steps}", "set local-steps=0"
    if settings.device == "cpu":
        yield ["gpu_share", "sites_per_gpu"], "with device=cpu", "set device=auto"


def _says_dense(settings: Settings, name: str) -> bool:
    return name in _AS_DENSE and getattr(settings, name) == _AS_DENSE[name]
