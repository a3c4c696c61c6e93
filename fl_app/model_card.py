"""The model card of an exported model: ``README.md`` with the metadata that model hubs read."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from data_prep import number_format
from fl_app.delivered_model import DeliveredModel
from fl_app.report.confusion import class_scores
from fl_app.runs.records import MODEL_FILE, RunConfig, RunSummary

CHIP_LIMIT = """\
The model labels a whole chip, by what most of it shows. A map of overlapping chips is smoother
  than the ground."""
PATCH_LIMIT = "The model labels the central pixel of a patch, by what all of the patch shows."

INITIAL_WEIGHTS = "init-weights"
PARTS = ("adapters", "adapter-layers", "train-only", "freeze")
"""Settings that choose which part of a model is trained."""

# JSON is YAML, too: every value in the head is written as JSON, so that no name breaks it.
_TEMPLATE = """---
library_name: pytorch
pipeline_tag: image-classification
tags: [remote-sensing, land-cover, federated-learning, rsdgc]
model-index: {{ index }}
---

# {{ title }}

{{ lead }}
{% if synthetic %}
**Trained on synthetic imagery.** The model says nothing about real land cover.
{% endif %}

## Files

| file | what it is |
|---|---|
{% if onnx %}| `model.onnx` | the program (ONNX), with normalization inside |
{% else %}| `model.pt2` | the program (`torch.export`), with normalization inside |
{% endif %}| `model.safetensors` | the weights alone |
| `model.json` | bands, order, statistics, chip size, classes and their codes |

## Use

```python
{% if onnx %}import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
chips = {
{% for name, shape in shapes %}    {{ name }}: np.zeros({{ shape }}, "float32"),
{% endfor %}}
(probabilities,) = session.run(None, chips)  # (n, {{ classes|length }}), rows sum to 1
{% else %}import torch

model = torch.export.load("model.pt2").module()
{% for line in inputs %}{{ line }}
{% endfor %}probabilities = model({{ arguments }})  # (n, {{ classes|length }}), rows sum to 1
{% endif %}```

Values are physical: a file's scale and offset are applied. NaN marks pixels without data.
`rsdgc predict RUN scene.tif --out map.tif` maps whole scenes.

## Input

| modality | bands, in order | chip | mean | standard deviation |
|---|---|---|---|---|
{% for row in modalities %}| {{ row|join(" | ") }} |
{% endfor %}

{{ chip_text }}

## Classes

{% for name in classes %}{{ loop.index0 }}. {{ name }}
{% endfor %}

## Training

| | |
|---|---|
{% for name, value in training %}| {{ name }} | {{ value }} |
{% endfor %}

## Scores

{{ scored }}
{% if scores %}

| class | test chips | recall | precision | F1 |
|---|---|---|---|---|
{% for row in scores %}| {{ row|join(" | ") }} |
{% endfor %}{% endif %}

## Limits

- {{ limit }}
- It knows the bands above, pixels of the size above, and the classes above: it puts everything else
  into one of them. Its probabilities have not been calibrated.
- Test chips come from the archives of the sites that trained it. Other regions, seasons and sensors
  were not tested.
- Rows of the table above with few test chips say little.
{% if privacy %}- Differential privacy: {{ privacy }}
{% else %}- The run had no differential privacy: the weights may reveal something of the training
  imagery.
{% endif %}- No license is stated: it depends on the training data and on who publishes the model.
"""


def write_card(path: Path, model: DeliveredModel, digest: str, program: str = "torch") -> None:
    """Write the card of a run's model whose weights have this SHA-256, for this format."""
    config, summary = RunConfig.read(model.folder), RunSummary.read(model.folder)
    environment = Environment(  # noqa: S701  # Markdown, not HTML; names are made plain on reading
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    # A score is of the last round's model; the best round's has scores of its own.
    best = model.file.name != MODEL_FILE
    scored: Any = summary.best if best else summary
    if model.site:  # of the best round's model no site's own scores are kept
        own = {} if best else {scores.site: scores for scores in summary.by_site}
        scored = own.get(model.site)
    variables = _variables(m.name for m in model.modalities)
    text = environment.from_string(_TEMPLATE).render(
        # The sites scored models of their own, of which this one has the mean.
        index=json.dumps(
            _index(model, summary, None if model.caution else scored), ensure_ascii=False
        ),
        title=f"{model.name} for {summary.dataset}",
        lead=_lead(model, summary),
        synthetic=model.synthetic,
        onnx=program == "onnx",
        shapes=[(json.dumps(m.name), (8, *m.shape)) for m in model.modalities],
        inputs=[
            f"{variable} = torch.rand(8, {len(m.bands)}, {m.px}, {m.px})"
            for variable, m in zip(variables, model.modalities, strict=True)
        ],
        arguments=", ".join(variables),
        modalities=[
            (
                _cell(m.name),
                _cell(", ".join(m.bands)),
                f"{m.px} × {m.px} px",
                ", ".join(f"{value:.6g}" for value in statistics.mean),
                ", ".join(f"{value:.6g}" for value in statistics.std),
            )
            for m, statistics in zip(model.modalities, model.statistics, strict=True)
        ],
        chip_text=_chip_text(model),
        limit=PATCH_LIMIT if model.centered else CHIP_LIMIT,
        classes=model.classes,
        training=_training(model, config, summary, digest),
        scored=_score_text(model, scored, summary, best),
        scores=[] if best or model.site else list(_class_rows(model, summary)),
        privacy=_privacy_text(summary),
    )
    path.write_text(text, encoding="utf-8")


def _index(model: DeliveredModel, summary: RunSummary, scored: Any) -> list[dict[str, Any]]:
    """Return the ``model-index``: results as model hubs read them."""
    names = ("accuracy", "balanced_accuracy", "kappa")
    metrics = [
        {"type": name, "name": name.replace("_", " "), "value": getattr(scored, name)}
        for name in names
        if scored is not None and getattr(scored, name) is not None
    ]
    if not metrics:
        return []
    result = {
        "task": {"type": "image-classification", "name": "land cover of image chips"},
        "dataset": {"type": "private", "name": summary.dataset, "split": "test"},
        "metrics": metrics,
    }
    return [{"name": f"{model.name} for {summary.dataset}", "results": [result]}]


def _lead(model: DeliveredModel, summary: RunSummary) -> str:
    sites = number_format.plural(summary.num_sites, "site")
    size = number_format.count_text(sum(p.numel() for p in model.network.parameters()))
    return (
        f"A `{model.name}` of {size} parameters that labels chips of satellite imagery with one of "
        f"{len(model.classes)} classes. It was trained by {sites} together, in federated learning "
        f"with rsdgc: the sites' imagery stayed where it was."
    )


def _chip_text(model: DeliveredModel) -> str:
    size = ""
    if model.pixel_m:
        sides = [f"{model.pixel_m_of(each):.3g} m ({each.name})" for each in model.modalities]
        size = f" Width of a training pixel on the ground: {', '.join(sides)}."
    if model.centered:
        return f"A chip is the patch around the pixel that is labeled.{size}"
    return f"A chip has one label.{size}"


def _training(
    model: DeliveredModel, config: RunConfig, summary: RunSummary, digest: str
) -> list[tuple[str, str]]:
    bytes_text = number_format.bytes_text
    rows = [
        ("data", summary.dataset + (" (synthetic)" if model.synthetic else "")),
        ("sites", ", ".join(config.data.sites) or str(summary.num_sites)),
        ("method", f"{summary.method}, {summary.rounds} rounds, seed {summary.seed}"),
        *_fine_tuning(config),
        *_normalization(model),
        (
            "sent by the sites",
            f"{bytes_text(summary.bytes_up)}, dense FedAvg {bytes_text(summary.dense_bytes_up)}",
        ),
        (
            "sent to the sites",
            f"{bytes_text(summary.bytes_down)}, dense FedAvg "
            f"{bytes_text(summary.dense_bytes_down)}",
        ),
        ("weights", f"`{model.file.name}`, SHA-256 `{digest}`"),
        ("versions", ", ".join(f"{k} {v}" for k, v in config.versions.items())),
    ]
    return [(name, _cell(value)) for name, value in rows]


def _fine_tuning(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield what the run started from, and which part of the model it trained."""
    chosen = {key: str(config.settings.get(key, "")) for key in (INITIAL_WEIGHTS, *PARTS)}
    weights = chosen.pop(INITIAL_WEIGHTS)
    if weights:  # the name alone: a path may tell of the machine
        yield "started from", f"`{Path(weights).name}`"
    parts = [f"{key}={value}" for key, value in chosen.items() if value not in ("", "none")]
    if parts:
        yield "trained part", f"`{', '.join(parts)}`"


def _normalization(model: DeliveredModel) -> Iterator[tuple[str, str]]:
    """Yield whose batch normalization the model has, if the run kept it at the sites."""
    if model.batch_norm:
        whose = f"of site {model.site}" if model.site else "the mean of the sites'"
        yield "batch normalization", f"{whose} (`batch-norm={model.batch_norm}`)"


def _score_text(model: DeliveredModel, scored: Any, summary: RunSummary, best: bool) -> str:
    if scored is None or scored.accuracy is None:
        who = f"Site {model.site}" if model.site else "No site"
        if model.site and best:
            return "The run has no scores of a single site for the model of its best round."
        return f"{who} had {'no ' if model.site else ''}test chips: the model was not scored."
    share = number_format.percent_text
    which = f"the model of round {scored.round}" if best else "the final model"
    chips, whose = summary.num_test, "all sites"
    if model.site:
        chips, whose = scored.num_test, f"site {model.site}"
    text = (
        f"Of {which}, on {chips} test chips of {whose}: accuracy "
        f"{share(scored.accuracy)}, balanced accuracy {share(scored.balanced_accuracy)}, "
        f"kappa {number_format.decimal_text(scored.kappa)}."
    )
    if model.caution:
        text += (
            " Each site scored the model with its own batch normalization. The model here has the "
            "mean of the sites', and was not scored."
        )
    return text


def _class_rows(model: DeliveredModel, summary: RunSummary) -> Iterator[tuple[str, ...]]:
    confusion = np.array(summary.confusion, np.int64)
    if not confusion.size:
        return
    for score in class_scores(confusion, list(model.classes)):
        shares = map(number_format.percent_text, (score.recall, score.precision, score.f1))
        yield _cell(score.name), str(score.reference), *shares


def _privacy_text(summary: RunSummary) -> str:
    spent = summary.privacy
    return "" if spent is None else f"ε = {spent.epsilon:.3g} at δ = {spent.delta:.2g} for a site."


def _variables(names: Iterable[str]) -> list[str]:
    """Return a variable of Python for each modality, unlike the others and those of the code."""
    taken = ["torch", "model", "probabilities"]
    for number, name in enumerate(names, start=1):
        text = re.sub(r"\W", "_", name, flags=re.ASCII)
        is_usable = text.isidentifier() and not keyword.iskeyword(text) and text not in taken
        # Of two names that differ in their marks alone, the second gets its number; so does one
        # that reads as such a number.
        is_usable = is_usable and not text.startswith("modality_")
        taken.append(text if is_usable else f"modality_{number}")
    return taken[3:]


def _cell(text: str) -> str:
    """Keep a text within its cell of a table."""
    return text.replace("|", "\\|")
