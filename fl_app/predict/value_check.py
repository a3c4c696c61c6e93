"""Whether a scene's values resemble those of training: another scale or unit shows here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from data_prep.schema import ModalityMeta

FAR = 10.0
"""Standard deviations of training that the mean of no ordinary scene is away from its mean."""
STEP_PX = 4
"""One pixel of so many in each direction is looked at, which costs next to nothing."""


class ValueCheck:
    """Mean of each band of a scene, in standard deviations from the mean of training.

    A wrong scale gives no error otherwise, only a map of one class: counts of a Landsat product
    without its metadata, where the model was trained on reflectances.
    """

    def __init__(self, modalities: Sequence[ModalityMeta]) -> None:
        self._modalities = modalities
        self._sums = [torch.zeros(len(meta.bands), dtype=torch.float64) for meta in modalities]
        self._counts = [torch.zeros(len(meta.bands), dtype=torch.int64) for meta in modalities]

    def add(self, number: int, chips: Tensor) -> None:
        """Count normalized chips (n, C, H, W) of a modality; pixels without a value are 0 there."""
        part = chips[:, :, ::STEP_PX, ::STEP_PX]
        self._sums[number] += part.sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
        self._counts[number] += part.count_nonzero(dim=(0, 2, 3)).cpu()

    def notes(self) -> Iterator[str]:
        """Yield a line for each modality of which bands are far from training."""
        for meta, sums, counts in zip(self._modalities, self._sums, self._counts, strict=True):
            means = (sums / counts.clamp(min=1)).abs().tolist()
            far = [band for band, mean in zip(meta.bands, means, strict=True) if mean > FAR]
            if far:
                yield (
                    f"{meta.name}: the values of {', '.join(far)} are on average up to "
                    f"{max(means):.0f} standard deviations from those of training, so the map is "
                    "hardly right: their scale, offset or unit is another one, or the product"
                )
