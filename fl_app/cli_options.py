"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(help="More settings as key=value.", metavar="[KEY=VALUE]…")
]
Method = Annotated[str | None, typer.Option(help="How updates travel, see `rsdgc methods`.")]
Budget = Annotated[str | None, typer.Option(help="Size of an upload, '100x' or bytes.")]
Model = Annotated[str | None, typer.Option(help="Model to train, see `rsdgc models`.")]
Rounds = Annotated[int | None, typer.Option(help="Federated rounds.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def words(text: str) -> list[str]:
    """Split a list that is separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]
