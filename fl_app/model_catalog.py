"""The built-in models in a table, without the networks: ``rsdgc models`` loads no PyTorch."""

from __future__ import annotations

from typing import NamedTuple

ARGUMENTS = ("num_bands", "num_classes", "chip_px", "modalities")
"""What a function that builds a model may ask for by name, in the order of :func:`build_model`."""


class ModelRow(NamedTuple):
    """A built-in model; parameters are for few bands and tens of classes."""

    name: str
    parameters: str
    least_px: int
    """Side, in pixels, of the smallest chip that it takes."""
    purpose: str


MODEL_TABLE = (
    ModelRow("small-resnet", "1.2 M", 8, "chips on a CPU; the default"),
    ModelRow("small-cnn", "0.1 M", 8, "tests, tutorials"),
    ModelRow("hyper-cnn", "0.1 M", 1, "patches of hyperspectral scenes, 1 to 11 px"),
    ModelRow("resnet18", "11 M", 8, "chips on a GPU"),
    ModelRow("resnet50", "24 M", 8, "chips on a GPU"),
    ModelRow("vgg16", "134 M", 32, "the paper's comparison; six in seven are fully connected"),
    ModelRow("vgg16-bn", "134 M", 32, "the same, with batch normalization"),
    ModelRow("vgg19", "140 M", 32, "the paper's comparison"),
    ModelRow("vgg19-bn", "140 M", 32, "the same, with batch normalization"),
    ModelRow("mobilenet-v3", "1.5 M", 8, "slow machines (MobileNetV3-Small)"),
    ModelRow("convnext-tiny", "28 M", 16, "chips on a GPU"),
    ModelRow("fusion-concat", "0.1–1.2 M a modality", 1, "several modalities, own resolutions"),
    ModelRow("fusion-attention", "0.1–1.2 M a modality", 1, "the same, attending to each other"),
)

LEAST_CHIP_PX = {row.name: row.least_px for row in MODEL_TABLE}

OTHER_MODELS = (
    'timm:NAME: a network of timm, such as timm:resnet18 (pip install "rsdgc[timm]")',
    "package.module:function: your own; it is called with those of "
    f"{', '.join(ARGUMENTS)} that it asks for by name",
)
