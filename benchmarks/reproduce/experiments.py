"""The paper's experiments: what it states, and what is a guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsdgc.documents import explain_invalid
from rsdgc.errors import SettingError


class Experiment(BaseModel):
    """How all methods of a comparison train."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="Network, see `rsdgc models`.")
    nodes: int = Field(4, ge=1, description="Processes that train in parallel.")
    px: int = Field(224, ge=8, description="Side to which images are resized, pixels.")
    batch_size: int = Field(32, ge=1, description="Images in a node's step.")
    epochs: float = Field(100.0, gt=0, description="Passes over the training split.")
    learning_rate: float = Field(0.01, gt=0, description="At the start; cosine over the steps.")
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Of SGD; under compression as momentum correction."
    )
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty.")
    clip_norm: float = Field(
        5.0, ge=0, description="Largest norm of the mean gradient; nodes clip at 1/√N of it."
    )
    warm_up: float = Field(
        0.05, ge=0, le=1, description="Share of the steps in which the compression grows (DGC)."
    )
    augment: bool = Field(True, description="Random flips and quarter turns.")
    test_share: float = Field(
        0.2, gt=0, lt=1, description="Images of a class that are not trained."
    )


STATED = {"model", "nodes", "momentum", "test_share"}
"""What the paper states. It names VGG-19 and ResNet, without a depth that is known here."""

_FOR_VGG = {"learning_rate": 0.01, "model": "vgg19"}
_FOR_RESNET = {"learning_rate": 0.05, "model": "resnet18"}

EXPERIMENTS: Mapping[str, Experiment] = {
    "ucmerced-vgg19": Experiment(**_FOR_VGG),
    "ucmerced-resnet": Experiment(**_FOR_RESNET),
    "ucmerced-vgg19-8": Experiment(nodes=8, **_FOR_VGG),
    "nwpu-vgg19": Experiment(epochs=50, **_FOR_VGG),
    "nwpu-resnet": Experiment(epochs=50, **_FOR_RESNET),
    "nwpu-vgg19-8": Experiment(epochs=50, nodes=8, **_FOR_VGG),
    # What a CPU carries, for UC Merced: the same code on less of everything.
    "small": Experiment(model="small-resnet", px=32, batch_size=8, epochs=5, learning_rate=0.05),
}


def experiment(name: str, changes: Mapping[str, Any]) -> Experiment:
    """Return an experiment with other values; :class:`SettingError` names a wrong one."""
    try:
        return Experiment.model_validate({**EXPERIMENTS[name].model_dump(), **changes})
    except ValidationError as error:
        raise SettingError(f"experiment {name}: {explain_invalid(error)}") from None


def describe(name: str) -> Iterator[str]:
    """Yield a table of an experiment's values and where they come from."""
    yield f"| {name} | value | from | meaning |"
    yield "|---|---|---|---|"
    for field, value in EXPERIMENTS[name].model_dump().items():
        source = "the paper" if field in STATED and name != "small" else "a guess"
        yield f"| {field} | {value} | {source} | {Experiment.model_fields[field].description} |"
