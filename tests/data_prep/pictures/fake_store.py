"""Stores that look like real ones, made of random numbers in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.statistics import valid_mask

CLASSES = [
    "water",
    "wetland",
    "grassland",
    "cropland",
    "orchard",
    "broadleaf forest",
    "conifer forest",
    "built-up",
    "bare ground",
    "quarry",
]


class FakeStore:
    """What pictures need of a store, from arrays in memory."""

    def __init__(
        self,
        manifest: dict[str, list[Any]],
        arrays: list[np.ndarray],
        bands: list[list[str]],
        classes: list[str],
        *,
        kind: str = "chips",
        stride_px: int = 1,
        nodata: float | None = None,
    ) -> None:
        self.path = Path("store")
        count = len(next(iter(manifest.values())))
        places = {"x": [float("nan")] * count, "y": [float("nan")] * count, "crs": [""] * count}
        self.manifest = pa.table(places | manifest)
        self.arrays = arrays
        self.classes = classes
        self.num_bands = sum(array.shape[1] for array in arrays)
        self.chip_px = arrays[0].shape[-1]
        modalities = [
            SimpleNamespace(
                name=f"modality-{number}",
                bands=names,
                dtype=array.dtype.name,
                nodata=nodata,
                factor=arrays[0].shape[-1] // array.shape[-1],
                scale=[],
                offset=[],
                units=[],
                mean=array.mean(axis=(0, 2, 3)).tolist(),
                std=array.std(axis=(0, 2, 3)).tolist(),
            )
            for number, (names, array) in enumerate(zip(bands, arrays, strict=True))
        ]
        self.meta = SimpleNamespace(
            modalities=modalities, kind=kind, stride_px=stride_px, scenes=[]
        )

    def with_modalities(self, names: list[str]) -> FakeStore:
        assert names == [modality.name for modality in self.meta.modalities]
        return self

    def take(self, chips: np.ndarray) -> list[np.ndarray]:
        return [array[chips] for array in self.arrays]

    def take_validity(self, chips: np.ndarray) -> list[np.ndarray | None]:
        return [None for _ in self.arrays]

    def valid(self, chips: np.ndarray, samples: list[np.ndarray]) -> list[np.ndarray]:
        assert all(len(values) == len(chips) for values in samples)
        return [
            valid_mask(values, meta.nodata)
            for values, meta in zip(samples, self.meta.modalities, strict=True)
        ]


class FakeData:
    """What pictures need of a data set whose samples have no place on the globe."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.sites = ["site-00"]

    def site(self, _name: str) -> SimpleNamespace:
        return SimpleNamespace(manifest=self.store.manifest)


def scene_store(
    rows: int = 14, cols: int = 16, chip_px: int = 64, stride_px: int | None = None, seed: int = 0
) -> FakeStore:
    """One scene of smooth land cover in blue, green, red, nir, with a test block and a gap."""
    rng = np.random.default_rng(seed)
    stride = stride_px or chip_px
    height, width = (rows - 1) * stride + chip_px, (cols - 1) * stride + chip_px
    y, x = np.mgrid[:height, :width] / stride
    field = np.sin(x / 2.3 + seed) + np.cos(y / 2.9) + np.sin((x + y) / 3.7)
    cover = np.clip(((field + 3) / 6 * len(CLASSES)).astype(int), 0, len(CLASSES) - 1)
    tones = rng.uniform(400, 3500, (len(CLASSES), 4))
    image = (tones[cover] + rng.normal(0, 160, (height, width, 4))).clip(1, 9000)
    image[: stride // 2, :, :] = 0
    manifest: dict[str, list[Any]] = {key: [] for key in ("chip", "label", "split", "scene")}
    manifest |= {"row": [], "col": []}
    chips = []
    for row in range(rows):
        for col in range(cols):
            if (row - 3) ** 2 + (col - 13) ** 2 < 3:
                continue
            top, left = row * stride, col * stride
            window = (slice(top, top + chip_px), slice(left, left + chip_px))
            inner = cover[window]
            manifest["chip"].append(len(chips))
            manifest["label"].append(int(np.bincount(inner.ravel()).argmax()))
            test = (5 <= row < 11 and 8 <= col < 13) or (row >= 10 and col < 4)
            near = (4 <= row < 12 and 7 <= col < 14) or (row >= 9 and col < 5)
            manifest["split"].append("test" if test else "buffer" if near else "train")
            manifest["scene"].append("north/scene-1")
            manifest["row"].append(top)
            manifest["col"].append(left)
            chips.append(image[window].transpose(2, 0, 1))
    names = [["blue", "green", "red", "nir"]]
    arrays = [np.array(chips, dtype=np.uint16)]
    return FakeStore(manifest, arrays, names, CLASSES, stride_px=stride, nodata=0.0)


def folder_store(per_class: int = 12, chip_px: int = 64) -> FakeStore:
    """Images without scenes: 8-bit RGB, each class a tone with stripes."""
    rng = np.random.default_rng(1)
    manifest: dict[str, list[Any]] = {key: [] for key in ("chip", "label", "split", "scene")}
    manifest |= {"row": [], "col": []}
    chips = []
    for label in range(len(CLASSES)):
        tone = rng.uniform(40, 200, 3)
        for at in range(per_class):
            stripes = 30 * np.sin(np.arange(chip_px) * (label + 1) / 6 + at)
            chip = tone[:, None, None] + stripes[None, None] + rng.normal(0, 9, (3, chip_px, 1))
            chips.append(chip.clip(0, 255))
            manifest["chip"].append(len(chips) - 1)
            manifest["label"].append(label)
            manifest["split"].append("test" if at % 3 == 0 else "train")
            manifest["scene"].append("")
            manifest["row"].append(0)
            manifest["col"].append(0)
    return FakeStore(
        manifest, [np.array(chips, dtype=np.uint8)], [["red", "green", "blue"]], CLASSES
    )
