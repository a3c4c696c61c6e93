"""What this application takes for granted of Flower, so that an upgrade that breaks it is seen."""

import importlib
import inspect
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.simulation.app import run_simulation_process
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid, InMemoryGrid
from flwr.superlink.runtime.run_serverapp import run_serverapp
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode_parser
from flwr.supernode.runtime.run_clientapp import run_clientapp

from fl_app.deploy import site_app, supernode
from fl_app.deploy.party_config import SiteConfig
from fl_app.flower import app_starter
from strategies import DenseFedAvg, RsDgc
from strategies.reply_objects import LEVELS, MIB
from strategies.suspension import NO_REPLY_CODES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("strategy", [RsDgc, DenseFedAvg])
@pytest.mark.parametrize(
    "method",
    ["start", "configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate"],
)
def test_strategies_keep_flowers_signatures(strategy: type[Strategy], method: str) -> None:
    ours = inspect.signature(getattr(strategy, method)).parameters.values()
    flowers = inspect.signature(getattr(Strategy, method)).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in flowers]


def test_the_bundle_holds_the_code_and_nothing_else() -> None:
    names = set(zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))).namelist())
    code = {
        path.relative_to(ROOT).as_posix()
        for package in ("rsdgc", "clients", "strategies", "data_prep", "fl_app")
        for path in (ROOT / package).rglob("*.py")
    }
    assert code <= names
    assert names - code == {"pyproject.toml", "LICENSE", ".info/CONTENT"}


def test_the_grid_still_has_what_the_exchange_uses() -> None:
    for name in ("push_messages", "pull_messages", "get_node_ids", "get_nodes"):
        assert callable(getattr(Grid, name))


def test_a_reply_can_still_be_pulled_in_parts() -> None:
    """The grid of a deployment has the SuperLink's client, which Flower does not document.

    Without it every reply would still be pulled on its own, but opened before its size is known.
    """
    grid = HttpGrid(token="token")
    client = grid._runtime_client
    for name in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert callable(getattr(client, name))
    assert grid.node.node_id == SUPERLINK_NODE_ID
    grid.close()
    assert not hasattr(InMemoryGrid, "_runtime_client")
    parameters = inspect.signature(inflate_object_from_contents).parameters
    assert list(parameters)[:2] == ["object_id", "object_contents"]


def test_the_grid_of_a_simulation_still_tells_it_from_a_deployment() -> None:
    """Its nodes are registered before the first of them works (``discover_sites``)."""
    assert not issubclass(HttpGrid, InMemoryGrid)
    simulation = importlib.import_module("flwr.simulation.run_simulation")
    assert inspect.getsource(simulation).count("grid = InMemoryGrid(") == 1
    engine = importlib.import_module("flwr.server.superlink.fleet.vce.vce_api")
    source = inspect.getsource(engine.start_vce)
    assert source.index("_register_nodes(") < source.index("run_api(")


def test_a_message_still_becomes_objects_of_five_levels() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
    content = RecordDict({"a": ArrayRecord({"b": Array(np.zeros(3))}), "m": MetricRecord({"x": 1})})
    message = Message(content, 1, "train")
    kinds = {
        object_id: each.deflate().partition(b" ")[0].decode()
        for object_id, each in get_all_nested_objects(message).items()
    }
    level, levels = [get_object_tree(message)], []
    while level:
        levels.append({kinds[node.object_id] for node in level})
        level = [child for node in level for child in node.children]
    assert len(levels) == len(LEVELS)
    for found, expected in zip(levels, LEVELS, strict=True):
        assert found <= set(expected)
    assert MIB <= FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE


def test_a_node_still_has_the_name_that_its_key_was_registered_under() -> None:
    info = NodeInfo(node_id=2**63, name="oslo")
    assert (info.node_id, info.name, NodeInfo(node_id=1).name) == (2**63, "oslo", "")


def test_flower_still_answers_for_a_node_that_is_gone_with_these_codes() -> None:
    codes = (
        *(ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE),
        ErrorCode.NODE_UNAVAILABLE,
    )
    assert codes == NO_REPLY_CODES


def test_fedavg_still_averages_by_the_key_given() -> None:
    assert "weighted_by_key" in inspect.signature(FedAvg.__init__).parameters


def test_an_array_of_bytes_costs_little_more_than_its_bytes() -> None:
    record = ArrayRecord({"packed": Array(np.zeros(10_000, dtype=np.uint8))})
    assert record.count_bytes() <= 10_000 + 200


def test_a_config_counts_its_numbers_at_eight_bytes() -> None:
    assert ConfigRecord({"ratios": [0.5, 0.25]}).count_bytes() == len("ratios") + 16


def test_supernode_and_app_still_start_apart(tmp_path: Path) -> None:
    config = SiteConfig(
        ca_certificate=tmp_path / "ca.crt",
        private_key=tmp_path / "node.key",
        app_secret=tmp_path / "app.secret",
        state_dir=tmp_path,
        name="north",
        server="fl.example.org:443",
        data_dir=tmp_path,
    )
    node = supernode_parser().parse_args(supernode.command(config, tmp_path / "s")[1:])
    app = superexec_parser().parse_args(site_app.app_command(config, tmp_path / "s")[4:])
    assert node.isolation == "process"
    assert f"{node.host}:{node.port}" == app.runtime_api_address
    assert node.superexec_auth_secret_file == str(tmp_path / "s")
    assert app.superexec_auth_secret_file == str(tmp_path / "s")


def test_a_superlink_still_asks_for_the_command_of_its_superexec() -> None:
    module = importlib.import_module("flwr.superlink.cli.flower_superlink")
    command = getattr(module, app_starter._SUPEREXEC_COMMAND)(
        runtime_address="127.0.0.1:8000",
        runtime_certificates=None,
        runtime_root_certificates_path=None,
        parent_pid=7,
        runtime_dependency_install=False,
    )
    assert command[0] == "flower-superexec"
    parsed = superexec_parser().parse_args(command[1:])
    assert (parsed.runtime_api_address, parsed.parent_pid) == ("127.0.0.1:8000", 7)


@pytest.mark.parametrize("run", [run_clientapp, run_serverapp, run_simulation_process])
def test_an_app_is_still_run_by_a_function_with_these_arguments(run: Callable[..., None]) -> None:
    names = {"runtime_api_address", "token", "insecure", "certificates", "parent_pid"}
    names |= {"runtime_dependency_install"} | ({"log_queue"} if run is not run_clientapp else set())
    assert set(inspect.signature(run).parameters) == names
