"""The commands around a run: its dashboard, its model, and the machine's doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fl_app.cli_options import (
    AsJson,
    CodeDir,
    ComplexMode,
    MaskClouds,
    Masks,
    ModalityFiles,
    Nodata,
    examples,
    print_json,
    words,
)
from fl_app.interruption import explain_interruption

SiteName = Annotated[
    str | None,
    typer.Option(
        "--site",
        help="The model of this site, where the run kept batch normalization at the sites.",
    ),
]
SiteStateDir = Annotated[
    Path | None,
    typer.Option(
        "--site-state", help="The site's state-dir; default: the run's own, of a simulation."
    ),
]


def add_use_commands(app: typer.Typer) -> None:
    """Add the commands, in the order of ``rsdgc --help``."""
    app.command(
        epilog=examples("rsdgc dashboard runs/mine", "rsdgc dashboard runs/mine --port 8080")
    )(dashboard)
    app.command(
        epilog=examples(
            "rsdgc predict runs/mine scene.tif --out map.tif",
            "rsdgc predict runs/mine archive/ --out maps/ --stride 16 --probabilities",
            "rsdgc predict runs/spring scene.tif --data store/ --bands B02,B03,B04 --out map.tif",
            "rsdgc predict runs/mine scene.tif --site site-00 --out map.tif",
        )
    )(predict)
    app.command(
        epilog=examples(
            "rsdgc export runs/mine --out model/",
            "rsdgc export runs/mine --best --format onnx --out model/",
        )
    )(export)
    app.command(epilog=examples("rsdgc doctor", "rsdgc doctor --json"))(doctor)


def dashboard(
    run: Annotated[Path, typer.Argument(help="Run folder, of a run that goes on or has ended.")],
    port: Annotated[
        int, typer.Option(help="Port on this machine; 0: a free one.", min=0, max=65535)
    ] = 0,
) -> None:
    """Serve a page that follows a run, to browsers on this machine, until Ctrl-C.

    It reads the run's folder, in a simulation and at the server of a deployment alike. To see it
    from elsewhere: ssh -L 8080:127.0.0.1:PORT SERVER
    """
    from fl_app.live.dashboard_server import serve

    serve(run, port)


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    scenes: Annotated[
        list[Path],
        typer.Argument(help="Rasters, folders of scenes, zip files, or TOML or CSV descriptions."),
    ],
    out: Annotated[Path, typer.Option(help="Map to write (.tif), or a folder for several.")],
    stride: Annotated[
        int | None,
        typer.Option(help="Step between windows, pixels; default: half a chip.", min=1),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class, too.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Store whose statistics normalize, where each site used its own."),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The model of the best round by validation.")
    ] = False,
    site: SiteName = None,
    site_state: SiteStateDir = None,
    bands: Annotated[
        str, typer.Option(help="Names of the bands of a raster that does not name them.")
    ] = "",
    modality: ModalityFiles = None,
    mask: Masks = None,
    mask_clouds: MaskClouds = False,
    aoi: Annotated[Path | None, typer.Option(help="Polygons; the map ends at them.")] = None,
    nodata: Nodata = None,
    complex_mode: ComplexMode = None,
    min_valid: Annotated[
        float, typer.Option(help="Least share of valid pixels in a window.")
    ] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    code_dir: CodeDir = None,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace maps of other models or scenes.")
    ] = False,
) -> None:
    """Map the land cover of whole scenes with a run's model.

    The same call again continues one that was interrupted, and leaves complete maps as they are.
    """
    from rsdgc.errors import SettingError

    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"--device is {device!r}: choose auto, cpu or cuda")
    from data_prep.ingest.options import SceneOptions
    from fl_app.cli_data import read_nodata

    # Checked before PyTorch is loaded.
    reading = SceneOptions(
        modalities=modality,
        masks=mask or (),
        mask_clouds=mask_clouds,
        aoi=aoi,
        nodata=read_nodata(nodata or []),
        complex_mode=complex_mode,
        min_valid=min_valid,
    )
    from fl_app.runs.records import RunSummary

    RunSummary.read(run)
    typer.echo(f"loading the model of {run}", err=True)
    from fl_app.delivered_model import load_delivered
    from fl_app.predict import PredictOptions, predict_scenes
    from rsdgc.registry import add_code_dir

    if code_dir is not None:
        add_code_dir(code_dir)
    model = load_delivered(run, data=data, best=best, site=site, site_state=site_state)
    if model.caution:
        typer.echo(f"warning: {model.caution}", err=True)
    options = PredictOptions(
        scenes=reading,
        bands=tuple(words(bands)),
        stride_px=stride,
        probabilities=probabilities,
        device=device,
        force=force,
    )
    with explain_interruption(
        lambda: (
            "maps that are complete stay, and what is done of the next; the same command goes on"
        )
    ):
        maps = predict_scenes(model, scenes, out, options)
    if as_json:
        print_json([{"map": each.path, "pixels": each.pixels} for each in maps])
        return
    for each in maps:
        total = sum(each.pixels.values())
        shares = sorted(each.pixels.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{name} {count / total:.1%}" for name, count in shares[:5] if count)
        typer.echo(f"{each.path}: {shown}" if total else f"{each.path}")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist yet.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Store whose statistics normalize, where each site used its own."),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The model of the best round by validation.")
    ] = False,
    site: SiteName = None,
    site_state: SiteStateDir = None,
    program: Annotated[
        str,
        typer.Option("--format", help="Of the program: torch, or onnx (needs rsdgc[onnx])."),
    ] = "torch",
    code_dir: CodeDir = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another exported model at --out.")
    ] = False,
) -> None:
    """Export a run's model for others: a program, its weights and a model card.

    The program has the normalization inside. It needs PyTorch alone, or a runtime of ONNX.
    """
    from fl_app.runs.records import RunSummary

    RunSummary.read(run)
    typer.echo(f"loading the model of {run}", err=True)
    from fl_app.delivered_model import load_delivered
    from fl_app.export import check_format, export_model
    from rsdgc.registry import add_code_dir

    if code_dir is not None:
        add_code_dir(code_dir)
    check_format(program)
    model = load_delivered(run, data=data, best=best, site=site, site_state=site_state)
    if model.caution:
        typer.echo(f"warning: {model.caution}", err=True)
    typer.echo(export_model(model, out, program=program, force=force))


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
