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
from typing import Annotated, Any

import typer

from rsdgc.errors import RsdgcError, RunError, SettingError

app = typer.Typer(
    help="Federated learning over thin links for remote-sensing archives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

site = typer.Typer(help="What runs keep at a site.", no_args_is_help=True)
app.add_typer(site, name="site")


class Layout(StrEnum):
    """How imagery lies in a folder."""

    CLASS_FOLDERS = "class-folders"
    SCENES = "scenes"


class PartitionScheme(StrEnum):
    """How chips are given to sites."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    SCENE = "scene"
    BLOCK = "block"
    FOLDER = "folder"


Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist yet.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]


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
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    sites: Annotated[int, typer.Option(help="Number of sites.", min=1)] = 4,
    seed: Seed = 0,
) -> None:
    """Write a synthetic archive: scenes in UTM with land cover, elevation and labels."""
    from data_prep.synth import write_archive

    report = write_archive(out, sites=sites, seed=seed)
    typer.echo(f"{out}: synthetic archive of {sites} sites, {report.scenes} scenes")


@app.command(name="indian-pines")
def indian_pines(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
) -> None:
    """Write the Indian Pines scene as GeoTIFF (needs the extra ``rsdgc[demo]``)."""
    from data_prep.indian_pines import write_indian_pines

    typer.echo(f"{write_indian_pines(out)}: Indian Pines, 145×145 px, 200 bands, 16 classes")


@app.command()
def ingest(
    src: Annotated[Path, typer.Argument(help="Folder with imagery.")],
    out: Out,
    layout: Annotated[Layout, typer.Option(help="How the imagery lies in SRC.")] = Layout.SCENES,
    labels: Annotated[
        str | None, typer.Option(help="Label raster: a path, or a name within each scene.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A layer as NAME=GLOB; may be repeated.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="JSON file of label code → class name.")
    ] = None,
    chip: Annotated[int | None, typer.Option(help="Chip size in pixels.", min=1)] = None,
    stride: Annotated[int | None, typer.Option(help="Step between chips, pixels.", min=1)] = None,
    patch: Annotated[
        int | None, typer.Option(help="A patch of this odd size round every labelled pixel.")
    ] = None,
    test: Annotated[float, typer.Option(help="Share of samples held out.")] = 0.2,
    val: Annotated[float, typer.Option(help="Share of samples for validation.")] = 0.0,
    buffer: Annotated[
        int | None, typer.Option(help="Least distance of train and test, pixels.", min=0)
    ] = None,
    min_valid: Annotated[float, typer.Option(help="Least share of valid pixels in a chip.")] = 0.5,
    min_label: Annotated[float, typer.Option(help="Least share of labelled pixels.")] = 0.5,
    nodata: Annotated[float | None, typer.Option(help="Nodata value, over the files' own.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data in reports.")] = None,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option(help="Fail on the first unusable file.")] = False,
) -> None:
    """Turn imagery into a store of training chips with a buffered train/test split."""
    from data_prep.inspect import describe

    common: dict[str, Any] = {
        "test_share": test,
        "val_share": val,
        "nodata": nodata,
        "name": name,
        "seed": seed,
        "strict": strict,
    }
    if layout is Layout.CLASS_FOLDERS:
        from data_prep.ingest import ingest_class_folders

        ingest_class_folders(src, out, chip_px=chip, **common)
    else:
        from data_prep.ingest import ingest_scenes

        ingest_scenes(
            src,
            out,
            labels=labels,
            layers=layer,
            classes=classes,
            chip_px=chip or 64,
            stride_px=stride,
            patch_px=patch,
            buffer_px=buffer,
            min_valid=min_valid,
            min_label=min_label,
            **common,
        )
    describe(out)


@app.command()
def partition(
    store: Annotated[Path, typer.Argument(help="Store that `rsdgc ingest` wrote.")],
    out: Out,
    scheme: Annotated[PartitionScheme, typer.Option(help="How chips are given to sites.")],
    sites: Annotated[
        int | None,
        typer.Option(help="Number of sites; without it one a folder or scene.", min=1),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration; low is skewed.")] = 0.5,
    seed: Seed = 0,
) -> None:
    """Share a store out over sites; pixels stay where they are."""
    from data_prep.inspect import describe
    from data_prep.partition import partition as share_out

    share_out(store, out, sites=sites, scheme=scheme.value, alpha=alpha, seed=seed)
    describe(out)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Store or partition.")],
) -> None:
    """Show classes, sites, splits, bands and what was left out."""
    from data_prep.inspect import describe

    describe(path)


@app.command()
def simulate(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="More settings as key=value.", metavar="[KEY=VALUE]…")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Store or partition; default: the built-in synthetic one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    method: Annotated[
        str | None, typer.Option(help="How updates travel, see `rsdgc methods`.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Size of an upload, '100x' or bytes.")] = None,
    model: Annotated[str | None, typer.Option(help="Network, see `rsdgc models`.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    cpus_per_site: Annotated[int, typer.Option(help="CPUs of one site's work.", min=1)] = 1,
    force: Annotated[bool, typer.Option(help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this unfinished run, with its settings.")
    ] = None,
) -> None:
    """Run a federation on this machine, through Flower's simulation."""
    from fl_app.launch import launch
    from fl_app.launch import resume as go_on

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
    if resume is not None:
        if given or overrides or force:
            words = [f"--{key}" for key in given] + (overrides or []) + ["--force"] * force
            raise SettingError(f"--resume takes the run's own settings: leave out {words[0]}")
        go_on(resume, cpus_per_site=cpus_per_site)
        return
    launch(overrides or [], given, cpus_per_site=cpus_per_site, force=force)


@site.command()
def clean(
    state_dir: Annotated[Path, typer.Argument(help="A site's state-dir, or a run's state/.")],
    run: Annotated[str | None, typer.Option(help="Of this run alone.")] = None,
    name: Annotated[str | None, typer.Option("--site", help="Of this site alone.")] = None,
    older_than_days: Annotated[
        float, typer.Option(help="Only what was not changed for so many days.", min=0)
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
) -> None:
    """List the states that runs have left at this site, and delete them."""
    from clients.cleaning import clean_states

    for line in clean_states(
        state_dir, run=run, site=name, older_than_days=older_than_days, delete=yes
    ):
        typer.echo(line)


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="Store or partition.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the plot.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="More settings as key=value.", metavar="[KEY=VALUE]…")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, with commas between; METHOD+key=value is a variant.")
    ] = "fedavg,rs-dgc,topk",
    budgets: Annotated[str, typer.Option(help="Sizes of an upload, with commas.")] = "100x",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0",
    model: Annotated[str | None, typer.Option(help="Network, see `rsdgc models`.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    cpus_per_site: Annotated[int, typer.Option(help="CPUs of one site's work.", min=1)] = 1,
) -> None:
    """Run methods, budgets and seeds on the same data; go on where an earlier call stopped."""
    from fl_app.compare import compare as run_all
    from fl_app.compare import trials_of
    from fl_app.config import parse_overrides

    options = {"model": model, "rounds": rounds}
    given = {key: value for key, value in options.items() if value is not None}
    trials = trials_of(_words(methods), _words(budgets), [_seed(word) for word in _words(seeds)])
    common = {**parse_overrides(overrides or []), **given}
    table = run_all(data, out, trials, common, cpus_per_site=cpus_per_site)
    typer.echo(f"{table.read_text(encoding='utf-8')}table: {table}")


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
def methods() -> None:
    """Show every method, as a Markdown table."""
    from fl_app.methods import markdown_table

    typer.echo(markdown_table(), nl=False)


@app.command()
def settings() -> None:
    """Show every setting with its default, as a Markdown table."""
    from fl_app.config import markdown_table

    typer.echo(markdown_table(), nl=False)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _seed(word: str) -> int:
    if not word.isdigit():
        raise SettingError(f"seed '{word}' is no whole number")
    return int(word)


if __name__ == "__main__":
    main()
