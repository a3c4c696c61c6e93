"""The commands of ``rsdgc weights``: files of weights that a run can start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_options import Model, examples, new_group, words

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
    )
)
def inspect(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
    model: Model = None,
    bands: Annotated[str, typer.Option(help="Number of bands, or their names by commas.")] = "3",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=2)] = 2,
    chip_px: Annotated[int, typer.Option(help="Side of a chip, pixels.", min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="All entries, as JSON.")] = False,
) -> None:
    """List the tensors of a file, or what a model would start from."""
    from fl_app.models.weight_file import WeightFile

    content = WeightFile(file)
    if model is None:
        for name, entry in content.entries.items():
            typer.echo(f"{name}  {entry.dtype}  {'×'.join(map(str, entry.shape)) or 'a number'}")
        return
    import torch

    from fl_app.models import build_model
    from fl_app.models.initial_weights import match_weights
    from strategies.sites import ModalityInfo

    names = [] if bands.isdigit() else words(bands)
    with torch.device("meta"):  # shapes alone are enough
        built = build_model(model, len(names) or int(bands), classes, chip_px)
    match = match_weights(built, content, [ModalityInfo("", tuple(names), chip_px)])
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
