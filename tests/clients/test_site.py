from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import clients.site
import clients.state
from clients.site import RoundTask, Site
from clients.state import StateFolder
from clients.training import TrainSettings
from clients.weights import flatten, model_spec
from rsdgc.errors import DataError, RunError, SettingError, StateError
from rsdgc.scheme import Scheme
from rsdgc.wire import decode
from tests.clients.toys import TinyNet, make_partition

if TYPE_CHECKING:
    from pathlib import Path

SPEC = model_spec(TinyNet())
LAYERS = len(SPEC.layers)


def start() -> np.ndarray:
    return flatten(TinyNet(), SPEC)


def make_site(path: Path, name: str = "site-00", **changes: Any) -> Site:
    settings: dict[str, Any] = {
        "train": make_partition(),
        "test": make_partition(count=9, seed=1),
        "num_classes": 3,
        "state_dir": path,
    }
    return Site(name, TinyNet(), **(settings | changes))


def make_task(round_: int = 1, accepted: int = 0, **changes: Any) -> RoundTask:
    settings: dict[str, Any] = {
        "run": 7,
        "round": round_,
        "base": round_ - 1,
        "method": "rs-dgc",
        "train": TrainSettings(lr=0.05, batch_size=8),
        "seed": 0,
        "scheme": Scheme(values="float32", dense_values="float32"),
        "ratios": np.full(LAYERS, 0.3),
        "accepted_round": accepted,
    }
    return RoundTask(**(settings | changes))


def dense(payload: bytes) -> np.ndarray:
    return decode(payload, SPEC).to_dense()


def residual_of(path: Path, name: str = "site-00", run: int = 7) -> np.ndarray:
    state = StateFolder(path, run, name, SPEC).load()
    return np.zeros(SPEC.size, np.float32) if state is None else state.residual


def test_upload_and_residual_add_up_to_the_change(tmp_path: Path) -> None:
    weights = start()
    kept = weights.copy()
    site = make_site(tmp_path)
    result = site.work(make_task(), weights)
    np.testing.assert_array_equal(weights, kept)
    change = flatten(site.model, SPEC) - weights
    assert np.abs(change).max() > 0
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)
    update = decode(result.payload, SPEC)
    assert (update.stamp.run, update.stamp.round, update.stamp.base) == (7, 1, 0)
    assert result.weights is None
    assert result.num_examples == 24
    assert result.train_loss > 0
    assert result.seconds > 0


def test_the_received_model_is_scored_not_the_trained_one(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    before = site.score_only(start())
    result = site.work(make_task(), start())
    np.testing.assert_array_equal(result.confusion, before.confusion)
    assert result.loss == before.loss
    assert result.confusion.sum() == 9


def test_whole_layers_equal_fedavg(tmp_path: Path) -> None:
    weights = start()
    whole = make_task(ratios=np.ones(LAYERS))
    upload = make_site(tmp_path).work(whole, weights)
    model = make_site(tmp_path / "other").work(make_task(method="fedavg"), weights)
    assert model.payload == b""
    assert model.weights is not None
    np.testing.assert_allclose(weights + dense(upload.payload), model.weights, atol=1e-7)
    assert not (tmp_path / "other").exists()


def test_sites_and_rounds_draw_differently_and_each_repeats_itself(tmp_path: Path) -> None:
    def trained(folder: str, name: str, round_: int) -> np.ndarray:
        site = make_site(tmp_path / folder, name)
        weights = site.work(make_task(round_, method="fedavg"), start()).weights
        assert weights is not None
        return weights

    first = trained("a", "site-00", 1)
    np.testing.assert_array_equal(first, trained("b", "site-00", 1))
    assert (first != trained("c", "site-01", 1)).any()
    assert (first != trained("d", "site-00", 2)).any()


def test_the_same_task_twice_gets_the_same_reply(tmp_path: Path) -> None:
    site, weights = make_site(tmp_path), start()
    first = site.work(make_task(), weights)
    residual = residual_of(tmp_path)
    again = make_site(tmp_path).work(make_task(), weights)
    assert again.payload == first.payload
    np.testing.assert_array_equal(again.confusion, first.confusion)
    for name in ("num_examples", "loss", "train_loss", "seconds", "weights"):
        assert getattr(again, name) == getattr(first, name)
    np.testing.assert_array_equal(residual_of(tmp_path), residual)


def test_a_round_started_anew_takes_its_first_upload_back(tmp_path: Path) -> None:
    site, weights = make_site(tmp_path), start()
    first = site.work(make_task(), weights)
    change = dense(first.payload) + residual_of(tmp_path)
    second = site.work(make_task(), weights + np.float32(0.01))
    other = flatten(site.model, SPEC) - (weights + np.float32(0.01))
    total = dense(second.payload) + residual_of(tmp_path)
    np.testing.assert_allclose(total, change + other, rtol=1e-5, atol=1e-6)


def test_an_older_task_than_the_state_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.work(make_task(3, 2), start())
    residual = residual_of(tmp_path)
    with pytest.raises(RunError, match=r"round 3 of run 7.*round 2"):
        site.work(make_task(2, 1), start())
    np.testing.assert_array_equal(residual_of(tmp_path), residual)


def test_a_site_that_lost_its_disk_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    result = site.work(make_task(5, 4), start())
    assert "lost its state of round 4" in caplog.text
    change = flatten(site.model, SPEC) - start()
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)


def test_a_state_older_than_what_was_accepted_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    site.work(make_task(1), start())
    result = site.work(make_task(5, 4), start())
    assert "lost its state" in caplog.text
    change = flatten(site.model, SPEC) - start()
    np.testing.assert_array_equal(dense(result.payload) + residual_of(tmp_path), change)


def test_another_run_does_not_see_the_state(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.work(make_task(3, 2), start())
    first = make_site(tmp_path / "fresh").work(make_task(run=8), start())
    assert site.work(make_task(run=8), start()).payload == first.payload


def test_random_neighborhoods_differ_between_sites(tmp_path: Path) -> None:
    task = make_task(indicator="random", scheme=Scheme(neighborhood="element", values="float32"))
    masks = [
        dense(make_site(tmp_path, name).work(task, start()).payload) != 0
        for name in ("site-00", "site-01")
    ]
    assert (masks[0] != masks[1]).any()


def test_a_model_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    weights = start()
    weights[3] = np.nan
    for method in ("rs-dgc", "fedavg"):
        with pytest.raises(RunError, match="received model is not finite"):
            make_site(tmp_path).work(make_task(method=method), weights)
    wild = TrainSettings(lr=1e30, clip_norm=0, epochs=3)
    with pytest.raises(RunError, match="learning rate"):
        make_site(tmp_path).work(make_task(train=wild), start())
    assert StateFolder(tmp_path, 7, "site-00", SPEC).load() is None


def test_a_full_disk_is_an_error_and_the_next_round_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path)
    first = site.work(make_task(1), start())
    with monkeypatch.context() as patch:
        patch.setattr(clients.state, "save_file", full_disk)
        with pytest.raises(StateError, match="No space left"):
            site.work(make_task(2, 1), start())
    result = site.work(make_task(3, 1), start())
    change = flatten(site.model, SPEC) - start()
    total = dense(first.payload) + dense(result.payload) + residual_of(tmp_path)
    once = flatten_after_first(tmp_path)
    np.testing.assert_allclose(total, once + change, atol=1e-6)


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def flatten_after_first(tmp_path: Path) -> np.ndarray:
    site = make_site(tmp_path / "alone")
    site.work(make_task(1), start())
    return flatten(site.model, SPEC) - start()


def test_a_site_without_a_test_split_works(tmp_path: Path) -> None:
    assert make_site(tmp_path, test=None).work(make_task(), start()).confusion.sum() == 0


def test_labels_outside_the_class_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 classes"):
        make_site(tmp_path, num_classes=2)


@pytest.mark.parametrize("wrong", [{"method": "sgd"}, {"accepted_round": 1}, {"round": 0}])
def test_tasks_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        replace(make_task(), **wrong)


# Conservation: Σ accepted + Σ residuals = Σ durable local changes, whatever dies when.


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ordinary errors sees it."""


@dataclass
class Life:
    """One site under faults, and the server's books on it."""

    path: Path
    name: str
    accepted_round: int = 0
    accepted: np.ndarray = field(default_factory=lambda: np.zeros(SPEC.size))
    changes: np.ndarray = field(default_factory=lambda: np.zeros(SPEC.size))
    last: tuple[int, bytes] = (0, b"")

    def site(self) -> Site:
        """Start the site anew, as after a crash."""
        return make_site(self.path, self.name, train=make_partition(count=8), test=None)

    def outstanding(self) -> np.ndarray:
        """Return the residual, with an unsettled upload added back."""
        state = StateFolder(self.path, 7, self.name, SPEC).load()
        if state is None:
            return np.zeros(SPEC.size)
        unsettled = dense(state.upload) if state.round > self.accepted_round else 0.0
        return state.residual.astype(np.float64) + unsettled


def patch_faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count a save's steps; the step of number ``faults["at"]`` is killed."""
    faults = {"at": -1, "step": 0}

    def wrap(module: object, attribute: str) -> None:
        inner = getattr(module, attribute)

        def step(*arguments: object) -> object:
            faults["step"] += 1
            if faults["step"] - 1 == faults["at"]:
                raise Killed
            return inner(*arguments)

        monkeypatch.setattr(module, attribute, step)

    for module, attribute in (
        (clients.site, "load_flat"),
        (clients.site, "train"),
        (clients.state, "save_file"),
        (os, "fsync"),
        (os, "replace"),
    ):
        wrap(module, attribute)
    return faults


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(values="float32", dense_values="float32"),
        Scheme(values="int8", dense_values="float16"),
        Scheme(neighborhood="element", values="float16"),
    ],
    ids=["float32", "int8", "float16"],
)
def test_every_change_counts_once_whatever_dies(
    scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # real ones take the disk's time
    faults = patch_faults(monkeypatch)
    rng = np.random.default_rng(5)
    lives = [Life(tmp_path, f"site-{n}") for n in range(2)]
    ratios = rng.choice([0.1, 0.3, 1.0], LAYERS)
    weights = start()
    kills = losses = doubles = 0
    for round_ in range(1, 201):
        for life in lives:
            if rng.random() < 0.2:  # away this round
                continue
            task = make_task(round_, life.accepted_round, scheme=scheme, ratios=ratios)
            kill = rng.random() < 0.4
            faults.update(step=0, at=int(rng.integers(0, 6)) if kill else -1)
            site = life.site()
            try:
                payload = site.work(task, weights).payload
                if rng.random() < 0.3:  # the message comes twice
                    faults.update(step=0, at=-1)
                    assert life.site().work(task, weights).payload == payload
                    doubles += 1
            except Killed:
                kills += 1
                payload = b""
            state = StateFolder(tmp_path, 7, life.name, SPEC).load()
            if state is not None and state.round == round_:
                life.changes += flatten(site.model, SPEC) - weights
            if payload and rng.random() < 0.7:
                life.accepted += dense(payload)
                life.accepted_round = round_
            else:
                losses += 1
            total = life.accepted + life.outstanding()
            scale = np.abs(life.changes).max()
            np.testing.assert_allclose(total, life.changes, rtol=1e-5, atol=1e-5 * scale)
        weights = weights + np.float32(0.01) * rng.standard_normal(SPEC.size).astype(np.float32)
    assert min(kills, losses, doubles) > 30
    assert all(np.abs(life.accepted).max() > 0 for life in lives)


def test_the_model_stays_on_the_partition_s_device(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert {p.device for p in site.model.parameters()} == {torch.device("cpu")}
