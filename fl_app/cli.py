"""The ``rsdgc`` command.

A mistake in settings or data ends in one line on standard error and exit code 2, a failed run in
exit code 1. Heavy modules are imported by the command that needs them, so that ``rsdgc --help`` is
quick.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_data import add_data_commands
from fl_app.cli_deploy import add_deploy_commands
from fl_app.cli_options import Budget, Method, Model, Overrides, Rounds, Seed, given, words
from fl_app.cli_weights import weights
from rsdgc.errors import RsdgcError, RunError, SettingError
from rsdgc.plain_text import escape_hidden
from rsdgc.registry import add_code_dir

app = typer.Typer(
    help="Federated learning over thin links for remote-sensing archives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

site = typer.Typer(
    help="A site of a federation, and the states that runs keep there.", no_args_is_help=True
)
app.add_typer(site, name="site")

app.add_typer(weights, name="weights")

add_data_commands(app)
add_deploy_commands(app, site)


def main() -> None:
    """Run the command line; the entry point of ``rsdgc``."""
    # On SIGTERM Python would end at once; an exit lets a command end the processes it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    add_code_dir(Path.cwd())  # for modules of the user's own, such as that of a label format
    try:
        app()
    except RsdgcError as error:
        print(f"error: {escape_hidden(str(error))}", file=sys.stderr)
        sys.exit(1 if isinstance(error, RunError) else 2)


@app.command()
def simulate(
    overrides: Overrides = None,
    data: Annotated[
        Path | None, typer.Option(help="Store or partition; default: built-in synthetic data.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    method: Method = None,
    budget: Budget = None,
    model: Model = None,
    rounds: Rounds = None,
    seed: Seed = None,
    cpus_per_site: Annotated[int, typer.Option(help="CPUs for each site's work.", min=1)] = 1,
    force: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this unfinished run, with its settings.")
    ] = None,
) -> None:
    """Run a federation on this machine, through Flower's simulation."""
    from fl_app.simulation import resume_simulation, run_simulation

    options = {
        "data-dir": None if data is None else str(data),
        "out": None if out is None else str(out),
        "method": method,
        "budget": budget,
        "model": model,
        "rounds": rounds,
        "seed": seed,
    }
    chosen = given(options)
    if resume is not None:
        if chosen or overrides or force:
            too_many = [f"--{key}" for key in chosen] + (overrides or []) + ["--force"] * force
            raise SettingError(f"--resume takes the run's own settings: leave out {too_many[0]}")
        resume_simulation(resume, cpus_per_site=cpus_per_site)
        return
    run_simulation(overrides or [], chosen, cpus_per_site=cpus_per_site, force=force)


@site.command()
def clean(
    state_dir: Annotated[Path, typer.Argument(help="A site's state-dir, or a run's state/.")],
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    name: Annotated[str | None, typer.Option("--site", help="Only of this site.")] = None,
    older_than_days: Annotated[
        float, typer.Option(help="Only states unchanged for this many days.", min=0)
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it, only list.")] = False,
) -> None:
    """List the states that runs have left at this site, or delete them."""
    from clients.state_cleanup import clean_states

    for line in clean_states(
        state_dir, run=run, site=name, older_than_days=older_than_days, delete=yes
    ):
        typer.echo(line)


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="Store or partition.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the plot.")],
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; METHOD+key=value is a variant.")
    ] = "fedavg,rs-dgc,topk",
    budgets: Annotated[str, typer.Option(help="Sizes of an upload, separated by commas.")] = "100x",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    model: Model = None,
    rounds: Rounds = None,
    cpus_per_site: Annotated[int, typer.Option(help="CPUs for each site's work.", min=1)] = 1,
) -> None:
    """Compare methods, budgets and seeds on the same data; runs that are complete are kept."""
    from fl_app.compare import compare as run_all
    from fl_app.compare import trials_of
    from fl_app.settings import parse_overrides

    trials = trials_of(words(methods), words(budgets), [_seed(word) for word in words(seeds)])
    chosen = given({"model": model, "rounds": rounds})
    common = {**parse_overrides(overrides or []), **chosen}
    table = run_all(data, out, trials, common, cpus_per_site=cpus_per_site)
    typer.echo(f"{table.read_text(encoding='utf-8')}table: {table}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Its data, if they have moved since the run.")
    ] = None,
    code_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the module of the run's own model; the current folder otherwise. Code "
            "is never taken from where a run folder says."
        ),
    ] = None,
) -> None:
    """Write a run's report again."""
    from fl_app.report import write_report

    if code_dir is not None:
        add_code_dir(code_dir)
    typer.echo(f"report: {write_report(run, data)}")


@app.command()
def models() -> None:
    """List the models, and how to name one of your own."""
    from fl_app.models import ARGUMENTS, MODELS

    for name in MODELS:
        typer.echo(name)
    typer.echo('timm:NAME  (a network of timm, such as timm:resnet18; pip install "rsdgc[timm]")')
    typer.echo(
        "package.module:function  (your own: it is called with those of "
        f"{', '.join(ARGUMENTS)} that it asks for by name)"
    )


@app.command()
def methods() -> None:
    """Show every method, as a Markdown table."""
    from fl_app.methods import markdown_table

    typer.echo(markdown_table(), nl=False)


@app.command()
def settings() -> None:
    """Show every setting with its default, as a Markdown table."""
    from fl_app.settings import markdown_table

    typer.echo(markdown_table(), nl=False)


def _seed(word: str) -> int:
    if not word.isdigit():
        raise SettingError(f"seed '{word}' is not a whole number: give --seeds such as 0,1,2")
    return int(word)


if __name__ == "__main__":
    main()
