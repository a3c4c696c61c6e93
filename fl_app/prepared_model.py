"""The model of a run, as its settings ask for it.

It is built and started from weights; batch normalization is replaced, adapters are added, and what
is not trained is frozen, as far as the settings say so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from fl_app.models import accepts_missing, build_model, takes_modalities
from fl_app.models.adapters import adaptable_layers, add_adapters
from fl_app.models.freezing import HEAD, freeze, select
from fl_app.models.group_norm import replace_batch_norm
from fl_app.models.initial_weights import WeightMatch, load_weights, match_weights
from fl_app.models.network_trial import check_gradient
from fl_app.models.weight_file import WeightFile
from fl_app.settings import Settings
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo, SiteManager


def prepare_model(
    settings: Settings,
    modalities: Sequence[ModalityInfo],
    num_classes: int,
    weights: Path | None,
) -> tuple[nn.Module, WeightMatch | None]:
    """Build the model of a run, the same for the same arguments wherever it is built.

    Parameters
    ----------
    settings : Settings
        Of the run.
    modalities : sequence of ModalityInfo
        What the model takes, in its order.
    num_classes : int
        Length of its output.
    weights : path or None
        The file of initial weights on this machine; None to leave the seed's initialization.

    Returns
    -------
    model : torch.nn.Module
        On the default device. On the meta device weights are matched, but not read.
    match : WeightMatch or None
        What came from the file into this model; None without one.

    Raises
    ------
    SettingError
        The model cannot be built, the weights do not fit it, or a pattern matches nothing.
    """
    num_bands = sum(len(modality.bands) for modality in modalities)
    chip_px = max(modality.px for modality in modalities)
    model = build_model(
        settings.model, num_bands, num_classes, chip_px, settings.seed, modalities=modalities
    )
    match = None
    if weights is not None:
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        match = (match_weights if on_meta else load_weights)(model, WeightFile(weights), modalities)
    if settings.batch_norm == "group":
        before = model.state_dict(keep_vars=True)
        model = replace_batch_norm(model)
        if match is not None:
            after = model.state_dict(keep_vars=True)
            sizes = {name: tensor.numel() for name, tensor in after.items()}
            match = match.restricted(_places(before, after), sizes)
    choice = _choose_trained(model, num_classes, settings)
    if choice:
        check_gradient(model, input_shapes(settings.model, modalities), choice)
    return model, match


def _places(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the present name of each entry that is still the same tensor, by its name before."""
    names: dict[int, str] = {}
    for name, tensor in after.items():
        names.setdefault(id(tensor), name)
    return {
        name: name if after.get(name) is tensor else names[id(tensor)]
        for name, tensor in before.items()
        if id(tensor) in names
    }


def input_shapes(model_name: str, modalities: Sequence[ModalityInfo]) -> list[tuple[int, int, int]]:
    """Return the shape (C, H, W) of a chip in each tensor that a model takes."""
    if takes_modalities(model_name):
        return [modality.shape for modality in modalities]
    px = max(modality.px for modality in modalities)  # coarser ones are resampled to the finest
    return [(sum(len(modality.bands) for modality in modalities), px, px)]


def agree_on_model(sites: SiteManager, settings: Settings) -> tuple[nn.Module, WeightMatch | None]:
    """Return the model of a run, and what came from its weights, as :func:`prepare_model` does.

    Sites that it cannot take are left out. Raises :class:`RunError` if too few remain.
    """
    data, weights = sites.data, settings.initial_weights()
    prepared = prepare_model(settings, data.modalities, len(data.classes), weights)
    check_modalities(sites, settings, prepared[0])
    if sites.data.modalities != data.modalities:
        data = sites.data
        prepared = prepare_model(settings, data.modalities, len(data.classes), weights)
    return prepared


def check_modalities(sites: SiteManager, settings: Settings, model: nn.Module) -> None:
    """Leave out sites that lack a modality, unless the run's model can do without.

    Raises :class:`RunError` if too few sites remain; and :class:`SettingError` if the setting
    ``modality-dropout`` would leave a modality out.
    """
    shared = [
        name
        for name in sites.data.modality_names
        if all(name in site.modalities for site in sites.connected())
    ]
    fewer = f", or train with modalities={','.join(shared)}" if shared else ""
    if not takes_modalities(settings.model):
        reason = "takes all of them as one: choose a fusion network (rsdgc models)"
    elif not (
        any(parameter.is_meta for parameter in model.parameters())  # cannot tell
        or accepts_missing(model, sites.data.modalities)
    ):
        reason = "fails where one is missing: let its forward take None instead"
    else:
        return
    if settings.modality_dropout:
        raise SettingError(
            f"modality-dropout={settings.modality_dropout} leaves modalities out, and model "
            f"{settings.model} {reason}, or set modality-dropout=0"
        )
    sites.refuse_lacking(f"and model {settings.model} {reason}{fewer}")


def _choose_trained(model: nn.Module, num_classes: int, settings: Settings) -> str:
    """Add adapters, and freeze what the settings do not train; return the setting that says so."""
    trained = settings.train_only
    if settings.adapters != "none":
        choice = f"adapters={settings.adapters}"
        source = "train-only" if trained else choice  # whose pattern an error names
        kept = select(model, num_classes, trained or HEAD, source, to_train=True)
        layers = _adapted_layers(model, num_classes, settings, kept)
        before = set(dict(model.named_parameters()))
        add_adapters(model, layers, settings.adapter_rank, settings.adapter_alpha, settings.seed)
        freeze(model, before - kept, "adapters")
        return choice
    if trained:
        kept = select(model, num_classes, trained, "train-only", to_train=True)
        freeze(model, set(dict(model.named_parameters())) - kept, "train-only")
        return f"train-only={trained}"
    if settings.freeze:
        freeze(model, select(model, num_classes, settings.freeze, "freeze"), "freeze")
        return f"freeze={settings.freeze}"
    return ""


def _adapted_layers(
    model: nn.Module, num_classes: int, settings: Settings, trained: Collection[str]
) -> list[str]:
    """Return the layers that get an adapter: those that are not trained whole."""
    patterns = settings.adapter_layers or "*"
    selected = select(model, num_classes, patterns, "adapter-layers") - set(trained)
    layers = [name for name in adaptable_layers(model) if f"{name}.weight" in selected]
    if not layers:
        if not settings.adapter_layers:
            raise SettingError(
                f"adapters={settings.adapters}: model {settings.model} has no linear layer or "
                "ungrouped convolution beside what is trained whole: choose the part to train with "
                "train-only"
            )
        raise SettingError(
            f"adapter-layers={settings.adapter_layers!r} leaves no layer to adapt: name linear "
            "layers or ungrouped convolutions that are not trained whole"
        )
    return layers
