from pathlib import Path

import pytest
import torch

from fl_app.config import Settings
from fl_app.site_data import host, split
from rsdgc.errors import DataError

CPU = torch.device("cpu")


def test_simulated_nodes_share_the_sites_out(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data)})
    found = [
        list(host({"partition-id": part, "num-partitions": 2}, settings).sites) for part in (0, 1)
    ]
    assert found == [["site-00", "site-02"], ["site-01"]]


def test_a_node_beyond_the_sites_hosts_none(data: Path) -> None:
    settings = Settings.from_mapping({"data-dir": str(data)})
    assert host({"partition-id": 3, "num-partitions": 4}, settings).sites == {}


def test_a_deployed_node_names_its_own_store(data: Path) -> None:
    store = data.parent / "store"
    here = host({"data-dir": str(store), "site-name": "agency"}, Settings())
    assert here.sites == {"agency": "site-00"}
    part = split(here.dataset, "site-00", "train", CPU)
    assert part is not None
    assert len(part) == 72
    assert split(here.dataset, "site-00", "val", CPU) is None


def test_a_deployed_node_may_be_one_site_of_a_partition(data: Path) -> None:
    here = host({"data-dir": str(data), "site-name": "site-01"}, Settings())
    assert here.sites == {"site-01": "site-01"}


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
        host(filled, Settings())
