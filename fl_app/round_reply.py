"""What a site replies to a round's task: its upload, and what it has to report."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from clients.site import RoundResult
from rsdgc import ModelSpec, protocol
from strategies.pieces import in_pieces


def round_reply(result: RoundResult, spec: ModelSpec) -> RecordDict:
    """Return the content of the reply, as :mod:`rsdgc.protocol` describes it."""
    return RecordDict({protocol.UPDATE: _update(result, spec), protocol.METRICS: _report(result)})


def _update(result: RoundResult, spec: ModelSpec) -> ArrayRecord:
    if result.weights is None:
        return in_pieces(result.payload)
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
            protocol.NUM_EXAMPLES: int(result.num_examples),
            protocol.TRAIN_LOSS: float(result.train_loss),
            protocol.SCORE_LOSS: float(result.loss),
            protocol.SECONDS: float(result.seconds),
            protocol.REFERENCE: confusion.sum(axis=1).tolist(),
            protocol.PREDICTED: confusion.sum(axis=0).tolist(),
            protocol.CORRECT: confusion.diagonal().tolist(),
            **({} if result.weights is not None else {protocol.VERSION: result.version}),
        }
    )
