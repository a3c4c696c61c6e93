from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import clients.site
from clients.loader import SplitLoader
from clients.mapped_vectors import checksum
from clients.model_parts import ModelParts
from clients.site import Site
from clients.state import StateFolder
from clients.task import ReceivedModel, RoundTask, RunOrigin
from rsdgc.channel_transform import ChannelTransform, transformed_part
from rsdgc.codec.wire import decode
from rsdgc.errors import DataError, RunError, StateError
from rsdgc.patches import fingerprint
from rsdgc.scheme import Scheme
from rsdgc.statistics_codec import decode_statistics, encode_statistics
from tests.clients.toys import CPU, Arrays, TinyNet, make_split, train_settings, unit

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ModelParts(TinyNet()).spec
LAYERS = len(SPEC.layers)


def start() -> np.ndarray:
    return ModelParts(TinyNet()).vector()


def make_site(path: Path, name: str = "site-00", **changes: Any) -> Site:
    settings: dict[str, Any] = {
        "train": make_split(),
        "test": make_split(count=9, seed=1),
        "num_classes": 3,
        "state_dir": path,
        "initial": start,
    }
    return Site(name, TinyNet(), **(settings | changes))


def origin(
    attempt: int = 1, resumed: int = 0, kept: tuple[int, ...] = (), run: int = 7
) -> RunOrigin:
    return RunOrigin(run, attempt, resumed, kept)


def make_task(round_: int = 1, accepted: int = 0, **changes: Any) -> RoundTask:
    settings: dict[str, Any] = {
        "origin": origin(),
        "round": round_,
        "train": train_settings(lr=0.05, batch_size=8),
        "seed": 0,
        "scheme": Scheme(values="float32", dense_values="float32"),
        "ratios": np.full(LAYERS, 0.3),
        "accepted_round": accepted,
    }
    return RoundTask(**(settings | changes))


def whole(weights: np.ndarray, version: int = 0) -> ReceivedModel:
    return ReceivedModel(version, fingerprint(weights), whole=weights)


def dense(payload: bytes) -> np.ndarray:
    return decode(payload, SPEC).to_dense()


def residual_of(path: Path, name: str = "site-00", run: int = 7) -> np.ndarray:
    folder = StateFolder(path, run, name, SPEC)
    states = folder.load().states
    return folder.residual(states[-1]) if states else np.zeros(SPEC.size, np.float32)


def test_upload_and_residual_add_up_to_the_change(tmp_path: Path) -> None:
    weights = start()
    kept = weights.copy()
    site = make_site(tmp_path)
    result = site.work(make_task(), whole(weights))
    np.testing.assert_array_equal(weights, kept)
    change = site.parts.vector() - weights
    assert np.abs(change).max() > 0
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)
    update = decode(result.payload, SPEC)
    assert (update.stamp.run, update.stamp.round, update.stamp.base) == (7, 1, 0)
    assert result.weights is None
    assert result.num_examples == 24
    assert result.train_loss > 0
    steps = (result.train_seconds, result.score_seconds, result.compress_seconds)
    assert 0 < sum(steps) <= result.seconds
    assert all(step > 0 for step in steps)


def test_the_received_model_is_scored_not_the_trained_one(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    before, _ = site.evaluate(origin(), ReceivedModel(0, whole=start()))
    result = site.work(make_task(), whole(start()))
    assert result.scores is not None
    np.testing.assert_array_equal(result.scores.test.confusion, before.test.confusion)
    assert result.scores.test.loss == before.test.loss
    assert result.scores.test.samples == 9
    assert result.scores.val is None


@pytest.mark.parametrize("compressed", [False, True])
def test_the_validation_split_is_scored_like_the_test_split(
    tmp_path: Path, compressed: bool
) -> None:
    val = make_split(count=5, seed=2)
    site = make_site(tmp_path, val=val, test=None)
    other = make_site(tmp_path / "other", test=val)
    expected, _ = other.evaluate(origin(), ReceivedModel(0, whole=start()))
    task = make_task(compressed=compressed, ratios=np.ones(LAYERS))
    scores = site.work(task, whole(start())).scores
    assert scores is not None
    assert scores.val is not None
    assert scores.val.figures() == expected.test.figures()
    assert (scores.test.samples, scores.val.samples) == (0, 5)
    if compressed:  # and so it is when the reply comes from the site's state
        again = make_site(tmp_path, val=val, test=None).work(task, whole(start())).scores
        assert again is not None
        assert again.val is not None
        assert again.val.figures() == scores.val.figures()


def test_a_round_without_scores_trains_the_same(tmp_path: Path) -> None:
    scored = make_site(tmp_path / "scored").work(make_task(), whole(start()))
    result = make_site(tmp_path).work(make_task(score=False), whole(start()))
    again = make_site(tmp_path).work(make_task(score=False), whole(start()))
    assert result.scores is None
    assert again.scores is None
    assert result.payload == again.payload == scored.payload


def test_whole_layers_equal_fedavg(tmp_path: Path) -> None:
    weights = start()
    everything = make_task(ratios=np.ones(LAYERS))
    upload = make_site(tmp_path).work(everything, whole(weights))
    model = make_site(tmp_path / "other").work(make_task(compressed=False), whole(weights))
    assert model.payload == b""
    assert model.weights is not None
    np.testing.assert_allclose(weights + dense(upload.payload), model.weights, atol=1e-7)
    assert not (tmp_path / "other").exists()


def test_momentum_correction_keeps_the_masked_velocity_over_rounds(tmp_path: Path) -> None:
    weights = start()

    def velocity() -> np.ndarray:
        folder = StateFolder(tmp_path, 7, "site-00", SPEC)
        found = folder.velocity(folder.load().states[-1])
        assert found is not None
        return found.copy()

    def changed(round_: int) -> np.ndarray:
        model = make_site(tmp_path / "dense").work(
            make_task(round_, compressed=False), whole(weights)
        )
        assert model.weights is not None
        return model.weights - weights

    first = make_site(tmp_path).work(make_task(momentum_correction=0.5), whole(weights))
    kept = velocity()
    sent = dense(first.payload) != 0
    assert not kept[sent].any()
    np.testing.assert_allclose(kept[~sent], changed(1)[~sent], atol=1e-7)
    residual = residual_of(tmp_path)
    second = make_site(tmp_path).work(make_task(2, 1, momentum_correction=0.5), whole(weights))
    expected = 0.5 * kept + changed(2) + residual
    np.testing.assert_allclose(dense(second.payload) + residual_of(tmp_path), expected, atol=1e-6)


def test_sites_and_rounds_draw_differently_and_each_repeats_itself(tmp_path: Path) -> None:
    def trained(folder: str, name: str, round_: int) -> np.ndarray:
        site = make_site(tmp_path / folder, name)
        weights = site.work(make_task(round_, compressed=False), whole(start())).weights
        assert weights is not None
        return weights

    first = trained("a", "site-00", 1)
    np.testing.assert_array_equal(first, trained("b", "site-00", 1))
    assert (first != trained("c", "site-01", 1)).any()
    assert (first != trained("d", "site-00", 2)).any()


def test_the_same_task_twice_gets_the_same_reply(tmp_path: Path) -> None:
    site, weights = make_site(tmp_path), start()
    first = site.work(make_task(), whole(weights))
    residual = residual_of(tmp_path)
    again = make_site(tmp_path).work(make_task(), whole(weights))
    assert again.payload == first.payload
    assert again.figures() == first.figures()
    for name in ("num_examples", "train_loss", "seconds", "weights"):
        assert getattr(again, name) == getattr(first, name)
    np.testing.assert_array_equal(residual_of(tmp_path), residual)


def test_a_repeated_round_adds_its_first_upload_again(tmp_path: Path) -> None:
    site, weights = make_site(tmp_path), start()
    first = site.work(make_task(), whole(weights))
    change = dense(first.payload) + residual_of(tmp_path)
    second = site.work(make_task(), whole(weights + np.float32(0.01)))
    other = site.parts.vector() - (weights + np.float32(0.01))
    total = dense(second.payload) + residual_of(tmp_path)
    np.testing.assert_allclose(total, change + other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_what_the_server_clipped_returns_to_the_residual(tmp_path: Path, share: float) -> None:
    site, weights = make_site(tmp_path), start()
    first = dense(site.work(make_task(), whole(weights)).payload)
    owed = residual_of(tmp_path) + np.float32(1 - share) * first
    second = site.work(make_task(2, 1, accepted_share=share), whole(weights))
    change = site.parts.vector() - weights
    total = dense(second.payload) + residual_of(tmp_path)
    np.testing.assert_allclose(total, owed + change, rtol=1e-5, atol=1e-6)
    # Once settled, it is not added again, though the server repeats it after a lost upload.
    third = site.work(make_task(3, 1, accepted_share=share), whole(weights))
    later = site.parts.vector() - weights
    np.testing.assert_allclose(
        dense(third.payload) + residual_of(tmp_path), total + later, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("accepted", [1, 0])
@pytest.mark.parametrize("step_ahead", [0.0, 0.25, 1.0, 1e6])
def test_training_starts_a_bounded_step_ahead_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ahead: float, accepted: int
) -> None:
    weights, starts = start(), []
    inner = clients.site.train

    def train(model: torch.nn.Module, *arguments: Any) -> Any:
        starts.append(ModelParts(model).vector())
        return inner(model, *arguments)

    monkeypatch.setattr(clients.site, "train", train)
    site = make_site(tmp_path)
    first = site.work(make_task(1, step_ahead=step_ahead), whole(weights))
    change = site.parts.vector() - weights
    held = residual_of(tmp_path).copy()
    if not accepted:
        held += dense(first.payload)
    second = make_site(tmp_path).work(make_task(2, accepted, step_ahead=step_ahead), whole(weights))
    np.testing.assert_array_equal(starts[0], weights)
    shift = starts[1] - weights
    longest = step_ahead * np.linalg.norm(change)
    share = min(1.0, longest / np.linalg.norm(held))
    np.testing.assert_allclose(shift, share * held, rtol=1e-3, atol=1e-6)
    # The model as received is what is scored.
    assert first.scores is not None
    assert second.scores is not None
    np.testing.assert_array_equal(second.scores.test.confusion, first.scores.test.confusion)
    total = dense(second.payload) + residual_of(tmp_path)
    folder = StateFolder(tmp_path, 7, "site-00", SPEC)
    learned = total - held
    norm = folder.load().states[-1].change_norm
    assert norm == pytest.approx(np.linalg.norm(learned) if step_ahead else 0.0, rel=1e-3)


def test_training_that_fails_from_a_step_ahead_starts_from_the_model_as_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights, inner = start(), clients.site.train

    def train(model: torch.nn.Module, *arguments: Any) -> Any:
        if not np.array_equal(ModelParts(model).vector(), weights):
            raise RunError("the training loss became nan")
        return inner(model, *arguments)

    monkeypatch.setattr(clients.site, "train", train)
    site = make_site(tmp_path)
    site.work(make_task(1, step_ahead=1.0), whole(weights))
    held = residual_of(tmp_path).copy()
    second = site.work(make_task(2, 1, step_ahead=1.0), whole(weights))
    assert "became nan: starting from the model as received" in caplog.text
    change = site.parts.vector() - weights
    total = dense(second.payload) + residual_of(tmp_path)
    np.testing.assert_allclose(total, held + change, rtol=1e-5, atol=1e-6)
    # What does not come from the step ahead is an error, and changes nothing.
    with pytest.raises(RunError, match="became nan"):
        site.work(make_task(3, 2), whole(weights + np.float32(0.01)))
    np.testing.assert_array_equal(dense(second.payload) + residual_of(tmp_path), total)


@pytest.mark.parametrize("batch_norm", ["average", "local"])
def test_statistics_that_fail_from_a_step_ahead_are_those_of_the_model_as_received(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    batch_norm: str,
) -> None:
    weights, inner = ModelParts(TinyNet(), batch_norm).vector(), clients.site.train

    def overflow(model: torch.nn.Module, *arguments: Any) -> Any:
        is_ahead = not np.array_equal(ModelParts(model, batch_norm).vector(), weights)
        report = inner(model, *arguments)
        if is_ahead:
            next(buffer for name, buffer in model.named_buffers() if "var" in name).fill_(torch.inf)
        return report

    monkeypatch.setattr(clients.site, "train", overflow)
    site = make_site(tmp_path, batch_norm=batch_norm, initial=weights.copy)
    ratios = np.full(len(site.spec.layers), 0.3)
    site.work(make_task(1, step_ahead=1.0, ratios=ratios), whole(weights))
    site.work(make_task(2, 1, step_ahead=1.0, ratios=ratios), whole(weights))
    assert "starting from the model as received" in caplog.text
    assert all(bool(torch.isfinite(buffer).all()) for buffer in site.model.buffers())


@pytest.mark.parametrize("other", [False, True])
def test_a_transformed_upload_is_added_again_with_its_own_reference_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, other: bool
) -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    net = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    parts = ModelParts(net)
    spec, initial = parts.spec, parts.vector()
    site = Site(
        *("site-00", net),
        train=make_split(),
        test=None,
        num_classes=3,
        state_dir=tmp_path,
        initial=initial.copy,
        transformed=True,
    )
    rng = np.random.default_rng(3)
    weights = initial + rng.normal(0, 0.05, spec.size).astype(np.float32)
    scheme = Scheme(values="float32", dense_values="float32", transform="channels")
    reference = transformed_part(spec, initial)
    known = replace(
        whole(weights), reference=reference, reference_fingerprint=fingerprint(reference)
    )
    folder, ratios = StateFolder(tmp_path, 7, "site-00", spec), np.full(len(spec.layers), 0.3)

    def residual() -> np.ndarray:
        found = folder.residual(folder.load().states[-1])
        assert found is not None
        return found.copy()

    site.work(make_task(scheme=scheme, ratios=ratios), known)
    change = site.parts.vector() - weights
    expected = residual() if other else change  # the upload of round 1 was not accepted
    if other:  # as of a run that was resumed with another release of PyTorch
        reference = reference + rng.normal(0, 0.05, reference.size).astype(np.float32)
    later = replace(known, reference=reference, reference_fingerprint=fingerprint(reference))
    second = site.work(make_task(2, scheme=scheme, ratios=ratios), later)
    total = residual()
    ChannelTransform(spec, weights, reference).add_to(decode(second.payload, spec), total)
    expected = expected + site.parts.vector() - weights
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
    assert ("goes on from another model before training" in caplog.text) == other


def test_an_older_task_than_the_state_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.work(make_task(3, 2), whole(start()))
    residual = residual_of(tmp_path)
    with pytest.raises(RunError, match=r"round 3 of run 7.*round 2"):
        site.work(make_task(2, 1), whole(start()))
    np.testing.assert_array_equal(residual_of(tmp_path), residual)


def test_a_site_that_lost_its_disk_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    result = site.work(make_task(5, 4), whole(start()))
    assert "lost its state of round 4" in caplog.text
    change = site.parts.vector() - start()
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)


def test_a_state_older_than_what_was_accepted_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    site.work(make_task(1), whole(start()))
    result = site.work(make_task(5, 4), whole(start()))
    assert "lost its state" in caplog.text
    change = site.parts.vector() - start()
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)


def test_an_upload_of_another_release_is_lost_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, weights = make_site(tmp_path), start()
    payload = bytearray(site.work(make_task(), whole(weights)).payload)
    held = residual_of(tmp_path).copy()
    payload[4] += 1  # the version of the format
    with StateFolder(tmp_path, 7, "site-00", SPEC).transaction(origin()) as transaction:
        name = transaction.write_bytes("upload", bytes(payload))
        state = replace(transaction.state, upload=name, upload_check=checksum(bytes(payload)))
        transaction.commit(state)
    second = site.work(make_task(2), whole(weights))
    assert "cannot read its upload of round 1 (the upload has format version" in caplog.text
    total = dense(second.payload) + residual_of(tmp_path)
    change = site.parts.vector() - weights
    np.testing.assert_allclose(total, held + change, rtol=1e-5, atol=1e-6)


def test_another_run_does_not_see_the_state(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.work(make_task(3, 2), whole(start()))
    first = make_site(tmp_path / "fresh").work(make_task(origin=origin(run=8)), whole(start()))
    assert site.work(make_task(origin=origin(run=8)), whole(start())).payload == first.payload


def test_random_neighborhoods_differ_between_sites(tmp_path: Path) -> None:
    task = make_task(indicator="random", scheme=Scheme(neighborhood="element", values="float32"))
    masks = [
        dense(make_site(tmp_path, name).work(task, whole(start())).payload) != 0
        for name in ("site-00", "site-01")
    ]
    assert (masks[0] != masks[1]).any()


def test_a_model_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    weights = start()
    weights[3] = np.nan
    for compressed in (True, False):
        with pytest.raises(RunError, match="received model is not finite"):
            make_site(tmp_path).work(make_task(compressed=compressed), whole(weights))
    wild = train_settings(lr=1e30, clip_norm=0, epochs=3)
    with pytest.raises(RunError, match="learning rate"):
        make_site(tmp_path).work(make_task(train=wild), whole(start()))
    assert not StateFolder(tmp_path, 7, "site-00", SPEC).load().states


def test_a_full_disk_is_an_error_and_the_next_round_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path)
    first = site.work(make_task(1), whole(start()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(StateError, match="No space left"):
            site.work(make_task(2, 1), whole(start()))
    result = site.work(make_task(3, 1), whole(start()))
    change = site.parts.vector() - start()
    total = dense(first.payload) + dense(result.payload) + residual_of(tmp_path)
    once = flatten_after_first(tmp_path)
    np.testing.assert_allclose(total, once + change, atol=1e-6)


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def flatten_after_first(tmp_path: Path) -> np.ndarray:
    site = make_site(tmp_path / "alone")
    site.work(make_task(1), whole(start()))
    return site.parts.vector() - start()


def test_a_site_without_a_test_split_works(tmp_path: Path) -> None:
    scores = make_site(tmp_path, test=None).work(make_task(), whole(start())).scores
    assert scores is not None
    assert scores.test.samples == 0


def test_labels_outside_the_class_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 classes"):
        make_site(tmp_path, num_classes=2)


def test_the_model_stays_on_the_device_of_its_split(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert {p.device for p in site.model.parameters()} == {torch.device("cpu")}


@pytest.mark.parametrize("batch_norm", ["average", "local-statistics", "local"])
def test_the_same_task_again_gets_the_same_statistics(tmp_path: Path, batch_norm: str) -> None:
    start_weights = ModelParts(TinyNet(), batch_norm).vector()
    ratios = np.full(len(ModelParts(TinyNet(), batch_norm).spec.layers), 0.3)
    task = make_task(ratios=ratios)
    received = whole(start_weights)
    first, second = (
        make_site(tmp_path, batch_norm=batch_norm, initial=start_weights.copy).work(task, received)
        for _ in range(2)
    )
    assert first.payload == second.payload
    assert first.statistics == second.statistics
    assert bool(first.statistics) == (batch_norm == "average")


def test_received_statistics_are_those_that_the_model_is_scored_with(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.parts.load_vector(start())
    initial = site.parts.arrays(site.parts.running)
    shifted = {name: array + np.float32(3) for name, array in initial.items()}
    plain = ReceivedModel(0, fingerprint(start()))
    odd = ReceivedModel(0, fingerprint(start()), statistics=encode_statistics(shifted, initial))
    before, after = (site.evaluate(origin(), received)[0] for received in (plain, odd))
    assert before.test.loss != after.test.loss
    again, _ = site.evaluate(origin(), plain)
    assert again.test.loss == before.test.loss


def test_damaged_statistics_change_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.work(make_task(), whole(start()))
    before = residual_of(tmp_path).copy()
    with pytest.raises(RunError, match="statistics arrived damaged"):
        site.work(make_task(2, 1), ReceivedModel(0, fingerprint(start()), statistics=b"odd"))
    np.testing.assert_array_equal(residual_of(tmp_path), before)


def test_entries_that_stay_at_the_site_are_kept_over_rounds_and_processes(tmp_path: Path) -> None:
    weights = ModelParts(TinyNet(), "local").vector()
    ratios = np.ones(len(ModelParts(TinyNet(), "local").spec.layers))

    def work(number: int) -> Site:
        site = make_site(tmp_path, batch_norm="local", initial=weights.copy)
        task = make_task(number, number - 1, ratios=ratios)
        site.work(task, ReceivedModel(0, fingerprint(weights)))
        return site

    names = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    first = work(1).parts.arrays(names)
    site = make_site(tmp_path, batch_norm="local", initial=weights.copy)
    _, packed = site.evaluate(origin(), ReceivedModel(0, fingerprint(weights)))
    local = decode_statistics(packed, ModelParts(TinyNet(), "local").arrays(names))
    for name in names:
        np.testing.assert_allclose(local[name], first[name], rtol=1e-3)
    second = work(2).parts.arrays(names)
    assert any((second[name] != first[name]).any() for name in names)


class TwoBranches(torch.nn.Module):
    """Two networks, one for each modality, whose logits are added."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleDict({"optical": TinyNet(), "sar": TinyNet()})

    def forward(self, optical: torch.Tensor, sar: torch.Tensor | None) -> torch.Tensor:
        logits: torch.Tensor = self.branches["optical"](optical)
        return logits if sar is None else logits + self.branches["sar"](sar)


BRANCHED = ModelParts(TwoBranches()).spec


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_site_without_a_modality_leaves_its_branch_alone(tmp_path: Path, optimizer: str) -> None:
    """No change, no weight decay, nothing sent, nothing held back, no bytes spent."""
    start_weights = ModelParts(TwoBranches()).vector()
    here = {"stacked": False, "present": [True, False]}
    site = Site(
        "site-00",
        TwoBranches(),
        train=make_split(**here),
        test=make_split(count=9, seed=1, **here),
        num_classes=3,
        state_dir=tmp_path,
        initial=lambda: start_weights,
        lacking=["sar"],
    )
    full = np.full(len(BRANCHED.layers), 0.3)
    training = train_settings(optimizer=optimizer, lr=0.05, batch_size=8, weight_decay=0.1)
    absent = ~BRANCHED.present_layers(["sar"])
    assert absent.sum() == len(BRANCHED.layers) / 2
    sent = np.zeros(BRANCHED.size, np.float32)
    changes = np.zeros(BRANCHED.size, np.float32)
    for number in (1, 2, 3):
        task = make_task(number, number - 1, train=training, ratios=full)
        result = site.work(task, whole(start_weights))
        changes += site.parts.vector() - start_weights
        update = decode(result.payload, BRANCHED)
        sent += update.to_dense()
        statistics = decode_statistics(result.statistics, site.parts.arrays(site.parts.running))
        assert all(name.startswith("branches.optical.") for name in statistics)
        folder = StateFolder(tmp_path, 7, "site-00", BRANCHED)
        residual = folder.residual(folder.load().states[-1])
        np.testing.assert_allclose(sent + residual, changes, rtol=1e-4, atol=1e-6)
        for index in np.flatnonzero(absent):
            assert update.layers[index].kept == 0
            for held in (site.parts.vector() - start_weights, sent, residual):
                assert not BRANCHED.views(held)[index].any()
        for index in np.flatnonzero(~absent):
            assert update.layers[index].kept > 0
            assert BRANCHED.views(changes)[index].any()


@pytest.mark.parametrize("values", ["deadzone", "float32"])
def test_the_bytes_of_an_absent_branch_are_not_spent(tmp_path: Path, values: str) -> None:
    start_weights = ModelParts(TwoBranches()).vector()
    sizes = []
    for lacking in ([], ["sar"]):
        here = {"stacked": False, "present": [True, False]}
        site = Site(
            f"site-{len(lacking)}",
            TwoBranches(),
            train=make_split(**here) if lacking else two_modalities(),
            test=None,
            num_classes=3,
            state_dir=tmp_path,
            initial=lambda: start_weights,
            lacking=lacking,
        )
        task = make_task(
            ratios=np.full(len(BRANCHED.layers), 0.5),
            budget_bytes=200.0,
            scheme=Scheme(values=values, dense_values="float32"),
        )
        sizes.append(len(site.work(task, whole(start_weights)).payload))
    assert sizes[1] < 0.9 * sizes[0]


def two_modalities() -> SplitLoader:
    rng = np.random.default_rng(0)
    chips = [rng.normal(size=(24, 2, 8, 8)).astype(np.float32) for _ in range(2)]
    labels = np.arange(24) % 3
    return SplitLoader(Arrays(chips), np.arange(24), labels, [unit(2)] * 2, CPU, stacked=False)


@pytest.mark.parametrize("compressed", [True, False])
def test_local_statistics_that_are_not_finite_do_not_become_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    inner = clients.site.train

    def overflow(model: torch.nn.Module, *arguments: Any) -> Any:
        report = inner(model, *arguments)
        next(buffer for name, buffer in model.named_buffers() if "var" in name).fill_(torch.inf)
        return report

    monkeypatch.setattr(clients.site, "train", overflow)
    weights = ModelParts(TinyNet(), "local").vector()
    site = make_site(tmp_path, batch_norm="local", initial=weights.copy)
    task = make_task(compressed=compressed, ratios=np.ones(len(site.spec.layers)))
    with pytest.raises(RunError, match="became infinite at this site: lower the learning rate"):
        site.work(task, whole(weights))
    assert not StateFolder(tmp_path, 7, "site-00", site.spec).load().states
