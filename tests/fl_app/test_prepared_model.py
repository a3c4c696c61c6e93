"""Runs that start from weights: with the file at all sites, at some of them, and in a command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file, save_file

from clients.model_parts import ModelParts
from fl_app.models import build_model
from fl_app.models.weight_file import WeightFile
from fl_app.prepared_model import input_shapes, prepare_model
from fl_app.settings import Settings
from rsdgc.errors import SettingError
from strategies import messages
from strategies.sites import ModalityInfo
from tests import modalities
from tests.command import rsdgc
from tests.federation import grid, run, serve, settings
from tests.loopback import Killed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a model of other bands and classes."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_model("small-cnn", 4, 9, 16, seed=5).state_dict(), path)
    return path


def test_a_run_starts_from_weights_and_its_model_starts_another(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    first = settings(data, tmp_path / "a", rounds=1, init_weights=str(weights))
    loopback = run(first)
    report = json.loads((tmp_path / "a" / "init-weights.json").read_text())
    assert set(report["new"]) == {"head.weight", "head.bias"}
    assert report["adapted"]["stage1.0.weight"]["how"] == "4 to 3 bands, 0 by name"
    # All sites had the file: none had to be sent the model.
    assert all(messages.MODEL not in message.content for message in loopback.seen[:6])
    trained = load_file(tmp_path / "a" / "model.safetensors")
    source = load_file(weights)
    moved = (trained["stage2.0.weight"] - source["stage2.0.weight"]).norm()
    assert moved < 0.5 * source["stage2.0.weight"].norm()
    model = tmp_path / "a" / "model.safetensors"
    run(settings(data, tmp_path / "b", rounds=1, init_weights=str(model)))
    report = json.loads((tmp_path / "b" / "init-weights.json").read_text())
    assert report["share"] == 1


def test_a_site_without_the_file_is_sent_the_model_once(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    chosen = settings(data, tmp_path / "run", rounds=2, init_weights=str(weights))
    loopback = grid(chosen)
    loopback.contexts[101].run_config["init-weights"] = str(tmp_path / "nowhere")
    # Its own copy goes before the run's path.
    loopback.contexts[102].run_config["init-weights"] = str(tmp_path / "nowhere")
    loopback.contexts[102].node_config["init-weights"] = str(weights)
    serve(loopback, chosen)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["resyncs"] == 1


def test_the_commands_convert_and_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": build_model("small-cnn", 3, 4, 16).state_dict()}, tmp_path / "w.pth")
    file = tmp_path / "w.safetensors"
    assert rsdgc(monkeypatch, "weights", "convert", tmp_path / "w.pth", file) == 0
    assert capsys.readouterr().out == f"{file}: 11 tensors\n"
    assert rsdgc(monkeypatch, "weights", "inspect", file) == 0
    assert "stage1.0.weight  F32  32×3×3×3" in capsys.readouterr().out
    assert rsdgc(monkeypatch, "weights", "inspect", file, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["stage1.0.weight"] == {"shape": [32, 3, 3, 3], "dtype": "F32"}
    assert len(listed) == 11
    words = ["--model", "small-cnn", "--bands", "red,nir", "--classes", "7"]
    assert rsdgc(monkeypatch, "weights", "inspect", file, *words) == 0
    printed = capsys.readouterr().out
    assert "adapted  stage1.0.weight: 3 to 2 bands, 0 by name" in printed
    assert "new      head.bias: 4 in the file, 7 here" in printed
    assert rsdgc(monkeypatch, "weights", "inspect", file, *words, "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "share",
        "matched",
        "adapted",
        "new",
        "unused",
    }


def test_what_a_network_of_several_modalities_starts_from_is_shown_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = modalities.make_data(tmp_path, sites=2, lacking={})
    chosen = settings(archive, tmp_path / "run", rounds=1, model="fusion-concat", budget="2x")
    run(chosen, nodes=2)
    file = tmp_path / "run" / "model.safetensors"
    assert WeightFile(file).bands == {
        "optical": ("band1", "band2", "band3"),
        "elevation": ("elevation",),
    }
    inspect = ["weights", "inspect", file, "--model"]
    assert rsdgc(monkeypatch, *inspect, "fusion-concat", "--data", archive) == 0
    assert "100.0% of the values are the file's" in capsys.readouterr().out
    # Any network is built for the store's bands, classes and chips.
    assert rsdgc(monkeypatch, *inspect, "small-cnn", "--data", tmp_path / "store") == 2
    assert "'stage1.0.weight'" in capsys.readouterr().err
    save_file(build_model("small-cnn", 6, 3, 8).state_dict(), tmp_path / "w")
    inspect = ["weights", "inspect", tmp_path / "w", "--model", "small-cnn"]
    assert rsdgc(monkeypatch, *inspect, "--data", tmp_path / "store") == 0
    assert "adapted  stage1.0.weight: 6 to 4 bands" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--model", "fusion-attention", "--bands", "5"], "has them with --data"),
        (["--model", "small-cnn", "--data", "store", "--bands", "3"], "leave out --bands"),
        (["--data", "store"], "with --model"),
        (["--bands", "4", "--classes", "7"], "--bands, --classes would change nothing"),
        (["--model", "small-cnn", "--bands", ","], "a model of 0 bands"),
    ],
)
def test_what_cannot_be_inspected_names_its_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    remedy: str,
) -> None:
    save_file(build_model("small-cnn", 3, 4, 16).state_dict(), tmp_path / "w")
    assert rsdgc(monkeypatch, "weights", "inspect", tmp_path / "w", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert remedy in error


@pytest.mark.parametrize("words", [["init-weights={tmp}/none"], ["init-weights={tmp}/text"]])
def test_unusable_weights_are_refused_before_anything_starts(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    (tmp_path / "text").write_text("weights")
    filled = [word.format(tmp=tmp_path) for word in words]
    assert rsdgc(monkeypatch, "simulate", "--data", data, *filled) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert filled[0].partition("=")[2] in error


def prepared(**changes: object) -> torch.nn.Module:
    chosen = Settings.from_mapping({"model": "small-cnn", **changes})
    return prepare_model(chosen, [ModalityInfo("optical", ("r", "g", "b"), 16)], 4, None)[0]


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train-only": "head"}, HEAD),
        ({"freeze": "stage1,stage2,stage3"}, HEAD),
        (
            {"adapters": "lora"},
            HEAD | {f"stage{i}.0.lora_{factor}" for i in (1, 2, 3) for factor in "ab"},
        ),
        (
            {"adapters": "lora", "train-only": "head,stage3"},
            HEAD
            | {f"stage3.{name}" for name in ("0.weight", "1.weight", "1.bias")}
            | {f"stage{i}.0.lora_{factor}" for i in (1, 2) for factor in "ab"},
        ),
        (
            {"adapters": "lora", "adapter-layers": "stage2,head"},
            HEAD | {"stage2.0.lora_a", "stage2.0.lora_b"},
        ),
    ],
)
def test_settings_choose_what_is_trained(changes: dict[str, str], expected: set[str]) -> None:
    assert trained(prepared(**changes)) == expected
    with torch.device("meta"):
        assert trained(prepared(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze": "*"}, "freeze freezes every parameter"),
        ({"freeze": "head", "train-only": "head"}, "use it without freeze"),
        ({"freeze": "head", "adapters": "lora"}, "use it without freeze"),
        ({"adapters": "lora", "adapter-layers": "stage1.1"}, "leaves no layer to adapt"),
        ({"adapters": "lora", "adapter-layers": "stge1"}, "did you mean stage1"),
        ({"adapters": "lora", "train-only": "*"}, "has no linear layer .* beside what is trained"),
        ({"adapters": "lora", "adapter-rank": 0}, "adapter-rank=0"),
        ({"adapter-layers": "nosuch"}, "adapter-layers='nosuch': it is for adapters"),
        ({"freeze": ","}, "write names or patterns"),
        ({"adapters": "peft"}, "adapters='peft'"),
    ],
)
def test_settings_that_train_nothing_or_contradict_are_refused(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        prepared(**changes)


def test_inputs_of_a_model() -> None:
    optical, radar = ModalityInfo("optical", ("r", "g", "b"), 16), ModalityInfo("sar", ("vv",), 8)
    for order in ([optical, radar], [radar, optical]):
        assert input_shapes("small-cnn", order) == [(4, 16, 16)]
    assert input_shapes("fusion-concat", [optical, radar]) == [(3, 16, 16), (1, 8, 8)]


UNUSED = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.used, self.unused = nn.Conv2d(num_bands, num_classes, 3), nn.Linear(7, 7)

    def forward(self, x):
        return self.used(x).mean((2, 3))
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train-only": "unused"}, "train-only=unused trains nothing that the class scores"),
        ({"freeze": "used"}, "freeze=used trains nothing that the class scores depend on"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_trained_must_reach_the_scores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    words: str,
    device: str,
) -> None:
    (tmp_path / "with_unused.py").write_text(UNUSED)
    monkeypatch.syspath_prepend(tmp_path)
    with torch.device(device):
        with pytest.raises(SettingError, match=words):
            prepared(model="with_unused:Net", **changes)
        assert trained(prepared(model="with_unused:Net", freeze="unused")) == {
            "used.weight",
            "used.bias",
        }


AUTHORED = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.stem = nn.Conv3d(1, 4, (num_bands, 3, 3))
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        x = self.stem(x.unsqueeze(1)).mean((2, 3, 4))
        return F.linear(self.backbone(x), self.head.weight, self.head.bias)

class Spectra(nn.Module):
    def __init__(self, num_bands, num_classes):
        super().__init__()
        self.stem, self.last = nn.Conv1d(1, 6, num_bands), nn.Conv1d(6, num_classes, 1)

    def forward(self, x):
        return self.last(self.stem(x.mean((2, 3)).unsqueeze(1))).squeeze(2)

class Headless(Spectra):
    def forward(self, x):
        return super().forward(x)[:, :-1]

    def __init__(self, num_bands, num_classes):
        super().__init__(num_bands, num_classes + 1)
"""


def adapter(*layers: str) -> set[str]:
    return {f"{layer}.lora_{factor}" for layer in layers for factor in "ab"}


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("Net", {}, {"stem.weight", "stem.bias"} | HEAD),
        ("Net", {"freeze": "stem"}, HEAD),
        ("Net", {"freeze": "backbone,stem"}, HEAD),
        ("Net", {"train-only": "backbone*,head"}, r"code freezes all that 'backbone\*' matches"),
        ("Net", {"train-only": "*"}, {"stem.weight", "stem.bias"} | HEAD),
        ("Net", {"adapters": "lora"}, HEAD | adapter("stem", "backbone.0", "backbone.2")),
        (
            "Net",
            {"adapters": "lora", "train-only": "stem"},
            {"stem.weight", "stem.bias"} | adapter("backbone.0", "backbone.2", "head"),
        ),
        ("Net", {"freeze": "stem,head"}, "freeze freezes every parameter that the model trains"),
        ("Spectra", {"adapters": "lora"}, {"last.weight", "last.bias"} | adapter("stem")),
        ("Spectra", {"train-only": "head"}, {"last.weight", "last.bias"}),
        ("Headless", {"adapters": "lora"}, "^adapters=lora: no linear .*set train-only=<layer>"),
        (
            "Headless",
            {"adapters": "lora", "train-only": "last"},
            {"last.weight", "last.bias"} | adapter("stem"),
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_the_code_of_a_network_freezes_is_never_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    changes: dict[str, str],
    expected: set[str] | str,
    device: str,
) -> None:
    (tmp_path / "authored.py").write_text(AUTHORED)
    monkeypatch.syspath_prepend(tmp_path)
    with torch.device(device):
        if isinstance(expected, str):
            with pytest.raises(SettingError, match=expected):
                prepared(model=f"authored:{model}", **changes)
        else:
            assert trained(prepared(model=f"authored:{model}", **changes)) == expected


def test_the_model_of_a_run_with_adapters_is_a_plain_one(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "run", rounds=2, adapters="lora", adapter_rank=2))
    delivered = load_file(tmp_path / "run" / "model.safetensors")
    plain = build_model("small-cnn", 3, 3, 16)
    start = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    plain.load_state_dict(delivered)
    assert torch.equal(delivered["stage2.1.weight"], start["stage2.1.weight"])
    part = load_file(tmp_path / "run" / "adapters.safetensors")
    assert torch.equal(part["head.weight"], delivered["head.weight"])
    step = 4 * part["stage2.0.lora_b"] @ part["stage2.0.lora_a"].flatten(1)
    merged = start["stage2.0.weight"] + step.view(64, 32, 3, 3)
    assert step.any()
    torch.testing.assert_close(delivered["stage2.0.weight"], merged)


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_what_is_frozen_is_sent_once_to_a_site_that_lacks_it(
    data: Path, weights: Path, tmp_path: Path, method: str
) -> None:
    changes = {"rounds": 3, "method": method, "init_weights": str(weights), "adapters": "lora"}
    chosen = settings(data, tmp_path / "run", state_dir=str(tmp_path / "a"), **changes)
    loopback = grid(chosen)
    loopback.contexts[102].run_config["init-weights"] = str(tmp_path / "nowhere")
    loopback.contexts[102].node_config["state-dir"] = str(tmp_path / "b")
    serve(loopback, chosen)
    lines = entries(tmp_path / "run")
    sent = [
        (line["round"], line["site"]) for line in lines if "frozen part" in line["down_by_group"]
    ]
    assert sent == [(1, "site-01")]
    frozen = 4 * (build_parts := sum(t.size for t in frozen_arrays(chosen).values()))
    assert build_parts > 90_000
    (line,) = [line for line in lines if line["resynced"]]
    assert 0 <= line["down_by_group"]["frozen part"] - frozen < 200
    assert line["bytes_resync"] > frozen
    assert not (tmp_path / "a" / "frozen").exists()
    (kept,) = (tmp_path / "b" / "frozen").iterdir()
    assert kept.stat().st_size == frozen
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["resyncs"], summary["refused"]) == (1, {})
    # Dense FedAvg of the trained part: 3 rounds and 3 sites, up; and the final evaluation, down.
    shared = sum(p.numel() for p in prepared(adapters="lora").parameters() if p.requires_grad)
    assert summary["dense_bytes_up"] == 9 * 4 * (shared - 129)  # three classes here, four there
    if method == "rs-dgc":
        trained_bytes = [line["bytes_up"] for line in lines if line["phase"] == "train"]
        assert max(trained_bytes) < 4 * shared
    # A later run on the same machines sends nothing: the part is found by its digest.
    again = settings(data, tmp_path / "again", state_dir=str(tmp_path / "a"), **changes)
    loopback = grid(again, run_id=8)
    loopback.contexts[102].run_config["init-weights"] = str(tmp_path / "nowhere")
    loopback.contexts[102].node_config["state-dir"] = str(tmp_path / "b")
    serve(loopback, again, run_id=8)
    assert not any("frozen part" in line["down_by_group"] for line in entries(tmp_path / "again"))


def test_a_site_that_lacks_frozen_part_and_reference_loses_no_round(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    """Without the file it builds neither, and one answer a round brings both."""
    changes = {"init_weights": str(weights), "freeze": "stage1", "transform": "channels"}
    chosen = settings(data, tmp_path / "run", rounds=3, **changes)
    loopback = grid(chosen)
    loopback.contexts[102].run_config["init-weights"] = str(tmp_path / "nowhere")
    serve(loopback, chosen)
    resynced = [line for line in entries(tmp_path / "run") if line["resynced"]]
    assert [(line["round"], line["site"]) for line in resynced] == [(1, "site-01")]
    assert {"frozen part", "transform reference"} <= resynced[0]["down_by_group"].keys()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["resyncs"], summary["refused"]) == (1, {})


def frozen_arrays(chosen: Settings) -> dict[str, Any]:
    optical = ModalityInfo("optical", ("r", "g", "b"), 16)
    model, _ = prepare_model(chosen, [optical], 3, chosen.initial_weights())
    return ModelParts(model).frozen_part().arrays


HEAD_BUDGETS = {"budget": "1000", "budget_down": "1000"}


def test_all_sites_score_the_model_of_the_run(data: Path, weights: Path, tmp_path: Path) -> None:
    """The accuracy before training is that of a run whose sites all have the file."""
    histories = []
    for name, lacking in (("all", ()), ("one", (102,))):
        chosen = settings(
            data,
            tmp_path / name,
            rounds=2,
            init_weights=str(weights),
            train_only="head",
            **HEAD_BUDGETS,
        )
        loopback = grid(chosen)
        for node in lacking:
            loopback.contexts[node].run_config["init-weights"] = str(tmp_path / "nowhere")
        serve(loopback, chosen)
        lines = (tmp_path / name / "history.jsonl").read_text().splitlines()
        histories.append([json.loads(line) for line in lines])
    first, second = (history[0] for history in histories)
    assert first["loss"] == second["loss"]
    delivered = load_file(tmp_path / "one" / "model.safetensors")
    assert torch.equal(delivered["stage2.0.weight"], load_file(weights)["stage2.0.weight"])


def test_a_site_that_asks_again_is_refused(data: Path, tmp_path: Path) -> None:
    def ask(message: Message, reply: Message) -> Message:
        if message.metadata.dst_node_id == 102 and message.metadata.message_type == "train":
            content = RecordDict({messages.METRICS: MetricRecord({messages.FROZEN: 1})})
            return Message(content, reply_to=message)
        return reply

    run(settings(data, tmp_path / "run", rounds=1, train_only="head", **HEAD_BUDGETS), fault=ask)
    (line,) = [line for line in entries(tmp_path / "run") if line["site"] == "site-01"][:1]
    assert line["reason"] == "incomplete report"
    assert line["resynced"]


@pytest.mark.parametrize("own", ["another model's", "text", "missing"])
def test_a_machine_whose_own_weights_are_for_other_runs_is_sent_the_part(
    data: Path, weights: Path, tmp_path: Path, own: str
) -> None:
    path = tmp_path / "own"
    if own == "text":
        path.write_text("weights")
    elif own != "missing":
        save_file({"conv1.weight": torch.ones(4, 3, 7, 7)}, path)
    chosen = settings(
        data,
        tmp_path / "run",
        rounds=1,
        init_weights=str(weights),
        train_only="head",
        state_dir=str(tmp_path / "state"),
        **HEAD_BUDGETS,
    )
    loopback = grid(chosen)
    loopback.contexts[102].node_config["init-weights"] = str(path)
    serve(loopback, chosen)
    assert [line["site"] for line in entries(tmp_path / "run") if line["resynced"]] == ["site-01"]
    # A run from the seed does not read it.
    chosen = settings(data, tmp_path / "seed", rounds=1)
    loopback = grid(chosen, run_id=9)
    loopback.contexts[102].node_config["init-weights"] = str(path)
    serve(loopback, chosen, run_id=9)
    assert not any(line["resynced"] for line in entries(tmp_path / "seed"))


def test_a_damaged_frozen_part_is_refused_by_the_site(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    chosen = settings(
        data,
        tmp_path / "run",
        rounds=1,
        quorum=2,
        init_weights=str(weights),
        train_only="head",
        **HEAD_BUDGETS,
        state_dir=str(tmp_path / "state"),
    )
    loopback = grid(chosen)
    loopback.contexts[102].run_config["init-weights"] = str(tmp_path / "nowhere")
    push = loopback.push_messages

    def damage(sent: Iterable[Message]) -> list[str]:
        for message in (sent := list(sent)):
            if messages.FROZEN in message.content:
                array = message.content[messages.FROZEN][messages.PACKED].numpy().copy()
                array[7] ^= 1
                message.content[messages.FROZEN] = ArrayRecord({messages.PACKED: Array(array)})
        return push(sent)

    loopback.push_messages = damage
    serve(loopback, chosen)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["refused"] == {"error at the site": 2}  # the round, and the evaluation
    assert not (tmp_path / "state" / "frozen").exists()


def test_a_resumed_run_goes_on_with_what_is_frozen(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    """The result is that of a run that was never stopped; a file that has changed is refused."""
    copy = tmp_path / "w.safetensors"
    copy.write_bytes(weights.read_bytes())
    common = {"rounds": 4, "checkpoint_every": 1, "init_weights": str(copy), "adapters": "lora"}
    run(settings(data, tmp_path / "whole", **common))
    chosen = settings(data, tmp_path / "stopped", **common)

    def stop(message: Message, reply: Message) -> Message:
        task = message.content.config_records[messages.TASK]
        if task.get(messages.ROUND) == 3:
            raise Killed
        return reply

    with pytest.raises(Killed):
        run(chosen, fault=stop)
    config = json.loads((tmp_path / "stopped" / "config.json").read_text())
    assert config["frozen"]["parameters"] == 93_472  # all but the head
    again = chosen.model_copy(update={"resume": True})
    save_file(build_model("small-cnn", 4, 9, 16, seed=6).state_dict(), copy)
    with pytest.raises(SettingError, match="has changed since the run"):
        run(again, run_id=8)
    copy.write_bytes(weights.read_bytes())
    run(again, run_id=8)
    first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["resnet18", "timm:mobilenetv3_small_050"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_report_is_of_the_model_that_is_trained(tmp_path: Path, name: str, device: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    file = tmp_path / "w.safetensors"
    source = build_model(name, 3, 4, 32, seed=5).state_dict()
    save_file(source, file)
    modalities = (ModalityInfo("optical", ("r", "g", "b"), 32),)
    reports = {}
    for batch_norm in ("average", "group"):
        chosen = Settings.from_mapping({"model": name, "batch-norm": batch_norm})
        with torch.device(device):
            model, report = prepare_model(chosen, modalities, 7, file)
        assert report is not None
        reports[batch_norm] = report
        state = model.state_dict()
        floats = {key for key, value in state.items() if value.is_floating_point()}
        assert {*report.matched, *report.adapted, *report.new} == floats
        loaded = sum(state[key].numel() for key in (*report.matched, *report.adapted))
        assert report.share == pytest.approx(loaded / sum(state[key].numel() for key in floats))
        if device == "cpu":
            assert all(torch.equal(state[k], source[v]) for k, v in report.matched.items())
    statistics = {key for key in source if key.endswith(("running_mean", "running_var"))}
    assert len(reports["average"].matched) - len(reports["group"].matched) == len(statistics)
    assert set(reports["group"].unused) - set(reports["average"].unused) == statistics
    assert set(reports["group"].new) == set(reports["average"].new)
    assert f"{len(statistics)} in the file unused" not in reports["average"].summary()
