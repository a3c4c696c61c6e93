"""The commands of ``rsdgc`` for data: synth, indian-pines, ingest, partition, inspect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.choices import Edge, Layout, PartitionScheme, SplitBy, Unknown
from fl_app.cli_options import (
    AsJson,
    ComplexMode,
    MaskClouds,
    Masks,
    ModalityFiles,
    Nodata,
    examples,
    print_json,
)
from fl_app.interruption import explain_interruption

Force = Annotated[bool, typer.Option("--force", help="Replace another store at --out.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist yet.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]


def add_data_commands(app: typer.Typer) -> None:
    """Add the commands, in the order of ``rsdgc --help``."""
    app.command(epilog=examples("rsdgc synth archive/ --sites 4 --seed 0"))(synth)
    app.command(name="indian-pines", epilog=examples("rsdgc indian-pines indian_pines/"))(
        indian_pines
    )
    app.command(
        epilog=examples(
            "rsdgc ingest archive/ --dry-run",
            "rsdgc ingest archive/ --labels landcover.tif --chip 64 --out store/",
            "rsdgc ingest UCMerced/ --layout class-folders --out store/",
        )
    )(ingest)
    app.command(
        epilog=examples(
            "rsdgc partition store/ --sites 6 --scheme dirichlet --alpha 0.5 --out data/",
            "rsdgc partition store/ --scheme folder --out data/",
        )
    )(partition)
    app.command(epilog=examples("rsdgc inspect store/", "rsdgc inspect data/ --html data.html"))(
        inspect
    )


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    sites: Annotated[int, typer.Option(help="Number of sites.", min=1)] = 4,
    seed: Seed = 0,
    scenes_per_site: Annotated[int, typer.Option(help="Scenes of a site.", min=1)] = 5,
    scene_px: Annotated[int, typer.Option(help="Side of a scene, pixels.", min=1)] = 576,
) -> None:
    """Write a synthetic archive: scenes in UTM with land cover, elevation and labels."""
    from data_prep.synth import write_archive

    scenes = write_archive(
        out, sites=sites, seed=seed, scenes_per_site=scenes_per_site, scene_px=scene_px
    )
    typer.echo(f"{out}: synthetic archive of {sites} sites, {len(scenes)} scenes")


def indian_pines(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
) -> None:
    """Write the Indian Pines scene as GeoTIFF (needs the extra ``rsdgc[demo]``)."""
    from data_prep.indian_pines import write_indian_pines

    typer.echo(f"{write_indian_pines(out)}: Indian Pines, 145×145 px, 200 bands, 16 classes")


#: Parameters of ``rsdgc ingest`` that say how scenes are read, and nothing about single images.
SCENE_PARAMETERS = frozenset(
    (
        *("labels", "label_format", "label_year", "label_nodata", "remap", "label_column"),
        *("label_layer", "priority", "all_touched", "modality", "pattern", "mask", "mask_clouds"),
        *("aoi", "crs", "label_crs", "stride", "edge", "patch", "split_by", "buffer", "block"),
        *("min_valid", "min_label"),
    )
)


def _check_images_options(context: typer.Context) -> None:
    """Raise SettingError for an option that was given and does not apply to class folders."""
    from rsdgc.errors import SettingError

    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in SCENE_PARAMETERS and source is not None and source.name == "COMMANDLINE":
            raise SettingError(
                f"{parameter.opts[0]} does not apply to class folders, whose images have a class "
                "each and no place: leave it out, or use --layout scenes"
            )


def ingest(
    context: typer.Context,
    src: Annotated[
        str, typer.Argument(help="Folder or zip file with imagery; a TOML or CSV description.")
    ],
    out: Annotated[Path | None, typer.Option(help="Store to write; it must not exist yet.")] = None,
    layout: Annotated[Layout, typer.Option(help="Layout of the imagery in SRC.")] = Layout.SCENES,
    labels: Annotated[
        str | None, typer.Option(help="Raster or polygons: a path, or a name within each scene.")
    ] = None,
    label_format: Annotated[
        str | None,
        typer.Option(help="raster, polygons or package.module:Class; default: by the file's name."),
    ] = None,
    label_year: Annotated[
        int | None,
        typer.Option(help="Year of the labels, where several files differ in it; see {year}."),
    ] = None,
    label_nodata: Annotated[
        list[str] | None,
        typer.Option(help="Value of the labels that means no label; may be repeated."),
    ] = None,
    remap: Annotated[
        list[str] | None,
        typer.Option(
            help="Class of label values: CLASS=11,12 or a CSV of value,class; may be repeated."
        ),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="For polygons: the column of the class.")
    ] = None,
    label_layer: Annotated[
        str | None, typer.Option(help="For polygons: the layer, if the file has several.")
    ] = None,
    priority: Annotated[
        list[str] | None,
        typer.Option(help="A class that wins where polygons overlap; repeat, strongest first."),
    ] = None,
    all_touched: Annotated[
        bool, typer.Option(help="Polygons label every pixel that they touch.")
    ] = False,
    modality: ModalityFiles = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="What file names mean, as {scene}_{band}.tif; also {modality}, {date}, *, ?."
        ),
    ] = None,
    mask: Masks = None,
    mask_clouds: MaskClouds = False,
    aoi: Annotated[
        Path | None, typer.Option(help="Polygons; pixels outside count as invalid.")
    ] = None,
    crs: Annotated[
        list[str] | None,
        typer.Option(
            help="CRS of images in place of the files' own: EPSG:32633, or NAME=EPSG:32633; may be "
            "repeated."
        ),
    ] = None,
    label_crs: Annotated[
        str | None, typer.Option(help="CRS of the labels in place of the file's own.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="JSON or CSV file of label code → class name, color.")
    ] = None,
    unknown: Annotated[
        Unknown, typer.Option(help="What to do with a label outside the class list.")
    ] = Unknown.ERROR,
    chip: Annotated[int | None, typer.Option(help="Chip size in pixels.", min=1)] = None,
    stride: Annotated[int | None, typer.Option(help="Step between chips, pixels.", min=1)] = None,
    edge: Annotated[
        Edge, typer.Option(help="What to do with windows over the scene's edge.")
    ] = Edge.DROP,
    patch: Annotated[
        int | None, typer.Option(help="Cut a patch of this odd size around every labeled pixel.")
    ] = None,
    split_by: Annotated[
        SplitBy | None,
        typer.Option(help="What goes into one split as a whole; default: blocks."),
    ] = None,
    test: Annotated[float, typer.Option(help="Share of samples for the test.")] = 0.2,
    val: Annotated[float, typer.Option(help="Share of samples for validation.")] = 0.0,
    buffer: Annotated[
        int | None, typer.Option(help="Least distance between train and test, pixels.", min=0)
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Side of a block, pixels; default: found by search.", min=1)
    ] = None,
    min_valid: Annotated[float, typer.Option(help="Least share of valid pixels in a chip.")] = 0.5,
    min_label: Annotated[float, typer.Option(help="Least share of labeled pixels.")] = 0.5,
    nodata: Nodata = None,
    complex_mode: ComplexMode = None,
    name: Annotated[str | None, typer.Option(help="Name of the data in reports.")] = None,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option(help="Fail on the first unusable file.")] = False,
    processes: Annotated[
        int | None, typer.Option(help="Jobs in parallel; default: one per CPU.", min=1)
    ] = None,
    check_space: Annotated[
        bool, typer.Option(help="Begin only if the disk has room for a sample of every window.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option(help="Show what would be written, and write nothing.")
    ] = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Turn imagery into a store of training chips with a buffered train/test split.

    The same call again continues one that was interrupted, and does nothing after a complete one.
    """
    from rsdgc.errors import SettingError

    # the labels' nodata value is given like those of modalities, too
    mark = "labels="
    of_labels = [text.removeprefix(mark) for text in nodata or [] if text.startswith(mark)]
    common: dict[str, Any] = {
        "classes": classes,
        "unknown": unknown.value,
        "test_share": test,
        "val_share": val,
        "nodata": read_nodata([text for text in nodata or [] if not text.startswith(mark)]),
        "complex_mode": complex_mode,
        "name": name,
        "seed": seed,
        "strict": strict,
    }
    scenes: dict[str, Any] = {
        "labels": labels,
        "label_format": label_format,
        "label_year": label_year,
        "label_nodata": [*(label_nodata or []), *of_labels],
        "remap": remap or (),
        "label_column": label_column,
        "label_layer": label_layer,
        "priority": priority or (),
        "all_touched": all_touched,
        "modalities": modality,
        "patterns": pattern or (),
        "masks": mask or (),
        "mask_clouds": mask_clouds,
        "aoi": aoi,
        "crs": read_crs(crs or []),
        "label_crs": label_crs,
        "chip_px": chip or 64,
        "stride_px": stride,
        "edge": edge.value,
        "patch_px": patch,
        "split_by": None if split_by is None else split_by.value,
        "buffer_px": buffer,
        "block_px": block,
        "min_valid": min_valid,
        "min_label": min_label,
    }
    images = layout is Layout.CLASS_FOLDERS
    options = common | ({"chip_px": chip} if images else scenes)
    if images and isinstance(options["nodata"], dict):
        raise SettingError("images have one modality: give --nodata as a number")
    if images:
        _check_images_options(context)
    if dry_run:
        _show_plan(src, images, options, as_json)
        return
    if out is None:
        raise SettingError("no --out: name the store to write, or use --dry-run")
    with explain_interruption(
        lambda: f"{out} was not written; what is done stays beside it, and the same command goes on"
    ):
        from data_prep.ingest.class_folders import ingest_class_folders
        from data_prep.ingest.scenes import ingest_scenes
        from data_prep.inspect import describe, print_description

        make = ingest_class_folders if images else ingest_scenes
        make(src, out, processes=processes, overwrite=force, check_space=check_space, **options)
    _show(describe(out), print_description, as_json)


def _show_plan(src: str, images: bool, options: dict[str, Any], as_json: bool) -> None:
    from data_prep.ingest.dry_run import plan_facts, plan_image_facts, print_plan

    _show((plan_image_facts if images else plan_facts)(src, **options), print_plan, as_json)


def _show(
    facts: dict[str, Any], print_facts: Callable[[dict[str, Any]], None], as_json: bool
) -> None:
    (print_json if as_json else print_facts)(facts)


def read_nodata(texts: list[str]) -> float | dict[str, float] | None:
    """Read ``V`` and ``NAME=V`` texts, NAME being a modality."""
    from rsdgc.errors import SettingError

    by_modality: dict[str, float] = {}
    for text in texts:
        modality, _, value = text.rpartition("=")
        try:
            number = float(value)
            # no float holds some integers of 64 bits
            whole = int(value) if value.strip().lstrip("+-").isdecimal() else None
            exact = whole is None or int(number) == whole
            by_modality[modality] = number if exact or whole is None else whole
        except ValueError as error:
            raise SettingError(f"--nodata {text!r} is not a number: write V or NAME=V") from error
    if "" in by_modality and len(by_modality) > 1:
        raise SettingError(
            "--nodata is given for all modalities and for one: choose one of the two"
        )
    return by_modality.get("", by_modality or None)


def read_crs(texts: list[str]) -> str | dict[str, str] | None:
    """Read ``CRS`` and ``NAME=CRS`` texts, NAME being a modality; PROJ's texts have ``=`` too."""
    from rsdgc.errors import SettingError

    by_modality: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(r"(?!proj=|init=)([\w-]+)=(.+)", text, re.DOTALL)
        name, crs = (match[1], match[2]) if match else ("", text)
        if by_modality.setdefault(name, crs) != crs:
            which = f"for {name} " if name else ""
            raise SettingError(
                f"--crs is given twice {which}({by_modality[name]} and {crs}): choose one, or name "
                "the modality of each, as in --crs dem=EPSG:4326"
            )
    return by_modality[""] if list(by_modality) == [""] else by_modality or None


def partition(
    store: Annotated[Path, typer.Argument(help="Store that `rsdgc ingest` wrote.")],
    out: Out,
    scheme: Annotated[PartitionScheme, typer.Option(help="How chips are divided over sites.")],
    sites: Annotated[
        int | None, typer.Option(help="Number of sites; default: one per folder or scene.", min=1)
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration; low values skew the classes.")
    ] = 0.5,
    classes_per_site: Annotated[
        int, typer.Option(help="Classes per site, for the scheme classes.", min=1)
    ] = 2,
    without: Annotated[
        list[str] | None,
        typer.Option(help="SITE=MODALITY that the site lacks, for experiments; repeatable."),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another partition at --out.")
    ] = False,
) -> None:
    """Divide a store over sites; no pixel is copied."""
    from data_prep.inspect import describe, print_description
    from data_prep.partition import partition as divide

    divide(
        store,
        out,
        sites=sites,
        scheme=scheme.value,
        alpha=alpha,
        classes_per_site=classes_per_site,
        seed=seed,
        lacking=_lacking(without or []),
        overwrite=force,
    )
    _show(describe(out), print_description, as_json)


def _lacking(texts: list[str]) -> dict[str, list[str]]:
    """Read ``SITE=MODALITY`` texts, with commas between several modalities."""
    from rsdgc.errors import SettingError

    lacking: dict[str, list[str]] = {}
    for text in texts:
        site, _, modalities = text.rpartition("=")
        if not site or not modalities:
            raise SettingError(f"--without {text!r} is not SITE=MODALITY, as site-02=elevation")
        lacking.setdefault(site, []).extend(modalities.split(","))
    return lacking


def inspect(
    path: Annotated[Path, typer.Argument(help="Store or partition.")],
    html: Annotated[
        Path | None, typer.Option(help="HTML page to write, with maps and charts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show classes, sites, splits, bands and what was left out."""
    from data_prep.inspect import describe, print_description

    facts = describe(path)
    _show(facts, print_description, as_json)
    if html is not None:
        from data_prep.data_page import write_data_page

        typer.echo(f"page: {write_data_page(path, html, facts)}", err=as_json)
