"""What the commands share: options, groups, examples in the help, and JSON in place of tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

# Typer escapes brackets for Rich even where Rich does not print the help: "\[default: 1]".
typer.core.HAS_RICH = False

Overrides = Annotated[
    list[str] | None, typer.Argument(help="More settings as key=value.", metavar="[KEY=VALUE]…")
]
Method = Annotated[str | None, typer.Option(help="How updates travel, see `rsdgc methods`.")]
Budget = Annotated[str | None, typer.Option(help="Size of an upload, '100x' or bytes.")]
Model = Annotated[str | None, typer.Option(help="Model to train, see `rsdgc models`.")]
Rounds = Annotated[int | None, typer.Option(help="Federated rounds.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print the table in Markdown, as in the documentation.")
]
CodeDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the module of the run's own model; the current folder otherwise. Code is "
        "never taken from where a run folder says."
    ),
]

ModalityFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--modality", "--layer", help="Files of a modality as NAME=GLOB; may be repeated."
    ),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(help="Invalid pixels: GLOB=3,8,9 or GLOB=bits:3,4; may be repeated."),
]
MaskClouds = Annotated[
    bool, typer.Option(help="Clouds are invalid, by the masks of Landsat, Sentinel-2 or HLS.")
]
Nodata = Annotated[
    list[str] | None,
    typer.Option(help="Nodata value in place of the files' own: V, or NAME=V; may be repeated."),
]
ComplexMode = Annotated[
    str | None, typer.Option("--complex", help="Read complex values as amp or db.")
]


def new_group(text: str, *, completion: bool = False) -> typer.Typer:
    """Return an empty group of commands with this help."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=completion,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def examples(*commands: str) -> str:
    """Return the end of a command's help: commands to copy, one a line."""
    # \b keeps the lines as they are
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def print_json(value: Any) -> None:
    """Print a value as JSON, paths as texts."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def words(text: str) -> list[str]:
    """Split a list that is separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
