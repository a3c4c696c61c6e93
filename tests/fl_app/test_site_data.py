from pathlib import Path

import pytest
import torch

from data_prep.common_statistics import CommonStatistics, merge_sites, site_sums
from fl_app.data_loaders import load_split
from fl_app.settings import Settings
from fl_app.site_data import node_data
from rsdgc.errors import DataError

CPU = torch.device("cpu")


def test_simulated_nodes_share_the_sites_out(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data)})
    found = [
        list(node_data({"partition-id": part, "num-partitions": 2}, settings).sites)
        for part in (0, 1)
    ]
    assert found == [["site-00", "site-02"], ["site-01"]]


def test_a_node_beyond_the_sites_hosts_none(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data)})
    assert node_data({"partition-id": 3, "num-partitions": 4}, settings).sites == {}


def test_a_deployed_node_names_its_own_store(data: Path) -> None:
    store = data.parent / "store"
    node = node_data({"data-dir": str(store), "site-name": "agency"}, Settings())
    assert node.sites == {"agency": "site-00"}
    part = load_split(node.dataset, "site-00", "train", CPU)
    assert part is not None
    assert len(part) == 72
    assert load_split(node.dataset, "site-00", "val", CPU) is None


def test_a_deployed_node_may_be_one_site_of_a_partition(data: Path) -> None:
    node = node_data({"data-dir": str(data), "site-name": "site-01"}, Settings())
    assert node.sites == {"site-01": "site-01"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "this node has no data-dir"),
        ({"data-dir": "/nowhere/at/all"}, "/nowhere/at/all is not a folder"),
        ({"data-dir": "{data}", "site-name": "x"}, "site-name 'x' is not among the sites"),
    ],
)
def test_a_node_without_usable_data_is_told_why(
    data: Path, config: dict[str, str], message: str
) -> None:
    filled = {key: value.format(data=data) for key, value in config.items()}
    with pytest.raises(DataError, match=message):
        node_data(filled, Settings())


def test_common_statistics_go_over_a_store_s_own(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data)})
    node = node_data({"partition-id": 0, "num-partitions": 1}, settings)
    common = CommonStatistics.of(
        merge_sites([site_sums(node.dataset, name) for name in node.sites])
    )
    alike = load_split(node.dataset, "site-00", "train", CPU, common)
    own = load_split(node.dataset, "site-00", "train", CPU)
    assert alike is not None
    assert own is not None
    (x,), _ = next(alike.batches(8, None))
    (y,), _ = next(own.batches(8, None))
    # all sites together are the store, whose statistics are what a partition of it has
    assert x is not None
    assert y is not None
    assert torch.allclose(x, y, atol=1e-3)
    with pytest.raises(DataError, match="do not have modality image"):
        load_split(node.dataset, "site-00", "train", CPU, CommonStatistics({}))
