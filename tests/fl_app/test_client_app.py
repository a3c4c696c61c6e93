from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from data_prep.common_statistics import SiteSums, merge_sites
from data_prep.dataset import open_data
from fl_app import client_app
from fl_app.settings import Settings
from rsdgc.errors import RunError
from strategies import messages
from strategies.roll_call import discover_sites
from tests.loopback import LoopbackGrid


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep two sites in memory, and list those that are opened."""
    names: list[str] = []

    def open_site(context: Any, name: str, *rest: Any) -> object:
        names.append(name)
        return object()

    monkeypatch.setattr(client_app, "_open_site", open_site)
    monkeypatch.setattr(client_app, "SITES_IN_MEMORY", 2)
    client_app.opened_sites.clear()
    yield names
    client_app.opened_sites.clear()


def site(name: str, run_id: int = 1, **config: Any) -> Any:
    context: Any = SimpleNamespace(run_id=run_id, node_config={}, run_config=config)
    task = RecordDict({messages.TASK: ConfigRecord({messages.SITE: name})})
    message: Any = SimpleNamespace(content=task)
    return client_app._site(context, message)


def test_the_least_recently_used_site_is_closed_first(opened: list[str]) -> None:
    first = site("a")
    site("b")
    assert site("a") is first
    site("c")
    assert site("a") is first
    assert opened == ["a", "b", "c"]
    site("b")
    assert opened == ["a", "b", "c", "b"]


def test_a_site_of_other_settings_or_another_run_is_opened_again(opened: list[str]) -> None:
    assert len({site("a"), site("a", seed=1), site("a", run_id=2)}) == 3
    assert opened == ["a"] * 3


def test_a_site_answers_a_query_for_its_statistics(data: Path) -> None:
    grid = LoopbackGrid(
        client_app.app,
        [{"partition-id": part, "num-partitions": 2} for part in (0, 1)],
        Settings.from_mapping({"data-dir": str(data)}).to_mapping(),
    )
    nodes = {"site-00": 101, "site-01": 102, "site-02": 101}
    queries = [
        Message(
            RecordDict({messages.TASK: ConfigRecord({messages.SITE: site})}),
            dst_node_id=node,
            message_type="query.statistics",
        )
        for site, node in nodes.items()
    ]
    replies = list(grid.send_and_receive(queries))
    sums = [
        SiteSums.from_mapping(dict(reply.content.config_records[messages.SUMS]))
        for reply in replies
    ]
    common = merge_sites(sums)
    store = open_data(data).store
    np.testing.assert_allclose(
        common.modalities["image"].mean, store.meta.modalities[0].mean, rtol=1e-6
    )
    assert sum(common.class_counts) == store.meta.splits.counts["train"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_node_without_the_device_of_the_run_says_so_at_the_roll_call(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data), "device": "cuda"})
    config = {"partition-id": 0, "num-partitions": 2, "site-name": "oslo"}
    grid = LoopbackGrid(client_app.app, [config], settings.to_mapping())
    with pytest.raises(RunError, match="at least 1 sites joined") as caught:
        discover_sites(grid, 1, join_timeout_s=0.2)
    assert "at site oslo: device 'cuda' is not available on this machine" in str(caught.value)
