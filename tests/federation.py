"""A small federation for tests: colored squares as class folders, and runs over the loopback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from flwr.app import Context, Message, RecordDict
from rasterio.transform import from_origin

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from fl_app import server_app
from fl_app.client_app import app as client_app
from fl_app.runs.folder import open_run
from fl_app.settings import Settings
from tests.loopback import Fault, LoopbackGrid

CLASSES = ("bare", "forest", "water")
CHIP_PX = 16


def write_class_folders(root: Path, per_class: int = 30, seed: int = 0) -> Path:
    """Write GeoTIFFs whose class shows in color and texture, with noise."""
    rng = np.random.default_rng(seed)
    for code, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            image = rng.normal(100, 25, (3, CHIP_PX, CHIP_PX))
            image[code] += 60
            image[:, :: code + 2] -= 30
            write_image(root / name / f"{name}-{number:02}.tif", image.clip(1, 255))
    return root


def write_image(path: Path, image: np.ndarray) -> None:
    bands, height, width = image.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=height,
        width=width,
        dtype="uint8",
        crs="EPSG:32632",
        transform=from_origin(500_000, 5_000_000, 10, 10),
    ) as file:
        file.write(image.astype(np.uint8))


def make_data(root: Path, sites: int = 3, **how: Any) -> Path:
    """Write, ingest and partition the class folders; return the partition's folder."""
    write_class_folders(root / "images")
    ingest_class_folders(root / "images", root / "store")
    partition(root / "store", root / "data", sites=sites, scheme="iid", **how)
    return root / "data"


QUICK: Mapping[str, Any] = {
    "model": "small-cnn",
    "rounds": 3,
    "batch-size": 8,
    "learning-rate": 0.02,
    "budget": "10x",
    "device": "cpu",
}


def settings(data: Path, out: Path, **changes: Any) -> Settings:
    hyphenated = {key.replace("_", "-"): value for key, value in changes.items()}
    return Settings.from_mapping({**QUICK, "data-dir": str(data), "out": str(out), **hyphenated})


def grid(
    chosen: Settings, nodes: int = 3, run_id: int = 7, fault: Fault | None = None
) -> LoopbackGrid:
    """Return nodes that host the sites of a run's data."""
    configs = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
    faults = {} if fault is None else {"fault": fault}
    return LoopbackGrid(client_app, configs, chosen.to_mapping(), run_id, **faults)


def count_bytes(sent: Counter[str]) -> Fault:
    """Return a fault that changes nothing and adds up the bytes sent, as Flower counts them."""

    def fault(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != "query":
            for direction, content in (("down", message.content), ("up", reply.content)):
                sent[direction] += sum(
                    len(name) + record.count_bytes() for name, record in content.items()
                )
        return reply

    return fault


def run(
    chosen: Settings,
    nodes: int = 3,
    run_id: int = 7,
    fault: Fault | None = None,
    *,
    report: bool = False,
) -> LoopbackGrid:
    """Run the real server app over the real client app, in this process."""
    loopback = grid(chosen, nodes, run_id, fault)
    serve(loopback, chosen, run_id, report=report)
    return loopback


def serve(
    loopback: LoopbackGrid, chosen: Settings, run_id: int = 7, *, report: bool = False
) -> None:
    """Run the real server app over a grid.

    A report costs more than a short run of a small model, so it is left out unless asked for.
    """
    if not report:
        with open_run(chosen, run_id) as active:
            server_app.run_federation(loopback, active)
        return
    context = Context(
        run_id=run_id,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config=chosen.to_mapping(),
    )
    server_app.run(loopback, context)


def simulate_over_loopback(chosen: Settings, *, num_sites: int, **_: Any) -> None:
    """Stand in for :func:`fl_app.simulation.simulate`, whose processes take a minute to start."""
    serve(grid(chosen, nodes=num_sites), chosen)
