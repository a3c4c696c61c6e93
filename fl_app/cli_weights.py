"""The commands of ``rsdgc weights``: files of weights that a run can start from."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_app.cli_options import Model, examples, given, new_group, words
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from fl_app.models.weight_file import WeightFile

weights = new_group("Files of weights that runs can start from.")


@weights.command(epilog=examples("rsdgc weights convert dino.pth dino.safetensors --key teacher"))
def convert(
    source: Annotated[Path, typer.Argument(help="A PyTorch checkpoint, such as .pth or .ckpt.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    key: Annotated[
        str, typer.Option(help="Where the checkpoint has the model's tensors, such as teacher.")
    ] = "",
) -> None:
    """Convert a PyTorch checkpoint to safetensors, without running its code."""
    from fl_app.models.weight_file import convert_checkpoint

    typer.echo(f"{target}: {convert_checkpoint(source, target, key)} tensors")


@weights.command(
    epilog=examples(
        "rsdgc weights inspect dino.safetensors",
        "rsdgc weights inspect dino.safetensors --model resnet18 --bands B02,B03,B04 --classes 10",
        "rsdgc weights inspect runs/a/model.safetensors --model fusion-concat --data data/",
    )
)
def inspect(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
    model: Model = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Store or partition that the model would be trained on: modalities, bands, "
            "classes and chip size are then its."
        ),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Number of bands (otherwise 3), or their names by commas.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes (2).", min=2)] = None,
    chip_px: Annotated[int | None, typer.Option(help="Side of a chip, pixels (64).", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All entries, as JSON.")] = False,
) -> None:
    """List the tensors of a file, or what a model would start from."""
    single = given({"--bands": bands, "--classes": classes, "--chip-px": chip_px})
    _check_described(model, data, single)
    from fl_app.models.weight_file import WeightFile

    content = WeightFile(file)
    if model is None:
        _list_tensors(content, as_json=as_json)
        return
    import torch

    from data_prep.dataset import open_data
    from fl_app.models import build_model, takes_modalities
    from fl_app.models.initial_weights import match_weights
    from fl_app.site_data import modality_infos
    from strategies.sites import ModalityInfo

    if data is not None:
        store = open_data(data).store
        modalities, num_classes = modality_infos(store), len(store.classes)
        num_bands = sum(len(modality.bands) for modality in modalities)
    elif takes_modalities(model):
        raise SettingError(
            f"model {model!r} has a branch for each modality: name a store or a partition that "
            "has them with --data"
        )
    else:
        text = bands or "3"
        names = [] if text.isdigit() else words(text)
        modalities, num_classes = (ModalityInfo("", tuple(names), chip_px or 64),), classes or 2
        num_bands = int(text) if text.isdigit() else len(names)
    px = max(modality.px for modality in modalities)
    with torch.device("meta"):  # shapes alone are enough
        built = build_model(model, num_bands, num_classes, px, modalities=modalities)
    match = match_weights(built, content, modalities)
    if as_json:
        typer.echo(json.dumps(match.to_mapping(), indent=1))
        return
    for name in match.adapted:
        typer.echo(f"adapted  {name}: {match.reasons[name]}")
    for name in match.new:
        typer.echo(f"new      {name}: {match.reasons[name]}")
    for name in match.unused:
        typer.echo(f"unused   {name}")
    typer.echo(match.summary())


def _check_described(model: str | None, data: Path | None, single: Collection[str]) -> None:
    """Refuse options that have no effect beside the others."""
    if data is not None and (model is None or single):
        remedy = f"leave out {', '.join(single)}" if single else "name the model with --model"
        raise SettingError(f"--data describes all that a model takes: {remedy}")
    if single and model is None:
        raise SettingError(
            f"{', '.join(single)} would change nothing in the list of a file: name the model with "
            "--model"
        )


def _list_tensors(content: WeightFile, *, as_json: bool) -> None:
    if as_json:
        entries = {name: asdict(entry) for name, entry in content.entries.items()}
        typer.echo(json.dumps(entries, indent=1))
        return
    for name, entry in content.entries.items():
        typer.echo(f"{name}  {entry.dtype}  {'×'.join(map(str, entry.shape)) or 'a number'}")
