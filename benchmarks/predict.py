"""Time and memory of ``rsdgc predict`` on a large scene, beside a bare loop over its windows.

``python -m benchmarks.predict RUN --work FOLDER`` writes a synthetic scene of the run's bands, maps
it, and runs a loop that reads each row of windows with rasterio and calls the network, without
blending, masks, georeference or a map. Each runs in a process of its own, whose largest memory is
measured. ``--windows`` bounds the loop: its time is scaled to all windows, as that of the map is
not.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from fl_app.delivered_model import load_delivered
from fl_app.predict import PredictOptions, predict_scenes

BATCH = 64


def write_scene(path: Path, bands: tuple[str, ...], side: int) -> None:
    """Write smooth imagery with noise, uint16, in tiles of 512 px."""
    rng = np.random.default_rng(0)
    profile = {"count": len(bands), "dtype": "uint16", "nodata": 0, "crs": "EPSG:32633"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    place = from_origin(500_000, 5_000_000, 10, 10)
    with rasterio.open(path, "w", width=side, height=side, transform=place, **profile) as file:
        for top in range(0, side, 512):
            rows = min(512, side - top)
            wave = 800 + 500 * np.sin(np.arange(side) / 90) * np.cos(top / 300)
            values = wave + rng.normal(0, 60, (len(bands), rows, side))
            file.write(values.clip(1, 10_000).astype(np.uint16), window=Window(0, top, side, rows))
        for number, name in enumerate(bands, start=1):
            file.set_band_description(number, name)


def map_scene(run: Path, scene: Path, out: Path, stride: int) -> dict[str, float]:
    """Map the scene and return seconds."""
    model = load_delivered(run)
    begin, cpu = time.perf_counter(), time.process_time()
    predict_scenes(model, [scene], out, PredictOptions(stride_px=stride, device="cpu"))
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}


def loop(run: Path, scene: Path, stride: int, most: int) -> dict[str, float]:
    """Read windows row by row, normalize, and call the network; return seconds for all windows."""
    model = load_delivered(run)
    network = model.network.to(memory_format=torch.channels_last)
    (statistics,) = model.statistics
    mean, std = (torch.from_numpy(x).view(1, -1, 1, 1) for x in (statistics.mean, statistics.std))
    side, done = model.chip_px, 0
    begin, cpu = time.perf_counter(), time.process_time()
    with rasterio.open(scene) as file, torch.inference_mode():
        starts = range(0, file.width - side + 1, stride)
        rows = range(0, file.height - side + 1, stride)
        for row in rows:
            image = file.read(window=Window(0, row, file.width, side)).astype(np.float32)
            for first in range(0, len(starts), BATCH):
                chips = np.stack([image[:, :, c : c + side] for c in starts[first : first + BATCH]])
                x = ((torch.from_numpy(chips) - mean) / std).contiguous(
                    memory_format=torch.channels_last
                )
                network(x).argmax(1)
                done += len(chips)
            if done >= most:
                break
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    scale = len(starts) * len(rows) / done
    return {"seconds": seconds * scale, "cpu_seconds": cpu * scale, "windows": done}


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--windows", type=int, default=10**9)
    parser.add_argument("--only", choices=("map", "loop"))
    arguments = parser.parse_args()
    scene = arguments.work / f"scene-{arguments.side}.tif"
    if arguments.only:
        if arguments.only == "map":
            out = arguments.work / "map.tif"
            result = map_scene(arguments.run, scene, out, arguments.stride)
        else:
            result = loop(arguments.run, scene, arguments.stride, arguments.windows)
        result["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not scene.exists():
        (modality,) = load_delivered(arguments.run).modalities
        write_scene(scene, modality.bands, arguments.side)
    (arguments.work / "map.tif").unlink(missing_ok=True)
    results = {}
    for name in ("loop", "map"):
        command = [sys.executable, "-m", "benchmarks.predict", *sys.argv[1:], "--only", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout)
        print(name, results[name], flush=True)
    ratios = [results["map"][name] / results["loop"][name] for name in ("seconds", "cpu_seconds")]
    memory = results["map"]["memory_mb"]
    print(f"map / loop: {ratios[0]:.2f}, CPU {ratios[1]:.2f}; memory of the map: {memory:.0f} MB")


if __name__ == "__main__":
    main()
