"""What a site replies to a round's task: its upload, and what it has to report."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from clients.site import RoundResult
from rsdgc import ModelSpec
from strategies import messages
from strategies.transport import chunk_upload


def round_reply(result: RoundResult, spec: ModelSpec) -> RecordDict:
    """Return the content of the reply, as :mod:`strategies.messages` describes it."""
    return RecordDict({messages.UPDATE: _update(result, spec), messages.METRICS: _report(result)})


def _update(result: RoundResult, spec: ModelSpec) -> ArrayRecord:
    if result.weights is None:
        return chunk_upload(result.payload)
    views = spec.views(result.weights)
    return ArrayRecord(
        {
            layer.name: Array(view.reshape(layer.shape))
            for layer, view in zip(spec.layers, views, strict=True)
        }
    )


def _report(result: RoundResult) -> MetricRecord:
    confusion = result.confusion
    return MetricRecord(
        {
            messages.NUM_EXAMPLES: int(result.num_examples),
            messages.TRAIN_LOSS: float(result.train_loss),
            messages.SCORE_LOSS: float(result.loss),
            messages.SECONDS: float(result.seconds),
            messages.REFERENCE: confusion.sum(axis=1).tolist(),
            messages.PREDICTED: confusion.sum(axis=0).tolist(),
            messages.CORRECT: confusion.diagonal().tolist(),
            **({} if result.weights is not None else {messages.VERSION: result.version}),
        }
    )
