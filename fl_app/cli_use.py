"""The commands around a run's result, and for help: doctor."""

from __future__ import annotations

from dataclasses import asdict

import typer

from fl_app.cli_options import AsJson, examples, print_json


def add_use_commands(app: typer.Typer) -> None:
    """Add the commands, in the order of ``rsdgc --help``."""
    app.command(epilog=examples("rsdgc doctor", "rsdgc doctor --json"))(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, memory, disk, Flower, ports, GDAL and PROJ, GPU.

    Exits with 1 if a check failed.
    """
    from fl_app.deploy.checks import format_table
    from fl_app.doctor import check_machine
    from rsdgc.errors import RunError

    results = list(check_machine())
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        typer.echo(format_table(results))
    if failed := [result.subject for result in results if result.status == "FAILED"]:
        raise RunError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
