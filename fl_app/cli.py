"""The ``rsdgc`` command.

===========  ===================================================================================
exit code    meaning (docs/commands.md)
===========  ===================================================================================
0            done; also where nobody reads the output of a command that only prints any more
1            what was asked for was tried and failed: a run, a check of a deployment
2            a mistake: an option, a setting, data, a file or a folder that cannot be used
130, 143     ended by Ctrl-C or SIGTERM; a line says what stands and which command goes on
141          ended, with the same line, because nobody reads its output any more
===========  ===================================================================================

A mistake is one line on standard error. Heavy modules are imported by the command that needs them,
so that ``rsdgc --help`` is quick.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import click
import typer

from fl_app.cli_data import add_data_commands
from fl_app.cli_deploy import add_deploy_commands
from fl_app.cli_options import (
    AsJson,
    Budget,
    CodeDir,
    Markdown,
    Method,
    Model,
    Overrides,
    Rounds,
    Seed,
    examples,
    given,
    new_group,
    print_json,
    words,
)
from fl_app.cli_use import add_use_commands
from fl_app.cli_weights import weights
from fl_app.interruption import (
    ENDED_BY_CTRL_C,
    ENDED_BY_SIGHUP,
    ENDED_BY_SIGTERM,
    Interrupted,
    code_of_signal,
    exit_on_signals,
)

app = new_group("Federated learning over thin links for remote-sensing archives.", completion=True)

site = new_group("A site of a federation, and the states that runs keep there.")
app.add_typer(site, name="site")

app.add_typer(weights, name="weights")

add_data_commands(app)
add_use_commands(app)
add_deploy_commands(app, site)


_NOT_DONE = "it was not done; the same command begins again"
"""Of a command that has not come far, or that leaves everything or nothing."""


def main() -> None:
    """Run the command line."""
    exit_on_signals()
    exit_code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)


def _run() -> int:
    """Run the command that was typed, explain in a line what ended it, and return the exit code."""
    try:
        result = app(prog_name="rsdgc", standalone_mode=False)
        if result == ENDED_BY_CTRL_C:  # Typer's number for it
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return _explain(_NOT_DONE, ENDED_BY_CTRL_C, "interrupted")
    except SystemExit as stop:
        # Typer's answer to a closed pipe is to exit with 1, after it has replaced the output.
        closed = type(sys.stdout).__name__.endswith("PacifyFlushWrapper")
        if stop.code in (ENDED_BY_SIGTERM, ENDED_BY_SIGHUP):
            return _explain(_NOT_DONE, int(stop.code), "interrupted")
        return 0 if closed else int(stop.code or 0)
    except Exception as error:
        return _explain_error(error)
    return result if isinstance(result, int) else 0  # Typer's number for --help


def _explain_error(error: Exception) -> int:
    """Explain an error that has a cause outside of this program; raise any other again."""
    if isinstance(error, click.ClickException):
        return _explain_usage(error)
    if isinstance(error, click.Abort):
        return _explain(_NOT_DONE, ENDED_BY_CTRL_C, "interrupted")
    if isinstance(error, Interrupted):
        return _explain(str(error), error.exit_code, "interrupted")
    from rsdgc.errors import RsdgcError, RunError, RunFolderError, describe_os_error

    if isinstance(error, OSError):
        return _explain(describe_os_error(error), 2)
    if not isinstance(error, RsdgcError):
        if code := code_of_signal(error):
            return _explain(_NOT_DONE, code, "interrupted")
        raise error
    failed = isinstance(error, RunError) and not isinstance(error, RunFolderError)
    failed = failed and not isinstance(error.__cause__, OSError)  # a file or a disk is at fault
    return _explain(str(error), 1 if failed else 2)


def _explain_usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    context = getattr(error, "ctx", None)
    command = "rsdgc" if context is None else context.command_path
    # Both Click and Typer may suggest a command.
    text = re.sub(r"( Did you mean [^?]*\?)\1", r"\1", error.format_message())
    text = re.sub(r"\s*\n\t", " ", text)  # the choices of an option that is missing
    end = "" if text.endswith((".", "?", "?)")) else "."
    return _explain(f"{text}{end} See {command} --help.", error.exit_code)


def _explain(text: str, exit_code: int, title: str = "error") -> int:
    from rsdgc.plain_text import escape_hidden

    print(f"{title}: {escape_hidden(' '.join(text.splitlines()))}", file=sys.stderr)
    return exit_code


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"rsdgc {version('rsdgc')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001  # its callback answers
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Federated learning over thin links for remote-sensing archives."""
    from rsdgc.registry import add_code_dir

    add_code_dir(Path.cwd())  # for modules of the user's own, such as that of a label format


@app.command(
    epilog=examples(
        "rsdgc simulate --rounds 5",
        "rsdgc simulate --data data/ --budget 100x --out runs/mine local-epochs=2",
        "rsdgc simulate --resume runs/mine",
    )
)
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
        Path | None,
        typer.Option(
            help="Continue this unfinished run, with its settings; KEY=VALUE may change those that "
            "do not enter its result."
        ),
    ] = None,
) -> None:
    """Run a federation on this machine, through Flower's simulation."""
    from fl_app.settings import Settings, merge_options

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
        if chosen or force:
            from rsdgc.errors import SettingError

            too_many = [f"--{key}" for key in chosen] + ["--force"] * force
            raise SettingError(f"--resume takes the run's own settings: leave out {too_many[0]}")
        typer.echo(f"continuing the run in {resume}")
        from fl_app.simulation import resume_simulation

        resume_simulation(resume, overrides or [], cpus_per_site=cpus_per_site)
        return
    # Checked before PyTorch and Flower are loaded, which takes seconds.
    settings = Settings.from_mapping(merge_options(overrides or [], chosen))
    typer.echo(
        f"checking the run: {settings.rounds} rounds of {settings.method} with {settings.model} on "
        f"{settings.data_dir or 'the built-in synthetic data'}"
    )
    from fl_app.simulation import run_simulation

    run_simulation(settings, cpus_per_site=cpus_per_site, force=force)


@site.command(
    epilog=examples(
        "rsdgc site clean runs/mine/state", "rsdgc site clean state/ --older-than-days 30 --yes"
    )
)
def clean(
    state_dir: Annotated[Path, typer.Argument(help="A site's state-dir, or a run's state/.")],
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    name: Annotated[str | None, typer.Option("--site", help="Only of this site.")] = None,
    older_than_days: Annotated[
        float, typer.Option(help="Only states unchanged for this many days.", min=0)
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it, only list.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the states that runs have left at this site, or delete them."""
    from clients.state_cleanup import clean_states, summary

    listed = []
    for state in clean_states(
        state_dir, run=run, site=name, older_than_days=older_than_days, delete=yes
    ):
        listed.append(state)
        if not as_json:
            typer.echo(str(state))
    if as_json:
        print_json([asdict(state) for state in listed])
    else:
        typer.echo(summary(listed, deleted=yes))


@app.command(
    epilog=examples(
        "rsdgc compare data/ --out runs/all --methods fedavg,rs-dgc,topk --seeds 0,1,2",
        "rsdgc compare data/ --out runs/steps --methods rs-dgc,rs-dgc+step-ahead=0 rounds=20",
    )
)
def compare(
    data: Annotated[Path, typer.Argument(help="Store or partition.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the runs, the table, the plot and the page.")
    ],
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
    from fl_app.compare.trials import check_common, trials_of
    from fl_app.settings import Settings, merge_options

    trials = trials_of(words(methods), words(budgets), [_seed(word) for word in words(seeds)])
    common = merge_options(overrides or [], given({"model": model, "rounds": rounds}))
    # Checked before PyTorch and Flower are loaded; a trial may bring what a setting needs.
    check_common(common)
    Settings.from_mapping(common, complete=False)
    typer.echo(f"comparing {len(trials)} runs on {data}")
    from fl_app.compare import compare as run_all

    table = run_all(data, out, trials, common, cpus_per_site=cpus_per_site)
    typer.echo(f"{table.read_text(encoding='utf-8')}table: {table}")
    typer.echo(f"page: {table.with_suffix('.html')}")


@app.command(
    epilog=examples(
        "rsdgc report runs/mine --data /mnt/archive/data",
        "rsdgc report runs/mine --baseline runs/dense --figures paper/figures",
    )
)
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Its data, if they have moved since the run.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A run folder whose curves stand beside, such as one of dense FedAvg."),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(help="Scenes to draw; without it, those that take some seconds.", min=1),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for every figure as SVG, PNG and CSV.")
    ] = None,
    code_dir: CodeDir = None,
) -> None:
    """Write a run's report again, with a baseline, more scenes or files of its figures."""
    from data_prep.dataset import open_data
    from fl_app.report import write_report
    from rsdgc.registry import add_code_dir

    if code_dir is not None:
        add_code_dir(code_dir)
    if data is not None:
        open_data(data)  # a report without pictures would hide that they cannot be used
    page = write_report(run, data, baseline=baseline, scenes=scenes, figures=figures)
    typer.echo(f"report: {page}")
    if figures is not None:
        typer.echo(f"figures: {figures}")


@app.command(epilog=examples("rsdgc models", "rsdgc models --json"))
def models(as_json: AsJson = False) -> None:
    """List the models, and how to name one of your own."""
    from data_prep.terminal_table import Column, print_table
    from fl_app.model_catalog import MODEL_TABLE, OTHER_MODELS

    if as_json:
        print_json([row._asdict() for row in MODEL_TABLE])
        return
    titles = ("name", "parameters", "least px", "for")
    columns = [Column(title, number=title == "least px") for title in titles]
    print_table(columns, [list(map(str, row)) for row in MODEL_TABLE])
    for line in OTHER_MODELS:
        typer.echo(line)


@app.command(epilog=examples("rsdgc methods", "rsdgc methods --markdown"))
def methods(as_json: AsJson = False, markdown: Markdown = False) -> None:
    """Show what each method sends."""
    from data_prep.terminal_table import Column, print_table
    from fl_app import methods as module

    if markdown:
        typer.echo(module.markdown_table(), nl=False)
        return
    table = [{"method": name, "about": module.METHODS[name].about} for name in module.METHODS]
    if as_json:
        print_json(table)
        return
    columns = [Column("method"), Column("what it sends")]
    print_table(columns, [list(row.values()) for row in table])


@app.command(epilog=examples("rsdgc settings", "rsdgc settings --json"))
def settings(as_json: AsJson = False, markdown: Markdown = False) -> None:
    """Show every setting with its default."""
    from data_prep.terminal_table import Column, print_table
    from fl_app import settings_table as module

    if markdown:
        typer.echo(module.markdown_table(), nl=False)
        return
    if as_json:
        print_json(module.settings_table())
        return
    for group, settings_of_group in module.settings_by_group().items():
        rows = [
            [row["key"], json.dumps(row["default"]), row["meaning"]] for row in settings_of_group
        ]
        print_table([Column("key"), Column("default"), Column("meaning")], rows, title=group)


def _seed(word: str) -> int:
    if not word.isdigit():
        from rsdgc.errors import SettingError

        raise SettingError(f"seed '{word}' is not a whole number: give --seeds such as 0,1,2")
    return int(word)


if __name__ == "__main__":
    main()
