"""What a run has come to: the record ``summary.json``, and the last line of its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fl_app.runs.records import BestRound, ModalityScores, PrivacySpent, RunSummary, SiteScores
from fl_app.settings import Settings
from rsdgc import ModelSpec
from strategies.base import SiteStrategy
from strategies.metrics import Scores
from strategies.round_log import human_bytes


def summarize(settings: Settings, strategy: SiteStrategy, spec: ModelSpec) -> RunSummary:
    """Return the record of a run whose final model has been scored."""
    sites, ledger, scores = strategy.site_manager, strategy.ledger, strategy.final.scores
    confusion = strategy.final.confusion
    names = () if scores is None else ("accuracy", "balanced_accuracy", "kappa")
    figures: dict[str, Any] = {name: round(getattr(scores, name), 6) for name in names}
    return RunSummary(
        method=settings.method,
        dataset=sites.data.dataset,
        synthetic=sites.data.synthetic,
        model=settings.model,
        num_sites=len(sites.sites),
        rounds=len(ledger.rounds) - 1,
        seed=settings.seed,
        server_momentum=settings.effective_server_momentum(spec.dense_bytes),
        **figures,
        **ledger.totals(),
        seconds=round(strategy.seconds(), 1),
        num_test=0 if scores is None else scores.num_examples,
        classes=list(sites.data.classes),
        confusion=[] if confusion is None else confusion.tolist(),
        by_modalities=_scores_by_modalities(strategy),
        by_site=_scores_by_site(strategy),
        refused=dict(ledger.refusals),
        suspended=dict(ledger.suspensions),
        left_out=sites.nodes.names_left_out(),
        best=_best_round(strategy),
        privacy=_privacy_spent(strategy),
    )


def _scores_by_modalities(strategy: SiteStrategy) -> list[ModalityScores]:
    groups = strategy.site_manager.sites_by_modalities()
    if len(groups) == 1:
        return []
    return [
        ModalityScores(
            modalities=list(modalities),
            sites=groups[modalities],
            num_test=scores.num_examples,
            accuracy=round(scores.accuracy, 6),
            balanced_accuracy=round(scores.balanced_accuracy, 6),
            kappa=round(scores.kappa, 6),
        )
        for modalities, scores in strategy.final.by_modalities.items()
    ]


def _scores_by_site(strategy: SiteStrategy) -> list[SiteScores]:
    records = []
    for name, counts in strategy.final.by_site.items():
        parts = (counts.reference, counts.predicted, counts.correct)
        scores = Scores.from_counts(*parts, counts.loss)
        reference, predicted, correct = (part.tolist() for part in parts)
        records.append(
            SiteScores(
                site=name,
                accuracy=round(scores.accuracy, 6),
                balanced_accuracy=round(scores.balanced_accuracy, 6),
                kappa=round(scores.kappa, 6),
                reference=reference,
                predicted=predicted,
                correct=correct,
            )
        )
    return records


def _best_round(strategy: SiteStrategy) -> BestRound | None:
    best = strategy.best
    if best.round is None:
        return None
    entry = strategy.ledger.rounds[best.round]
    names = ("accuracy", "balanced_accuracy", "kappa")
    scores = {name: getattr(entry, name) for name in names}
    rounded: dict[str, Any] = {
        n: None if score is None else round(score, 6) for n, score in scores.items()
    }
    return BestRound(
        round=best.round,
        val_balanced_accuracy=round(best.balanced_accuracy, 6),
        val_loss=None if best.loss is None else round(best.loss, 6),
        **rounded,
    )


def _privacy_spent(strategy: SiteStrategy) -> PrivacySpent | None:
    privacy = strategy.privacy
    if privacy is None:
        return None
    return PrivacySpent(
        epsilon=privacy.epsilon(),
        delta=privacy.delta,
        releases=privacy.releases,
        noise_multiplier=privacy.noise_multiplier,
        clip=privacy.clip,
    )


def headline(summary: RunSummary, report: Path) -> str:
    """Return the last line of a run's log: the report, the accuracy, the bytes."""
    accuracy = "not scored" if summary.accuracy is None else f"{summary.accuracy:.3f}"
    synthetic = " (synthetic data)" if summary.synthetic else ""
    lost = sum(summary.refused.values())
    missing = f" | {lost} replies refused or lost" if lost else ""
    if summary.privacy is not None:
        missing += f" | ε = {summary.privacy.epsilon:.3g} at δ = {summary.privacy.delta:.2g}"
    return (
        f"report: {report} | accuracy {accuracy}{synthetic} | "
        f"up {human_bytes(summary.bytes_up)}, down {human_bytes(summary.bytes_down)} | "
        f"fewer bytes than dense FedAvg: {summary.compression_up:.1f}× up, "
        f"{summary.compression_down:.1f}× down, {summary.compression_total:.1f}× in total"
        f"{missing}"
    )
