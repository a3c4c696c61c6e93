"""The ``rsdgc`` command.

Every mistake that a person can make ends in one line on standard error and exit code 2; a run
that failed ends in exit code 1. Heavy modules are imported by the command that needs them, so
that ``rsdgc --help`` is quick.
"""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_data import add_data_commands
from rsdgc.errors import RsdgcError, RunError

app = typer.Typer(
    help="Federated learning over thin links for remote-sensing archives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


class Method(StrEnum):
    """How updates travel."""

    RS_DGC = "rs-dgc"
    TOPK = "topk"
    FEDAVG = "fedavg"


add_data_commands(app)


def main() -> None:
    """Run the command line; the entry point of ``rsdgc``."""
    # What a command has started is ended on the way out, also when it is told to terminate.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except RsdgcError as error:
        print(f"error: {error}", file=sys.stderr)  # the command's one line
        sys.exit(1 if isinstance(error, RunError) else 2)


@app.command()
def simulate(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="More settings as key=value.", metavar="[KEY=VALUE]…")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Store or partition; default: the built-in synthetic one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    method: Annotated[Method | None, typer.Option(help="How updates travel.")] = None,
    budget: Annotated[str | None, typer.Option(help="Size of an upload, '100x' or bytes.")] = None,
    model: Annotated[str | None, typer.Option(help="Network, see `rsdgc models`.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    cpus_per_site: Annotated[int, typer.Option(help="CPUs of one site's work.", min=1)] = 1,
    force: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
) -> None:
    """Run a federation on this machine, through Flower's simulation."""
    from fl_app.launch import launch

    options = {
        "data-dir": None if data is None else str(data),
        "out": None if out is None else str(out),
        "method": method,
        "budget": budget,
        "model": model,
        "rounds": rounds,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    launch(overrides or [], given, cpus_per_site=cpus_per_site, force=force)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option(help="Its data, if they have moved since.")] = None,
) -> None:
    """Write a run's report anew."""
    from fl_app.report import write_report

    typer.echo(f"report: {write_report(run, data)}")


@app.command()
def models() -> None:
    """List the networks."""
    from fl_app.models import MODEL_NAMES

    for name in MODEL_NAMES:
        typer.echo(name)


@app.command()
def settings() -> None:
    """Show every setting with its default, as a Markdown table."""
    from fl_app.config import markdown_table

    typer.echo(markdown_table(), nl=False)


if __name__ == "__main__":
    main()
