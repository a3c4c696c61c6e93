"""The whole application over an in-process grid: real server, real sites, real files."""

import json
import shutil
import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from safetensors.numpy import load_file

import strategies.roll_call
from rsdgc import Aggregator
from rsdgc.arrays import Float32
from rsdgc.errors import RunError, SettingError
from strategies import messages
from strategies.differential_privacy import epsilon
from tests.federation import count_bytes, grid, run, serve, settings


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def model_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@dataclass(frozen=True)
class WatchedRun:
    """An undisturbed run of three rounds, with its report, and what it sent."""

    folder: Path
    sent: Counter[str]
    seen: list[Message]

    def summary(self) -> dict[str, Any]:
        return summary_of(self.folder)


@pytest.fixture(scope="module")
def watched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    sent: Counter[str] = Counter()
    folder = tmp_path_factory.mktemp("watched") / "run"
    loopback = run(settings(data, folder), fault=count_bytes(sent), report=True)
    return WatchedRun(folder, sent, loopback.seen)


def assert_equal_models(one: Path, two: Path) -> None:
    first, second = model_of(one), model_of(two)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_leaves_a_complete_folder(watched: WatchedRun) -> None:
    names = {path.name for path in watched.folder.iterdir()}
    assert {
        "config.json",
        "rounds.jsonl",
        "history.jsonl",
        "summary.json",
        "model.safetensors",
        "report.html",
    } <= names
    summary = watched.summary()
    assert summary["num_sites"] == 3
    assert summary["rounds"] == 3
    assert sum(map(sum, summary["confusion"])) == summary["num_test"] == 18
    history = lines(watched.folder / "history.jsonl")
    assert [entry["round"] for entry in history] == [0, 1, 2, 3]
    assert history[-1]["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-6)


def test_the_ledger_adds_up_to_the_messages_sent(watched: WatchedRun) -> None:
    sent, summary = watched.sent, watched.summary()
    rounds = lines(watched.folder / "rounds.jsonl")
    assert summary["bytes_up"] == sent["up"] == sum(line["bytes_up"] for line in rounds)
    assert summary["bytes_down"] == sent["down"] == sum(line["bytes_down"] for line in rounds)
    for line in rounds:
        assert sum(line["down_by_group"].values()) == line["bytes_down"]
        if line["phase"] == "train":
            assert sum(line["up_by_group"].values()) == line["bytes_up"]
    history = lines(watched.folder / "history.jsonl")
    assert sum(line["bytes_down"] for line in history) == sent["down"]
    model_bytes = 4 * sum(array.size for array in model_of(watched.folder).values())
    assert summary["dense_bytes_up"] == 9 * model_bytes
    assert summary["dense_bytes_down"] == 12 * model_bytes  # the final evaluation's, too


def test_uploads_stay_within_the_budget(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "run", budget="20x", budget_down="10x", rounds=6))
    visits = lines(tmp_path / "run" / "rounds.jsonl")
    rounds = [line for line in visits if line["phase"] == "train"]
    summary = summary_of(tmp_path / "run")
    budget = summary["dense_bytes_up"] / len(rounds) / 20
    late = [line for line in rounds if line["round"] > 3]
    assert np.mean([line["bytes_up"] for line in late]) == pytest.approx(budget, rel=0.05)
    assert np.mean([line["bytes_down"] for line in late]) == pytest.approx(2 * budget, rel=0.05)


def test_ratio_one_in_float32_is_fedavg(data: Path, tmp_path: Path) -> None:
    exact = {
        "budget": "1x",
        "budget_down": "1x",
        "budget_final": "1x",
        "values": "float32",
        "dense_values": "float32",
    }
    run(settings(data, tmp_path / "sparse", **exact))
    run(settings(data, tmp_path / "dense", method="fedavg"))
    sparse, dense = model_of(tmp_path / "sparse"), model_of(tmp_path / "dense")
    assert sparse.keys() == dense.keys()
    for name, expected in dense.items():
        error = np.linalg.norm(sparse[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-5, name


@pytest.mark.slow
def test_running_statistics_of_a_built_in_network_travel_too(data: Path, tmp_path: Path) -> None:
    """Those of a small network, with every method: tests/fl_app/test_batch_norm.py."""
    run(settings(data, tmp_path / "run", model="mobilenet-v3", rounds=2), report=True)
    state = model_of(tmp_path / "run")
    variances = [array for name, array in state.items() if name.endswith("running_var")]
    assert variances
    assert all(np.isfinite(array).all() and (array >= 0).all() for array in variances)
    assert any((array != 1).any() for array in variances)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_what_the_models_reveal_of_a_site_is_reported(
    data: Path, tmp_path: Path, method: str
) -> None:
    noisy: dict[str, Any] = {"method": method, "dp_noise_multiplier": 2.0, "rounds": 2}
    run(settings(data, tmp_path / "run", **noisy), report=True)
    spent = summary_of(tmp_path / "run")["privacy"]
    assert (spent["releases"], spent["delta"], spent["clip"]) == (2, 1e-5, 1.0)
    assert spent["epsilon"] == epsilon(2.0, 2, 1e-5)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"ε = {spent['epsilon']:.3f} at δ" in page
    assert (tmp_path / "run" / "privacy.jsonl").exists()
    with pytest.raises(SettingError, match="set batch-norm=group"):
        run(settings(data, tmp_path / "refused", model="mobilenet-v3", **noisy))


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_the_same_seed_gives_the_same_model_however_many_nodes_host_the_sites(
    data: Path, tmp_path: Path, watched: WatchedRun, nodes: int
) -> None:
    run(settings(data, tmp_path / "run"), nodes=nodes)
    assert_equal_models(tmp_path / "run", watched.folder)


def test_ratios_are_sent_and_change_over_the_rounds(data: Path, tmp_path: Path) -> None:
    loopback = run(settings(data, tmp_path / "run", budget="60x"))
    tasks = [
        message.content.config_records[messages.TASK]
        for message in loopback.seen
        if message.metadata.message_type == "train"
    ]
    by_round: dict[int, list[float]] = {
        int(task[messages.ROUND]): list(task[messages.RATIOS]) for task in tasks
    }
    assert by_round[1] != by_round[2] != by_round[3]
    history = lines(tmp_path / "run" / "history.jsonl")
    for entry in history[1:]:
        assert list(entry["ratios"].values()) == pytest.approx(by_round[entry["round"]], rel=1e-4)


def test_a_lost_upload_is_refused_by_name_and_stays_at_its_site(data: Path, tmp_path: Path) -> None:
    def lose(message: Message, reply: Message) -> Message | None:
        task = message.content.config_records[messages.TASK]
        lost = message.metadata.message_type == "train" and task[messages.ROUND] == 2
        return None if lost and task[messages.SITE] == "site-01" else reply

    chosen = settings(data, tmp_path / "run", round_timeout_s=0.3, rounds=4)
    loopback = run(chosen, fault=lose)
    summary = summary_of(tmp_path / "run")
    assert summary["refused"] == {"no reply": 1}
    accepted = [
        message.content.config_records[messages.TASK][messages.ACCEPTED_ROUND]
        for message in loopback.seen
        if message.metadata.message_type == "train"
        and message.content.config_records[messages.TASK][messages.SITE] == "site-01"
    ]
    assert accepted == [0, 1, 1, 3]


def mutate_upload(reply: Message, change: Any) -> Message:
    record = reply.content.array_records[messages.UPDATE]
    payload = bytearray(record[messages.PACKED].numpy().tobytes())
    change(payload)
    array = Array(np.frombuffer(bytes(payload), dtype=np.uint8))
    reply.content[messages.UPDATE] = ArrayRecord({messages.PACKED: array})
    return reply


def set_metric(key: str, value: Any) -> Any:
    def change(reply: Message) -> Message:
        reply.content.metric_records[messages.METRICS][key] = value
        return reply

    return change


def without(key: str) -> Any:
    def change(reply: Message) -> Message:
        reply.content.metric_records[messages.METRICS].pop(key)
        return reply

    return change


def from_another_run(reply: Message) -> Message:
    def change(payload: bytearray) -> None:
        struct.pack_into("<Q", payload, 10, 8)
        payload[46:50] = b""
        payload[46:46] = struct.pack("<I", zlib.crc32(payload))

    return mutate_upload(reply, change)


HOSTILE = {
    "flipped byte": (lambda r: mutate_upload(r, lambda p: p.__setitem__(60, p[60] ^ 1)), "valid"),
    "truncated": (lambda r: mutate_upload(r, lambda p: p.__delitem__(slice(-5, None))), "valid"),
    "empty": (lambda r: mutate_upload(r, lambda p: p.clear()), "valid"),
    "another run": (from_another_run, "from another run"),
    "no examples": (set_metric(messages.NUM_EXAMPLES, 0), "num-examples out of range"),
    "too many": (set_metric(messages.NUM_EXAMPLES, 10**9), "num-examples out of range"),
    "nan weight": (set_metric(messages.NUM_EXAMPLES, float("nan")), "num-examples out of range"),
    "no update": (lambda r: r.content.pop(messages.UPDATE) and r, "valid"),
    "no version": (without(messages.VERSION), "incomplete report"),
    "no loss": (without(messages.TRAIN_LOSS), "incomplete report"),
    "no seconds": (without(messages.SECONDS), "incomplete report"),
    "nothing": (lambda r: Message(RecordDict(), reply_to=r), "incomplete report"),
}


TWO_ROUNDS: dict[str, Any] = {"rounds": 2, "round_timeout_s": 0.3}


def is_second_round_of_site_1(message: Message) -> bool:
    task = message.content.config_records[messages.TASK]
    is_train = message.metadata.message_type == "train"
    return is_train and task[messages.SITE] == "site-01" and task[messages.ROUND] == 2


@pytest.fixture(scope="module")
def dropped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which the upload that others spoil is lost."""

    def drop(message: Message, reply: Message) -> Message | None:
        return None if is_second_round_of_site_1(message) else reply

    folder = tmp_path_factory.mktemp("dropped") / "run"
    run(settings(data, folder, **TWO_ROUNDS), fault=drop)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_upload_is_refused_and_changes_nothing(
    data: Path, tmp_path: Path, dropped: Path, case: str
) -> None:
    change, reason = HOSTILE[case]

    def spoil(message: Message, reply: Message) -> Message:
        if not is_second_round_of_site_1(message):
            return reply
        spoiled = change(reply)
        spoiled.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
        return spoiled

    run(settings(data, tmp_path / "spoiled", **TWO_ROUNDS), fault=spoil)
    refused = summary_of(tmp_path / "spoiled")["refused"]
    assert list(refused.values()) == [1]
    assert reason in next(iter(refused))
    assert_equal_models(tmp_path / "spoiled", dropped)


def test_a_round_below_the_quorum_changes_nothing(data: Path, tmp_path: Path) -> None:
    def lose_two(message: Message, reply: Message) -> Message | None:
        task = message.content.config_records[messages.TASK]
        lost = message.metadata.message_type == "train" and task[messages.ROUND] >= 2
        return None if lost and task[messages.SITE] != "site-00" else reply

    chosen = {"quorum": 2, "round_timeout_s": 0.3, "lr_schedule": "constant"}
    chosen |= {"budget_down": "1x", "budget_final": "1x"}  # so that the true model is delivered
    run(settings(data, tmp_path / "two", rounds=2, **chosen), fault=lose_two)
    run(settings(data, tmp_path / "one", rounds=1, **chosen))
    history = lines(tmp_path / "two" / "history.jsonl")
    sites = [(entry["sites"], entry["asked"]) for entry in history]
    assert sites == [(0, 0), (3, 3), (1, 3), (1, 3), (1, 3)]
    assert_equal_models(tmp_path / "two", tmp_path / "one")


def test_a_run_in_which_nothing_arrives_fails(data: Path, tmp_path: Path) -> None:
    def lose(message: Message, reply: Message) -> Message | None:
        return None if message.metadata.message_type == "train" else reply

    # otherwise they would be set aside after three rounds
    chosen = settings(data, tmp_path / "run", rounds=2, round_timeout_s=0.1, suspend_after=0)
    with pytest.raises(RunError, match=r"no round reached the quorum of 1: no reply \(12\)"):
        run(chosen, fault=lose)


def test_each_round_draws_a_fraction_of_the_sites_again(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "run", fraction=0.34, rounds=6))
    rounds = lines(tmp_path / "run" / "rounds.jsonl")
    rounds = [line for line in rounds if line["phase"] == "train"]
    assert len(rounds) == 6
    assert len({line["site"] for line in rounds}) > 1


def test_too_few_sites_is_an_error_and_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    chosen = settings(data, tmp_path / "run", min_sites=9, join_timeout_s=0.2)
    with pytest.raises(RunError, match="3 of at least 9 sites joined"):
        run(chosen)
    assert not (tmp_path / "run").exists()


def test_a_site_that_raises_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a folder"):
        run(settings(tmp_path / "nowhere", tmp_path / "run", join_timeout_s=0.2))


def test_a_run_never_writes_over_another(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("keep")
    with pytest.raises(RunError, match="is not empty"):
        run(settings(data, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_a_network_that_is_down_for_a_while_costs_no_round(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(data, tmp_path / "run", rounds=2)
    loopback = grid(chosen)
    looks = 0

    def get_node_ids() -> list[int]:
        nonlocal looks
        looks += 1
        return [] if 1 < looks < 6 else list(loopback.contexts)

    monkeypatch.setattr(loopback, "get_node_ids", get_node_ids)
    monkeypatch.setattr(strategies.roll_call, "DISCOVERY_POLL_S", 0.01)
    serve(loopback, chosen)
    assert [line["sites"] for line in lines(tmp_path / "run" / "history.jsonl")] == [0, 3, 3]


def test_a_site_out_of_step_is_sent_the_whole_model_in_the_same_round(
    data: Path, tmp_path: Path
) -> None:
    def lose_the_disk(message: Message, reply: Message) -> Message:
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type == "train" and task[messages.ROUND] == 2:
            shutil.rmtree(tmp_path / "run" / "state" / "7" / "site-01", ignore_errors=True)
        return reply

    loopback = run(settings(data, tmp_path / "run", rounds=4), fault=lose_the_disk)
    visits = lines(tmp_path / "run" / "rounds.jsonl")
    resynced = [(line["round"], line["site"]) for line in visits if line["resynced"]]
    assert resynced == [(3, "site-01")]
    assert all(line["accepted"] for line in visits)
    summary = summary_of(tmp_path / "run")
    assert (summary["resyncs"], summary["refused"]) == (1, {})
    whole = 4 * sum(array.size for array in model_of(tmp_path / "run").values())
    assert whole < summary["bytes_resync"] < 1.1 * whole
    ordinary = [message for message in loopback.seen if message.metadata.message_type == "train"]
    assert len(ordinary) == 4 * 3 + 1  # one message a round and site, and the whole model once


def test_the_sites_end_with_the_model_that_is_delivered(watched: WatchedRun) -> None:
    config = json.loads((watched.folder / "config.json").read_text())
    model = model_of(watched.folder)
    delivered = b"".join(model[layer["name"]].tobytes() for layer in config["layers"])
    for site in ("site-00", "site-01", "site-02"):
        state = json.loads((watched.folder / "state" / "7" / site / "state.json").read_text())
        replica = watched.folder / "state" / "7" / site / state["states"][-1]["replica"]
        assert replica.read_bytes() == delivered


class EqualMean(Aggregator):
    """A rule that is not part of this project: every site counts the same."""

    calls = 0

    def aggregate(self) -> Float32:
        type(self).calls += 1
        total = np.zeros(self.spec.size, dtype=np.float32)
        for update, _ in self.updates():
            update.add_to(total, 1.0 / len(self))
        return total


def test_an_aggregation_rule_is_found_by_its_path(data: Path, tmp_path: Path) -> None:
    EqualMean.calls = 0
    name = f"{EqualMean.__module__}:EqualMean"
    run(settings(data, tmp_path / "run", aggregation=name, rounds=2))
    assert EqualMean.calls == 2
    with pytest.raises(SettingError, match="cannot be imported"):
        run(settings(data, tmp_path / "none", aggregation="nowhere.to:be_found", rounds=1))


def test_a_coding_and_an_indicator_from_outside_are_found_by_their_paths(
    data: Path, tmp_path: Path
) -> None:
    coding = "tests.rsdgc.codec.test_values:BFloat16"
    own = {"values": coding, "dense_values": coding}
    indicator = "tests.rsdgc.test_indicators:Noisy"
    chosen = settings(data, tmp_path / "run", rounds=2, indicator=indicator, **own)
    run(chosen)
    summary = summary_of(tmp_path / "run")
    assert summary["bytes_up"] == pytest.approx(summary["dense_bytes_up"] / 10, rel=0.05)


def test_a_model_from_outside_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_model.py").write_text(
        "from torch import nn\n"
        "def linear(num_bands, num_classes, chip_px):\n"
        "    size = num_bands * chip_px**2\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run(settings(data, tmp_path / "run", model="outside_model:linear", rounds=2), report=True)
    summary = summary_of(tmp_path / "run")
    assert summary["model"] == "outside_model:linear"
    assert summary["refused"] == {}
    assert model_of(tmp_path / "run")["1.weight"].shape == (3, 3 * 16**2)
