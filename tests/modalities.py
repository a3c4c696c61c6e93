"""Data of two modalities at two resolutions, and a small fusion network for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from fl_app.models import branch_key
from strategies.sites import ModalityInfo
from tests.data_prep.archives import stripes, write_tif

CHIP_PX = 8
LACKING = {"site-01": ["elevation"]}


def make_data(
    root: Path, sites: int = 3, lacking: Mapping[str, Sequence[str]] = LACKING, seed: int = 0
) -> Path:
    """Divide chips of both modalities over sites; return the partition's folder."""
    make_store(root, seed=seed)
    partition(root / "store", root / "data", sites=sites, lacking=lacking)
    return root / "data"


def make_store(root: Path, *, elevation: bool = True, seed: int = 0) -> Path:
    """Write and ingest chips whose class shows in both modalities; return the store's folder.

    A pixel of ``elevation`` is as large as four of ``optical``.
    """
    rng = np.random.default_rng(seed)
    labels = stripes(96, 96, CHIP_PX, (1, 2, 3))
    optical = rng.normal(400, 60, (3, 96, 96)) + 100 * (labels == np.arange(1, 4)[:, None, None])
    height = rng.normal(0, 5, (48, 48)) + 10.0 * labels[::2, ::2]
    scene = root / "archive" / "scene"
    write_tif(scene / "optical.tif", optical.astype(np.uint16))
    if elevation:
        write_tif(scene / "elevation.tif", height.astype(np.float32), pixel=20.0)
    write_tif(scene / "labels.tif", labels, nodata=0)
    ingest_scenes(root / "archive", root / "store", chip_px=CHIP_PX, buffer_px=0)
    return root / "store"


class Branches(nn.Module):
    """A branch for each modality; the head takes the mean of the features that are there."""

    def __init__(self, modalities: Sequence[ModalityInfo], num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                branch_key(modality.name): nn.Sequential(
                    nn.Conv2d(len(modality.bands), 32, 3, padding=1),
                    nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(),
                )
                for modality in modalities
            }
        )
        self.head = nn.Linear(32, num_classes)

    def forward(self, *chips: Tensor | None) -> Tensor:
        pairs = zip(self.branches.values(), chips, strict=True)
        features = [branch(x) for branch, x in pairs if x is not None]
        logits: Tensor = self.head(torch.stack(features).mean(0))
        return logits


class NeedsAll(Branches):
    """A fusion network that fails where a modality is missing."""

    def forward(self, *chips: Tensor | None) -> Tensor:
        assert None not in chips
        return super().forward(*chips)
