"""The one validated configuration of a run.

The fields of :class:`Settings` are the keys of ``[tool.flwr.app.config]`` in ``pyproject.toml``,
where Flower looks for them; a test keeps keys and defaults of both equal. Keys are spelled with
hyphens in files and on command lines. Unknown keys and wrong values are refused with one line that
names the key, its value and what would be right.

>>> Settings.from_mapping({"rounds": 5, "budget": "200x"}).rounds
5
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

import rsdgc
from fl_app.methods import METHODS, find_method
from fl_app.setting_values import (
    AUTO,
    MAX_ROUNDS,
    CountOrAuto,
    FromZeroOrAuto,
    MomentumOrAuto,
    NameIn,
    RateOrAuto,
    ShareOrAuto,
    UnitInterval,
)
from fl_app.tracking import NONE as TRACK_NOTHING
from fl_app.tracking import parse_tracking
from rsdgc.budget import parse_budget
from rsdgc.documents import DocumentError, check_values, shorten
from rsdgc.errors import SettingError
from rsdgc.plain_text import plain_line
from rsdgc.site_weights import WeightRules, parse_chip_limits

Scalar = bool | int | float | str

MAX_SHOWN = 200
"""Characters of a wrong value that an error message shows."""

DEFAULT_MOMENTUM = 0.9

LEAST_NOISE = 0.001
"""Of differential privacy: with less, ε is beyond 10⁵ in the first round."""

_SGD_DEFAULTS = {"learning_rate": 0.05, "weight_decay": 1e-4}
OPTIMIZER_DEFAULTS = {
    "sgd": _SGD_DEFAULTS,
    "sgd-nesterov": _SGD_DEFAULTS,
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-2},
}
"""What an optimizer of :mod:`clients.optimizers` takes where a setting is left at ``auto``."""

SGD_LEARNING_RATES = {"vgg16": 0.01, "vgg19": 0.01}
"""In place of SGD's, for models without normalization: at 0.05 training collapses."""

_PATHS = ("data_dir", "out", "state_dir", "code_dir", "init_weights")

_COMPLETE = "complete"
"""Key of the validation's context."""


def _check_tracking(value: str) -> str:
    return ",".join(parse_tracking(value)) or TRACK_NOTHING


ADAPTER_SETTINGS = ("adapter_rank", "adapter_alpha", "adapter_layers")
"""Fields that mean something only with ``adapters=lora``."""


def hyphenated(name: str) -> str:
    """Return a field's name as it is spelled in files and on command lines."""
    return name.replace("_", "-")


class Settings(BaseModel):
    """All settings of a run; see ``docs/configuration.md`` for the table with defaults."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=hyphenated,
        validate_by_name=True,
        allow_inf_nan=False,
    )

    data_dir: str = Field(
        "", description="Store or partition to train on. Empty: the built-in synthetic archive."
    )
    out: str = Field("", description="Run folder. Empty: a new folder in the rsdgc home folder.")
    state_dir: str = Field(
        "",
        description="Folder where sites keep their state. Empty: beside the run folder's report.",
    )
    code_dir: str = Field(
        "",
        description="Folder of your own modules, such as the one that `model=mynet:build` "
        "names. Empty: the current folder in a simulation, and `code-dir` of "
        "`server.toml` and `site.toml` in a deployment.",
    )

    method: Annotated[str, AfterValidator(NameIn(lambda: METHODS))] = Field(
        "rs-dgc",
        description="How updates travel; the method decides the settings of compression "
        "that are left at `auto`. For a method of your own: `package.module:NAME` "
        "(`fl_app/methods.py`).",
    )
    budget: str = Field(
        "200x",
        coerce_numbers_to_str=True,
        description="Size of an upload: `100x` is a hundredth of the float32 model, `50000` is "
        "a number of bytes.",
    )
    budget_down: str = Field(
        AUTO,
        coerce_numbers_to_str=True,
        description="Size of a message to a site, written like `budget`; `1x` sends the whole "
        "model each round. `auto`: `1x` for `dgc`, `rs-dgc-paper`, and "
        "`rs-dgc-static`, else `67x`.",
    )
    budget_final: str = Field(
        AUTO,
        coerce_numbers_to_str=True,
        description="Size of the last patch, which makes the published model the final one; "
        "`1x` sends the whole true model. `auto`: `1x` for `dgc`, `rs-dgc-paper`, "
        "and `rs-dgc-static`, else `10x`.",
    )
    neighborhood: Literal["auto", "kernel", "tile", "element"] = Field(
        "auto",
        description="Shape of neighborhoods: kernel slices (`kernel`; parts of rows in other "
        "layers), p×p tiles (`tile`), or single elements (`element`).",
    )
    tile_px: int = Field(
        3,
        ge=1,
        le=16,
        description="The size p: tiles are p×p, and parts of rows have about p² elements.",
    )
    indicator: Annotated[str, AfterValidator(NameIn(lambda: rsdgc.INDICATORS, auto=True))] = Field(
        AUTO,
        description="Indicator that ranks neighborhoods. For a class of your own: "
        "`package.module:Class` (`rsdgc/indicators.py`).",
    )
    nsi_mean_weight: float = Field(0.8, ge=0.0, description="Weight of the mean magnitude in NSI.")
    nsi_std_weight: float = Field(
        0.2, ge=0.0, description="Weight of the standard deviation in NSI."
    )
    values: Annotated[str, AfterValidator(NameIn(lambda: rsdgc.VALUE_CODINGS, auto=True))] = Field(
        AUTO,
        description="Coding of the values of kept neighborhoods: entropy-coded levels of one "
        "step (`deadzone`), floats, int8, or signs (`ternary`). For a class of your "
        "own: `package.module:Class` (`rsdgc/codec/values.py`).",
    )
    dense_values: str = Field(
        "auto",
        description="Coding of layers that are sent whole: `float32`, `float16`, `int8`, or a "
        "class of your own.",
    )
    indices: Literal["auto", "rice", "int32"] = Field(
        "auto", description="Coding of the ids of kept neighborhoods."
    )
    transform: Literal["auto", "none", "channels"] = Field(
        "auto",
        description="Transform of updates before they are encoded: `channels` turns "
        "convolutions to the principal axes of their input channels. `auto`: the "
        "method's own.",
    )
    dense_share: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Share of the budget for the smallest layers, which are sent whole unless "
        "`values` is `deadzone`.",
    )
    ratio_policy: Literal["auto", "weight", "update", "uniform", "whole"] = Field(
        "auto",
        description="How the budget is divided among the layers: by the paper's ranking of "
        "neurons by mean |weight| (`weight`), by the aggregated update (`update`), "
        "or evenly (`uniform`). `whole` sends every layer whole.",
    )
    top_share: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of all neurons or neighborhoods that form the global top, in which a "
        "layer's share is counted. 0: the policy's own default.",
    )
    warm_up_rounds: CountOrAuto = Field(
        AUTO,
        description="Number of rounds at the start with larger uploads, from a quarter of the "
        "dense model down; the rounds after them make up for the extra bytes. "
        "`auto`: four epochs for `dgc`, `rs-dgc-paper`, and `rs-dgc-static`, else "
        "0.",
    )
    momentum_correction: MomentumOrAuto = Field(
        AUTO,
        validate_default=True,  # together with an explicit transform it may be refused
        description="Momentum that sites keep over rounds, with factor masking, from 0 to below "
        "1; it is meant for rounds of one step. `auto`: 0.9 for `dgc`, "
        "`rs-dgc-paper`, and `rs-dgc-static`, else 0.",
    )
    step_ahead: FromZeroOrAuto = Field(
        AUTO,
        description="How far sites start local training ahead of the received model, along "
        "their residual: at most this many times the length of their last change; 0 "
        "starts from the received model. `auto`: the method's own.",
    )
    aggregation: Annotated[str, AfterValidator(NameIn(lambda: rsdgc.AGGREGATORS))] = Field(
        "mean",
        description="How the server combines the sites' updates: `mean`, weighted by training "
        "chips, or `trimmed-mean` or `sign-agreement`, against hostile sites "
        "(docs/reliability.md). For a class of your own: `package.module:Class` "
        "(`rsdgc/aggregation.py`).",
    )
    server_momentum: MomentumOrAuto = Field(
        AUTO,
        description="Part of its last step that the global model takes again (FedAvgM), from 0 to "
        "below 1; it makes up for the rounds by which compression delays a change. `auto`: 0.4 "
        "for `rs-dgc` where uploads are compressed, else 0.",
    )
    clip_updates: float = Field(
        3.0,
        ge=0.0,
        description="Norm clipping: an update counts only by a share of its length if it is more "
        "than this many times as long as the reference norm, which comes from the medians of its "
        "round and of earlier rounds. At least 1, or 0 for no clipping (`rsdgc/clipping.py`).",
    )
    dp_noise_multiplier: float = Field(
        0.0,
        ge=0.0,
        le=1e6,
        description="Noise multiplier for the differential privacy of a site: the noise on the "
        "sum of the clipped updates, divided by `dp-clip`; 0: no noise "
        "(docs/security.md). It needs the extra `privacy`.",
    )
    dp_clip: float = Field(
        1.0,
        gt=0.0,
        le=1e6,
        description="Largest Euclidean norm of a site's update under differential privacy.",
    )
    dp_delta: float = Field(
        1e-5, gt=0.0, lt=1.0, description="The δ for which the run states its ε."
    )

    normalization: Literal["site", "common"] = Field(
        "site",
        description="Statistics that pixels are normalized by: those of the site's own store "
        "(`site`), or those of all sites together, collected before the first round "
        "(`common`).",
    )
    modalities: str = Field(
        "",
        description="Modalities to train on, in the order in which the model takes them, such "
        "as `optical,elevation`. Empty: all.",
    )
    model: str = Field(
        "small-resnet",
        description="Model to train (see `rsdgc models`), a network of timm as `timm:NAME`, or "
        "your own network as `package.module:function`.",
    )
    init_weights: str = Field(
        "",
        description="File of weights to start from (`.safetensors`); a node's own "
        "`init-weights` takes precedence. Empty: weights drawn from the seed.",
    )
    batch_norm: Literal["average", "local-statistics", "local", "group"] = Field(
        "average",
        description="How batch normalization is treated: running statistics are averaged over "
        "the sites, in float16 and apart from the compressed update (`average`); "
        "they stay at each site, alone (`local-statistics`) or with scale and shift "
        "(`local`, FedBN); or the layers become group normalization (`group`).",
    )
    freeze: str = Field(
        "",
        description="Layers that are not trained and never sent: names or patterns, separated "
        "by commas, such as `stem,stage1,*.bias` (docs/pretrained.md).",
    )
    train_only: str = Field(
        "",
        description="The only layers that are trained, written like `freeze`; `head` is the "
        "model's head.",
    )
    adapters: Literal["none", "lora"] = Field(
        "none",
        description="`lora` trains low-rank adapters beside frozen layers, together with the "
        "head or with the layers that `train-only` names.",
    )
    adapter_rank: int = Field(4, ge=1, description="Inner size of an adapter.")
    adapter_alpha: float = Field(
        8.0, gt=0.0, description="Scale of adapters: they are multiplied by alpha / rank."
    )
    adapter_layers: str = Field(
        "",
        description="Layers with an adapter, written like `freeze`. Empty: all linear layers "
        "and ungrouped convolutions that are not trained whole.",
    )
    rounds: int = Field(
        60,
        ge=1,
        le=MAX_ROUNDS,
        description="Number of federated rounds. A round without `quorum` is made up for by "
        "another one, up to twice as many rounds in all.",
    )
    local_epochs: int = Field(1, ge=1, description="Epochs that a site trains in a round.")
    local_steps: int = Field(
        0,
        ge=0,
        description="Steps that a site trains in a round, instead of epochs; 0: whole epochs.",
    )
    batch_size: int = Field(32, ge=1, description="Chips in a batch.")
    optimizer: Literal["sgd", "sgd-nesterov", "adamw"] = Field(
        "sgd", description="Optimizer at the sites, created anew in each round."
    )
    learning_rate: RateOrAuto = Field(
        AUTO,
        description="Largest learning rate, above 0. `auto`: 0.001 for `adamw` and 0.05 for SGD "
        "(0.01 for `vgg16` and `vgg19`, which have no normalization).",
    )
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Schedule of the learning rate over the rounds."
    )
    lr_warm_up_rounds: int = Field(
        0,
        ge=0,
        description="Number of rounds in which the learning rate rises linearly to its largest "
        "value. The schedule starts after them.",
    )
    momentum: MomentumOrAuto = Field(
        AUTO,
        description="Momentum of SGD within a round, or β₁ of `adamw`. `auto`: 0.9, or 0 for "
        "SGD with `momentum-correction`, which replaces it.",
    )
    weight_decay: FromZeroOrAuto = Field(
        AUTO,
        description="L2 penalty of SGD, or decoupled decay of `adamw`, which leaves out biases "
        "and normalization. `auto`: 0.0001 for SGD, 0.01 for `adamw`.",
    )
    clip_norm: float = Field(5.0, ge=0.0, description="Largest gradient norm; 0: no clipping.")
    clip_scale: Literal["auto", "none", "sites"] = Field(
        "auto",
        description="Factor of `clip-norm`: 1 (`none`), or 1/√N for the N sites of a round "
        "(`sites`), so that their mean is clipped alike. `auto`: the method's own.",
    )
    proximal: float = Field(
        0.0,
        ge=0.0,
        description="The μ of FedProx, which pulls a site's weights toward those that it starts "
        "from; 0: FedAvg.",
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of a label that is spread over all classes."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced` makes all classes that a site has count the same in its loss, "
        "by the site's own counts of training chips.",
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        "shuffle",
        description="`balanced` draws every class that a site has with the same probability, "
        "with replacement. An epoch keeps its length.",
    )
    augment: bool = Field(True, description="Random flips and quarter turns.")
    crop: UnitInterval = Field(
        1.0,
        description="Smallest share of a chip's area that a random crop keeps; 1: no crops. A "
        "crop is resized to the chip's size, while pixel patches are scaled about "
        "their center.",
    )
    jitter: float = Field(
        0.0,
        ge=0.0,
        description="Random change of each band's gain and offset, in the band's standard "
        "deviations.",
    )
    band_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Probability that a band of a chip is left out in training.",
    )
    modality_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Probability that a modality of a batch is left out in training. It is for "
        "fusion networks that work without one, and at least one modality always "
        "stays.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random.")

    fraction: UnitInterval = Field(1.0, description="Share of the sites that train in each round.")
    quorum: int = Field(1, ge=1, description="Fewest accepted uploads for a round to count.")
    min_sites: int = Field(
        1, ge=1, description="Number of sites to wait for before the first round."
    )
    join_timeout_s: float = Field(
        300.0, gt=0.0, description="Longest wait for `min-sites` sites, in seconds."
    )
    site_names: Literal["any", "registered"] = Field(
        "any",
        description="Names that a site may use: any name (`any`), or only that of its "
        "registered key (`registered`, which `rsdgc server run` sets).",
    )
    max_site_share: ShareOrAuto = Field(
        AUTO,
        description="Largest share of all training chips that a site may count for in the mean; "
        "1: no limit. `auto`: 20 times the median of the other sites.",
    )
    max_site_chips: str = Field(
        "",
        description="Largest number of training chips that a site may count for in the mean, by "
        "site name: `oslo=5000,porto=2000`.",
    )
    suspend_after: int = Field(
        3,
        ge=0,
        description="Number of successive replies that are refused or do not come after which a "
        "site is set aside; 0: never. A site is set aside for 2 rounds at first, "
        "and for up to 32 if it goes on.",
    )
    round_timeout_s: float = Field(
        3600.0, gt=0.0, description="Longest wait for a round's replies, in seconds."
    )

    evaluate_every: int = Field(
        1,
        ge=1,
        description="Number of rounds from one scoring of the model to the next, by the sites "
        "on their test and validation splits. The last round's model is always "
        "scored.",
    )

    checkpoint_every: int = Field(
        10,
        ge=0,
        description="Number of rounds from one checkpoint of the server to the next; 0: none.",
    )
    checkpoint_keep: int = Field(
        2, ge=1, le=1000, description="Number of checkpoints that are kept."
    )
    resume: bool = Field(
        False, description="Continue the unfinished run in `out` from its last checkpoint."
    )
    tracking: Annotated[str, AfterValidator(_check_tracking)] = Field(
        TRACK_NOTHING,
        description="Trackers of the run: `none`, `tensorboard`, `mlflow`, `wandb`, or several, "
        "separated by commas; each is an extra (docs/tracking.md). For a tracker "
        "of your own: `package.module:Class` (`fl_app/tracking/tracker.py`).",
    )

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device that sites train on."
    )
    sites_per_gpu: int = Field(
        4,
        ge=1,
        le=1000,
        description="Number of sites that train on a GPU at the same time in a simulation.",
    )
    gpu_share: UnitInterval = Field(
        1.0,
        description="Share of a GPU's memory that the sites on it may take together. A node's "
        "own `gpu-share` takes precedence.",
    )
    amp: bool = Field(
        True,
        description="Mixed precision on GPUs: bfloat16, or float16 with a scaled loss if the "
        "GPU has no bfloat16.",
    )
    compile: bool = Field(
        False,
        description="Whether PyTorch compiles the model. It needs a compiler and takes a minute.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of a site; 0: PyTorch's default."
    )

    # A validator sees only the fields above its own, in `info.data`.

    @field_validator("*", mode="before")
    @classmethod
    def _switches_alone_are_true_or_false(cls, value: object, info: ValidationInfo) -> object:
        # Python counts True as 1.
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError("write a number or a word: true and false are for switches")
        return value

    @field_validator(*_PATHS)
    @classmethod
    def _home_is_found(cls, value: str) -> str:
        # A shell does not expand the tilde of `data-dir=~/data`.
        try:
            return str(Path(value).expanduser()) if value.startswith("~") else value
        except RuntimeError:
            raise ValueError("its home folder is not known: write the whole path") from None

    @field_validator("budget", "budget_down", "budget_final")
    @classmethod
    def _budget_is_readable(cls, value: str, info: ValidationInfo) -> str:
        if value != AUTO or info.field_name == "budget":
            parse_budget(value, dense_bytes=1 << 20)  # of any size: it is the text that is checked
        return value

    @field_validator("max_site_chips")
    @classmethod
    def _chip_limits_are_readable(cls, value: str) -> str:
        parse_chip_limits(value)
        return value

    @field_validator("momentum_correction")
    @classmethod
    def _momentum_is_masked_where_it_was_sent(
        cls, value: float | str, info: ValidationInfo
    ) -> float | str:
        if info.data.get("transform") != "channels" or not _is_complete(info):
            return value
        remedy = "factor masking needs updates as they are; set transform to 'none'"
        method = str(info.data.get("method"))
        # A method of your own may not be importable yet; sites refuse such a task, too.
        if value == AUTO and method in METHODS and METHODS[method].momentum_correction:
            own = METHODS[method].momentum_correction
            raise ValueError(
                f"it is {own:g} for {method}, and {remedy}, or momentum-correction to 0"
            )
        if value not in (AUTO, 0):
            raise ValueError(remedy)
        return value

    @field_validator("modalities")
    @classmethod
    def _modalities_are_names(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")] if value else []
        if "" in names or len(set(names)) != len(names):
            raise ValueError("write different names with commas between, such as optical,elevation")
        return ",".join(names)

    @field_validator("clip_updates")
    @classmethod
    def _clipping_spares_the_median(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("write a number from 1, or 0 for no clipping")
        return value

    @field_validator("dp_noise_multiplier")
    @classmethod
    def _noise_is_on_the_mean(cls, value: float, info: ValidationInfo) -> float:
        if 0 < value < LEAST_NOISE:
            raise ValueError(
                f"so little noise protects nothing: write {LEAST_NOISE} or more, or 0 for none"
            )
        if value and info.data.get("aggregation") != "mean":
            raise ValueError("differential privacy has a mean of its own; set aggregation=mean")
        return value

    @field_validator("normalization")
    @classmethod
    def _statistics_have_no_noise(cls, value: str, info: ValidationInfo) -> str:
        if value == "common" and info.data.get("dp_noise_multiplier"):
            raise ValueError(
                "differential privacy does not cover the sites' statistics of pixels; set "
                "normalization=site"
            )
        return value

    @field_validator("train_only", "adapters")
    @classmethod
    def _freeze_stands_alone(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("freeze") and value not in ("", "none"):
            raise ValueError("use it without freeze: both say which layers are trained")
        return value

    @field_validator("freeze", "train_only", "adapter_layers")
    @classmethod
    def _patterns_are_given(cls, value: str) -> str:
        if value and not value.replace(",", " ").strip():
            raise ValueError("write names or patterns with commas between, such as stem,stage1")
        return value

    @field_validator(*ADAPTER_SETTINGS)
    @classmethod
    def _adapters_are_on(cls, value: Scalar, info: ValidationInfo) -> Scalar:
        default = cls.model_fields[str(info.field_name)].default
        if value != default and _is_complete(info) and info.data.get("adapters") == "none":
            raise ValueError("it is for adapters; set adapters=lora, or leave it out")
        return value

    @field_validator("dense_values")
    @classmethod
    def _coding_takes_whole_layers(cls, value: str) -> str:
        codings = rsdgc.VALUE_CODINGS
        names = [name for name in codings if codings[name].for_whole_layers]
        if ":" not in value and value not in (AUTO, *names):
            raise ValueError(f"choose {', '.join(names)}")
        return value

    @field_validator("nsi_std_weight")
    @classmethod
    def _nsi_counts_something(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("nsi_mean_weight") == 0:
            raise ValueError("one of nsi-mean-weight and nsi-std-weight must be above 0")
        return value

    @field_validator("lr_warm_up_rounds")
    @classmethod
    def _warm_up_ends(cls, value: int, info: ValidationInfo) -> int:
        rounds = info.data.get("rounds", value + 1)
        if value >= rounds and _is_complete(info):
            raise ValueError(f"it must be below rounds, which are {rounds}")
        return value

    @field_validator("sampling")
    @classmethod
    def _classes_are_balanced_once(cls, value: str, info: ValidationInfo) -> str:
        if value == "balanced" and info.data.get("class_weights") == "balanced":
            raise ValueError("class-weights are balanced already; set one of the two")
        return value

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, complete: bool = True) -> Settings:
        """Validate ``values`` (hyphenated keys).

        Parameters
        ----------
        values : mapping
            Settings that are not left at their defaults.
        complete : bool
            Whether those are all. If not, a setting may need another that is not among them.

        Raises
        ------
        SettingError
            One line that names the first wrong key, its value and the remedy.
        """
        for key, value in values.items():
            try:
                check_values([key, value], finite=False)
            except DocumentError as error:
                raise SettingError(f"setting {shorten(key)}: {error}: correct it") from None
        try:
            return cls.model_validate(dict(values), context={_COMPLETE: complete})
        except ValidationError as error:
            raise SettingError(_explain(error)) from None

    @classmethod
    def keys(cls) -> list[str]:
        """Return all keys, hyphenated, in their documented order."""
        return [hyphenated(name) for name in cls.model_fields]

    def to_mapping(self) -> dict[str, Scalar]:
        """Return hyphenated keys and plain values, as Flower's run config takes them."""
        return self.model_dump(by_alias=True)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities to train on; empty for all."""
        return tuple(self.modalities.split(",")) if self.modalities else ()

    def resolved(self, name: str) -> Any:
        """Return a setting's value; where it is ``auto``, the optimizer's, model's or method's."""
        value = getattr(self, name)
        if value != AUTO:
            return value
        if name == "learning_rate" and self.optimizer != "adamw":
            return SGD_LEARNING_RATES.get(self.model, _SGD_DEFAULTS[name])
        if name == "momentum":
            # Both together would multiply the length of steps twice.
            compressed = self.method != "fedavg" and self.optimizer != "adamw"
            corrected = compressed and self.resolved("momentum_correction")
            return 0.0 if corrected else DEFAULT_MOMENTUM
        if name == "transform" and self.resolved("momentum_correction"):
            return "none"  # factor masking sets to zero what was sent, element by element
        own = OPTIMIZER_DEFAULTS[self.optimizer]
        return own[name] if name in own else getattr(find_method(self.method), name)

    def effective_server_momentum(self, dense_bytes: int) -> float:
        """Return the momentum of a global model that takes so many bytes in float32.

        A method's own momentum makes up for the rounds by which compression delays a change, so it
        is 0 where the budget allows whole uploads.
        """
        lossless = parse_budget(self.budget, dense_bytes) >= dense_bytes
        momentum: float = self.resolved("server_momentum")
        return 0.0 if lossless and self.server_momentum == AUTO else momentum

    @property
    def trackers(self) -> tuple[str, ...]:
        """Trackers of the run, see :mod:`fl_app.tracking`."""
        return parse_tracking(self.tracking)

    def weight_rules(self) -> WeightRules:
        """Return the limits of what a site counts for in the mean."""
        share = None if self.max_site_share == AUTO else float(self.max_site_share)
        return WeightRules(share, parse_chip_limits(self.max_site_chips))

    def initial_weights(self) -> Path | None:
        """Return the file of weights to start from; None for the seed's initialization."""
        return Path(self.init_weights) if self.init_weights else None

    def with_absolute_paths(self) -> Settings:
        """Return the same settings with absolute paths, for processes that work elsewhere."""
        paths = {name: getattr(self, name) for name in _PATHS}
        absolute = {name: str(Path(path).absolute()) for name, path in paths.items() if path}
        return self.model_copy(update=absolute)

    def scheme(self) -> rsdgc.Scheme:
        """Return how updates are cut and coded."""
        names = ("neighborhood", "values", "dense_values", "indices", "transform")
        return rsdgc.Scheme(tile_px=self.tile_px, **{name: self.resolved(name) for name in names})

    def learning_rate_at(self, round_number: int) -> float:
        """Learning rate of a round, counted from 1."""
        peak: float = self.resolved("learning_rate")
        warm_up = self.lr_warm_up_rounds
        if round_number <= warm_up:
            return peak * round_number / (warm_up + 1)
        if self.lr_schedule == "constant":
            return peak
        # The first round after the warm-up has the whole rate, and the last one more than 0.
        done = (round_number - 1 - warm_up) / (self.rounds - warm_up)
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def parse_overrides(words: list[str]) -> dict[str, Scalar]:
    """Turn ``key=value`` words of a command line into typed settings.

    Raises
    ------
    SettingError
        If a word has no ``=``, names no setting or one that another word names differently, or
        its value is not of the setting's type.
    """
    values: dict[str, Scalar] = {}
    for word in words:
        key, sep, text = word.partition("=")
        if not sep:
            raise SettingError(f"'{word}' is not key=value")
        key, value = key.strip(), text.strip()
        _refuse_another(key, values.get(key, value), value)
        values[key] = value
    # Only the keys that were named: the others may come from options or from the command.
    given = Settings.from_mapping(values, complete=False)
    return given.model_dump(by_alias=True, exclude_unset=True)


def merge_options(words: list[str], options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings of a command line: its ``key=value`` words, and its options by key.

    Raises
    ------
    SettingError
        As :func:`parse_overrides`, or a word and an option name the same setting differently.
    """
    given = parse_overrides(words)
    for key, value in options.items():
        _refuse_another(key, given.get(key, value), value)
    return {**given, **options}


def _refuse_another(key: str, before: Scalar, value: Scalar) -> None:
    if before != value:
        raise SettingError(
            f"{shorten(key)} is given twice, as {shorten(str(before))} and as "
            f"{shorten(str(value))}: leave one out"
        )


def _is_complete(info: ValidationInfo) -> bool:
    """Return whether a setting that is not among the validated ones is at its default."""
    return info.context is None or bool(info.context[_COMPLETE])


def _explain(error: ValidationError) -> str:
    """Return the first error in one line."""
    first = error.errors()[0]
    key = plain_line(str(first["loc"][0]).replace("_", "-"), MAX_SHOWN)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Settings.keys(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; see docs/configuration.md"
        return f"unknown setting '{key}'{hint}"
    reason = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    text = repr(value) if isinstance(value, str) and value.isprintable() else ascii(value)
    if len(text) > MAX_SHOWN:
        text = f"{text[:MAX_SHOWN]}…"
    return f"setting {key}={text}: {reason[0].lower()}{reason[1:]}"
