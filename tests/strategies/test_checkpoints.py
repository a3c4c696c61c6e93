import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import strategies.checkpoints
from rsdgc.errors import RunError
from strategies import DenseFedAvg, Ledger
from strategies.base import SiteStrategy
from strategies.checkpoints import Checkpoint, Checkpoints, State
from strategies.model_record import to_record, to_vector
from tests.strategies.fake_sites import (
    SPEC,
    FakeSites,
    initial_weights,
    loopback,
    round_settings,
    rs_dgc,
    site_manager,
)


def assert_equal_states(one: State, two: State) -> None:
    assert one.values == two.values
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name])
        assert (array.dtype, array.shape) == (two.arrays[name].dtype, two.arrays[name].shape)


def checkpoint(number: int) -> Checkpoint:
    arrays = {
        "weights": np.full(100, number, np.float32),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros(0, np.uint8),
    }
    return Checkpoint(number, State(arrays, {"number": number}))


def saved(tmp_path: Path, *numbers: int, keep: int = 2) -> Checkpoints:
    folder = Checkpoints(tmp_path, every=3, keep=keep)
    for number in numbers:
        folder.save(checkpoint(number))
    return folder


def test_the_last_ones_are_kept_and_come_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, 6, 9)
    assert folder.rounds() == [6, 9]
    newest, before = folder.newest()
    assert (newest.round, before.round) == (9, 6)
    assert_equal_states(newest.state, checkpoint(9).state)


def test_they_are_due_every_so_many_rounds(tmp_path: Path) -> None:
    assert [n for n in range(1, 10) if Checkpoints(tmp_path, 3, 1).due(n)] == [3, 6, 9]
    assert not any(Checkpoints(tmp_path, 0, 1).due(n) for n in range(1, 10))
    assert Checkpoints(tmp_path / "none", 1, 1).rounds() == []


@pytest.mark.parametrize("at", [0, 20, 200, -1])
def test_a_damaged_one_is_passed_over_with_a_warning(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path, 3, 6)
    path = tmp_path / "checkpoints" / "round-000006.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    for wrong in (bytes(content), bytes(content[: len(content) // 2]), b""):
        path.write_bytes(wrong)
        assert [readable.round for readable in folder.newest()] == [3]
        assert "is damaged" in caplog.text
    path.rename(path.with_name("round-000007.safetensors"))
    assert [readable.round for readable in folder.newest()] == [3]


def test_a_full_disk_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, 3)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(strategies.checkpoints, "save_file", fail)
    with pytest.raises(RunError, match="No space left"):
        folder.save(checkpoint(6))
    assert folder.rounds() == [3]


def test_a_resumed_run_forgets_those_after_its_own(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, 6, 9, keep=3)
    folder.forget_after(6)
    assert folder.rounds() == [3, 6]


def test_a_state_of_parts_comes_apart_again() -> None:
    inner = State.join({"rates": State({"shares": np.ones(2)}, {"level": 0.5})}, {"version": 3})
    joined = State.join({"model": inner, "empty": State()}, {"seconds": 1.5})
    assert list(joined.arrays) == ["model.rates.shares"]
    assert joined.values == {
        "model": {"rates": {"level": 0.5}, "version": 3},
        "empty": {},
        "seconds": 1.5,
    }
    assert_equal_states(joined.part("model"), inner)
    assert_equal_states(joined.part("empty"), State())


# ---- strategies, and checkpoints of version 1 ---------------------------------------------------

VERSION_1 = Path(__file__).parent / "data" / "version-1"
"""Run folders after round 4 of 6, written by the last release with checkpoints of version 1."""


def strategy_of(method: str, folder: Path) -> SiteStrategy:
    if method == "rs-dgc":
        return rs_dgc(run_folder=folder, server_momentum=0.5)
    ledger, checkpoints = Ledger(folder, SPEC.dense_bytes), Checkpoints(folder, every=2, keep=1)
    return DenseFedAvg(site_manager(), ledger, round_settings(), checkpoints, server_momentum=0.5)


def run_to_the_end(strategy: SiteStrategy, method: str) -> np.ndarray:
    grid = loopback(FakeSites(dense=method == "fedavg"))
    arrays = to_record(initial_weights(), SPEC)
    return to_vector(strategy.start(grid, arrays, num_rounds=6, timeout=5.0).arrays, SPEC)


def resumed(method: str, folder: Path) -> SiteStrategy:
    strategy = strategy_of(method, folder)
    assert strategy.checkpoints is not None
    (newest,) = strategy.checkpoints.newest()
    strategy.resume(newest)
    return strategy


def version_1(method: str, tmp_path: Path) -> Path:
    shutil.copytree(VERSION_1 / method, tmp_path / "run")
    return tmp_path / "run"


def raw_arrays(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "checkpoints" / "round-000004.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_version_1_checkpoint_of_rs_dgc_restores_to_equal_values(tmp_path: Path) -> None:
    folder = version_1("rs-dgc", tmp_path)
    strategy, raw = resumed("rs-dgc", folder), raw_arrays(folder)
    state = strategy.state()
    assert (strategy.resumed_round, strategy.rounds_combined) == (4, 4)
    names = {name: f"model.{name}" for name in ("weights", "published", "log", "log_lengths")}
    names |= {"velocity": "momentum.velocity"}
    names |= {f"up.{name}": f"upload_rates.{name}" for name in ("shares", "ratios")}
    names |= {f"down.{name}": f"patch_rates.{name}" for name in ("shares", "ratios")}
    assert set(names.values()) == set(state.arrays)
    for old, new in names.items():
        np.testing.assert_array_equal(state.arrays[new], raw[old])
    assert state.values == {
        "model": {"version": 3, "pending": True, "reference": ""},  # no transform
        "upload_rates": {
            "round": 4,
            "warm_up_rounds": 2,
            "level": 0.4851330198810859,
            "target_bytes": 310.485132723895,
            "shares_measured": True,
        },
        "patch_rates": {
            "round": 3,
            "warm_up_rounds": 0,
            "level": 0.6400000000000001,
            "target_bytes": 204.80000000000004,
            "shares_measured": True,
        },
        "momentum": {},
        "sync": {"accepted": {"north": 4, "south": 4}, "confirmed": {"north": 3, "south": 3}}
        | {"shares": {}, "missed": {}},
        "overhead_bytes": 352,
    }
    assert [entry.round for entry in strategy.ledger.rounds] == [0, 1, 2, 3, 4]


def test_a_version_1_checkpoint_of_fedavg_restores_to_equal_values(tmp_path: Path) -> None:
    folder = version_1("fedavg", tmp_path)
    strategy, raw = resumed("fedavg", folder), raw_arrays(folder)
    state = strategy.state()
    layers = ["conv.weight", "head.weight"]
    assert state.values == {"layers": layers, "model": {}, "velocity": {}}
    assert len(state.arrays) == len(raw) == 4
    for layer in layers:
        np.testing.assert_array_equal(state.arrays[f"model.{layer}"], raw[layer])
        np.testing.assert_array_equal(state.arrays[f"velocity.{layer}"], raw[f"velocity.{layer}"])


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_a_run_continues_from_a_version_1_checkpoint(method: str, tmp_path: Path) -> None:
    uninterrupted = run_to_the_end(strategy_of(method, tmp_path), method)
    continued = run_to_the_end(resumed(method, version_1(method, tmp_path)), method)
    # Not to the bit: the checkpoint comes from one machine, the other run from this one.
    np.testing.assert_allclose(continued, uninterrupted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_a_strategy_saves_what_it_restores(method: str, tmp_path: Path) -> None:
    folder = version_1(method, tmp_path)
    strategy = resumed(method, folder)
    assert strategy.checkpoints is not None
    strategy.save(strategy.checkpoints, 4)
    assert b"rsdgc-checkpoint-2" in (folder / "checkpoints/round-000004.safetensors").read_bytes()
    again = resumed(method, folder)
    assert_equal_states(again.state(), strategy.state())
    assert again.ledger.rounds == strategy.ledger.rounds


# ---- checkpoints whose checksum is right and whose content is not --------------------------------

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def array(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda arrays, values: arrays.update({name: change(arrays[name])})


def value(path: str, new: object) -> Change:
    def change(arrays: dict[str, Any], values: dict[str, Any]) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            values = values[parent]
        values[name] = new

    return change


MODEL = "strategy.model.weights"
SPOILT: dict[str, tuple[Change, str]] = {
    "no weights": (lambda arrays, values: arrays.pop(MODEL), "no array weights"),
    "one weight for all": (array(MODEL, lambda w: w[:1]), r"weights is float32 \(1,\)"),
    "scalar": (array(MODEL, lambda w: np.float32(3)), r"weights is float32 \(\)"),
    "double": (array(MODEL, lambda w: w.astype(np.float64)), "weights is float64"),
    "integers": (array(MODEL, lambda w: w.astype(np.int32)), "weights is int32"),
    "NaN": (array(MODEL, lambda w: w * np.float32("nan")), "weights holds NaN or infinity"),
    "velocity": (array("strategy.momentum.velocity", lambda v: v[:0]), "velocity is float32"),
    "ratios": (array("strategy.upload_rates.ratios", lambda r: r * -5), "not from 0 to 1"),
    "log": (array("strategy.model.log", lambda log: log.astype(np.float32)), "not bytes"),
    "log cut": (array("strategy.model.log", lambda log: log[:-1]), "are not of the"),
    "log spoilt": (array("strategy.model.log", lambda log: log[::-1].copy()), "fit the run"),
    "lengths": (array("strategy.model.log_lengths", lambda n: -n), "are not of the"),
    "lengths that overflow": (
        array("strategy.model.log_lengths", lambda n: np.array([2**62 + n.sum(), *[2**62] * 3])),
        "are not of the",
    ),
    "version": (value("strategy.model.version", 0), "patches for 0 versions"),
    "version as text": (value("strategy.model.version", "3"), "version is '3', not a count"),
    "version of a fraction": (value("strategy.model.version", 3.5), "version is 3.5, not a count"),
    "pending": (value("strategy.model.pending", "no"), "pending is 'no'"),
    "level": (value("strategy.upload_rates.level", float("inf")), "level is inf"),
    "sync": (value("strategy.sync.accepted", [1]), "accepted is .*, not counts"),
    "accepted": (value("strategy.sync.accepted", {"north": -1}), "north is -1"),
    "no strategy": (lambda arrays, values: values.pop("strategy"), "no part strategy"),
    "a list": (value("strategy.model", []), "no part model"),
    "rounds": (value("rounds_combined", -1), "rounds_combined is -1"),
    "seconds": (value("seconds", float("nan")), "seconds is nan"),
    "no ledger": (lambda arrays, values: values.pop("ledger"), "no part ledger"),
    "lengths of files": (value("ledger.lengths", {"../../x": 1}), "does not say how long"),
    "length": (
        value("ledger.lengths", {"rounds.jsonl": 10**9, "history.jsonl": 0}),
        "is shorter than at the checkpoint",
    ),
    "pending rounds": (value("ledger.pending", [{"round": "x"}]), "round: Input should be"),
    "refusals": (value("ledger.refusals", {"a": 1.5}), "a is 1.5, not a count"),
    "the best round": (value("best.layers", ["nothing"]), "no array nothing"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    folder.mkdir()
    run_to_the_end(rs_dgc(run_folder=folder, server_momentum=0.5), "rs-dgc")
    return folder


@pytest.mark.parametrize("case", SPOILT)
def test_what_does_not_fit_the_run_is_refused_and_changes_no_file(
    case: str, finished: Path, tmp_path: Path
) -> None:
    change, reason = SPOILT[case]
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    strategy = strategy_of("rs-dgc", folder)
    assert strategy.checkpoints is not None
    newest = next(strategy.checkpoints.newest())
    arrays, values = dict(newest.state.arrays), deepcopy(newest.state.values)
    change(arrays, values)
    strategy.checkpoints.save(Checkpoint(newest.round, State(arrays, values)))
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    spoilt = next(strategy.checkpoints.newest())
    with pytest.raises(RunError, match=reason) as caught:
        strategy.resume(spoilt)
    assert str(caught.value).isprintable()
    assert files == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # The one before is restored as if nothing had been tried.
    strategy.resume(newest)
    fresh = strategy_of("rs-dgc", folder)
    fresh.resume(newest)
    assert_equal_states(strategy.state(), fresh.state())


@pytest.mark.parametrize(
    "values", ["[" * 10**5, "[1]", "{", '{"a": ' + "9" * 5000 + "}", '{"\\ud800": 1}', '"x"']
)
def test_values_that_are_no_object_are_passed_over(
    values: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path, 3, 6)
    arrays = checkpoint(6).state.arrays
    crc = strategies.checkpoints._checksum(arrays, values)
    metadata = {"schema": "rsdgc-checkpoint-2", "round": "6", "values": values, "checksum": crc}
    save_file(arrays, folder._path(6), metadata)
    assert [each.round for each in folder.newest()] == [3]
    assert "is damaged" in caplog.text


def test_a_pipe_in_place_of_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, 6)
    folder._path(6).unlink()
    os.mkfifo(folder._path(6))
    assert [each.round for each in folder.newest()] == [3]
