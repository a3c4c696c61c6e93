"""fusion-concat and fusion-attention: a branch for each modality, each at its own resolution.

A branch maps its modality's chips to a few vectors, and the two networks differ in what joins them.

**Branches.** More than :data:`SPECTRAL_BANDS` bands go through hyper-cnn's trunk, along the
spectrum first. Other modalities go through small-resnet's stem and as many of its stages as leave a
map of at least 2×2 pixels. Chips of at most :data:`PATCH_PX` pixels may be pixel patches: their
trunk keeps the resolution, so that the center pixel is taken beside the mean, as in hyper-cnn, and
its two blocks see 11 pixels. What comes out is pooled.

========  ===============================  ===========
px        trunk of few bands               map, pixels
========  ===============================  ===========
1 to 11   stem/1, 32, 64                   px
12 to 15  stem/1, 32, 64/2, 128/2, 256/2   2
16        stem/2, 32, 64/2, 128/2          2
64        stem/2, 32, 64/2, 128/2, 256/2   4
========  ===============================  ===========

**A site that lacks a modality** gives None for it. All that belongs to one modality alone is in
``branches.<name>.…``, also its part of the joint layer, so the branch of an absent modality has no
gradient at all, and only sites that have the modality change it. The absent vector is zero and not
learned. A learned one would be trained by the very sites that know nothing of the modality, and a
mean over all sites would weaken it by the zeros of those that never use it.

Normalization is by groups and layers, never over a batch: sites with other modalities and skewed
classes share what is joint.

References: Roy et al. 2023, "Multimodal Fusion Transformer for Remote Sensing Image
Classification", IEEE TGRS 61; Yao et al. 2023, "Extended Vision Transformer (ExViT) for Land Use
and Land Cover Classification: A Multimodal Deep Learning Framework", IEEE TGRS 61.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

from fl_app.models.hyper_cnn import SpectralTrunk
from fl_app.models.small_networks import STAGES, ResidualTrunk
from rsdgc.errors import SettingError
from rsdgc.spec import branch_key

if TYPE_CHECKING:  # strategies imports Flower, which takes a second
    from strategies.sites import ModalityInfo

SPECTRAL_BANDS = 32
"""Modalities of more bands are spectra: hyper-cnn's trunk suits them."""
FINE_PX = 16
"""Below this side of a chip the stem has no stride."""
PATCH_PX = 11
"""Side up to which a chip may be a pixel patch, whose center pixel counts by itself."""
PATCH_STAGES = 2
"""Residual blocks of a pixel patch: with the stem they see 11 × 11 pixels."""
WIDTH = 128
"""Length of a modality's vectors where they are joined."""
GRID = 4
"""fusion-attention takes a chip as GRID × GRID vectors, or one for each pixel of a smaller map."""
HEADS = 4
BLOCKS = 2


class _Branch(nn.Module):
    """A modality's trunk, pooled to ``grid`` × ``grid`` vectors, or fewer if its map is smaller."""

    def __init__(self, num_bands: int, px: int, grid: int) -> None:
        super().__init__()
        self.trunk: SpectralTrunk | ResidualTrunk
        if num_bands > SPECTRAL_BANDS:
            self.trunk = SpectralTrunk(num_bands)
            map_px = px
        else:
            stages, stem_stride, map_px = _fit_stages(px)
            self.trunk = ResidualTrunk(num_bands, stages, stem_stride)
            self.trunk.initialize()
        self._grid = min(grid, map_px)
        self._has_center = px <= PATCH_PX
        self.count = self._grid**2 + self._has_center  #: vectors of a chip

    def vectors(self, x: Tensor) -> Tensor:
        """Map chips (B, bands, px, px) to (B, count, channels)."""
        x = self.trunk.features(x)
        vectors = F.adaptive_avg_pool2d(x, self._grid).flatten(2)
        if self._has_center:
            center = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
            vectors = torch.cat([vectors, center.unsqueeze(2)], dim=2)
        return vectors.transpose(1, 2)


class _ConcatBranch(_Branch):
    """A branch and its part of the layer that joins the modalities."""

    def __init__(self, num_bands: int, px: int) -> None:
        super().__init__(num_bands, px, grid=1)
        self.join = nn.Linear(self.count * self.trunk.channels, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map chips (B, bands, px, px) to (B, WIDTH)."""
        joined: Tensor = self.join(self.vectors(x).flatten(1))
        return joined


class _TokenBranch(_Branch):
    """A branch that makes tokens; the bias of the projection tells the modalities apart."""

    def __init__(self, num_bands: int, px: int) -> None:
        super().__init__(num_bands, px, GRID)
        self.project = nn.Linear(self.trunk.channels, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map chips (B, bands, px, px) to tokens (B, count, WIDTH)."""
        tokens: Tensor = self.project(self.vectors(x))
        return tokens


class _Fusion(nn.Module):
    """Branches by modality, a shared part, and a head."""

    def __init__(
        self,
        modalities: Sequence[ModalityInfo],
        num_classes: int,
        make_branch: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        for modality in modalities:
            key = branch_key(modality.name)
            if key in self.branches:
                raise SettingError(
                    f"two modalities are called {modality.name!r}: "
                    "ingest them with --modality NAME=GLOB"
                )
            self.branches[key] = make_branch(len(modality.bands), modality.px)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)

    def _present(self, chips: Sequence[Tensor | None]) -> list[Tensor]:
        """Return what the branches of the modalities that are there make of them."""
        pairs = zip(self.branches.values(), chips, strict=True)
        present = [branch(x) for branch, x in pairs if x is not None]
        if not present:
            raise SettingError(
                f"a batch has none of the model's modalities ({', '.join(self.branches)}): "
                "leave out sites that have none of them"
            )
        return present


class FusionConcat(_Fusion):
    """The modalities' features, concatenated; a layer of 128 joins them, and a linear head follows.

    The joint layer's matrix is kept by modality, because the product of a concatenation is the sum
    of the parts' products. Features of an absent modality are zero. The joint layer is normalized,
    so that the sum of fewer modalities has the same scale.

    Parameters
    ----------
    modalities : sequence of ModalityInfo
        Names, bands and chip sides, in the order of the input.
    num_classes : int
        Length of the output.
    """

    def __init__(self, modalities: Sequence[ModalityInfo], num_classes: int) -> None:
        super().__init__(modalities, num_classes, _ConcatBranch)

    def forward(self, *chips: Tensor | None) -> Tensor:
        """Map one (B, bands, px, px) tensor, or None, a modality to logits (B, num_classes)."""
        joined = torch.stack(self._present(chips)).sum(0)
        logits: Tensor = self.head(torch.relu(self.norm(joined)))
        return logits


class FusionAttention(_Fusion):
    """Tokens of all modalities attend to each other; the mean over the modalities is classified.

    After Roy et al. 2023 and Yao et al. 2023: convolutional branches make tokens, and attention
    across the modalities fuses them, in two blocks with normalization first. Absent modalities
    have no tokens, which is what a mask would do. Each modality's mean counts alike, whatever the
    number of its tokens.

    Parameters
    ----------
    modalities : sequence of ModalityInfo
        Names, bands and chip sides, in the order of the input.
    num_classes : int
        Length of the output.
    """

    def __init__(self, modalities: Sequence[ModalityInfo], num_classes: int) -> None:
        super().__init__(modalities, num_classes, _TokenBranch)
        self.blocks = nn.Sequential(*(_AttentionBlock() for _ in range(BLOCKS)))

    def forward(self, *chips: Tensor | None) -> Tensor:
        """Map one (B, bands, px, px) tensor, or None, a modality to logits (B, num_classes)."""
        tokens = self._present(chips)
        fused = self.blocks(torch.cat(tokens, dim=1)).split([t.shape[1] for t in tokens], dim=1)
        mean = torch.stack([modality.mean(1) for modality in fused]).mean(0)
        logits: Tensor = self.head(self.norm(mean))
        return logits


class _AttentionBlock(nn.Module):
    """Self-attention and a perceptron, each on normalized tokens and added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        # Not nn.MultiheadAttention: it multiplies by its layers' weights itself, so that an
        # adapter in place of one of the layers would have no effect.
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, WIDTH) to tokens."""
        batch, count, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, count, 3, HEADS, width // HEADS)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, count, width))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


def _fit_stages(px: int) -> tuple[list[tuple[int, int]], int, int]:
    """Fit small-resnet to a chip's side: return its stages, the stem's stride, the map's side."""
    if px <= PATCH_PX:
        return [(channels, 1) for channels, _ in STAGES[:PATCH_STAGES]], 1, px
    stem_stride = 1 if px < FINE_PX else 2
    map_px = math.ceil(px / stem_stride)
    stages = []
    for channels, stride in STAGES:
        if math.ceil(map_px / stride) < 2:
            break
        stages.append((channels, stride))
        map_px = math.ceil(map_px / stride)
    return stages, stem_stride, map_px
