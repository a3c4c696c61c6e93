from __future__ import annotations

import pytest

from rsdgc.errors import RunError
from strategies.sites import DataInfo, ModalityInfo, SiteInfo, SiteManager


def test_a_draw_depends_on_seed_and_round_only() -> None:
    sites = {name: SiteInfo(name, 1, 1, 1, ("m",)) for name in "abcdefgh"}
    one = SiteManager(DataInfo("x", False, ("c",), (ModalityInfo("m", ("b",), 8),)), sites)
    two = SiteManager(one.data, dict(reversed(sites.items())))
    draws = [[site.name for site in one.draw(0.5, 3, number)] for number in range(20)]
    assert draws == [[site.name for site in two.draw(0.5, 3, number)] for number in range(20)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {name for draw in draws for name in draw} == set(sites)


def test_sites_are_grouped_by_the_modalities_that_they_have() -> None:
    data = DataInfo("x", False, ("c",), tuple(ModalityInfo(m, ("b",), 8) for m in ("m", "n")))
    own = {"a": ("m",), "b": ("n", "m"), "c": ("n",), "d": ("m", "n"), "e": ("m",)}
    manager = SiteManager(data)
    manager.register(data, [SiteInfo(name, 1, 1, 1, names) for name, names in own.items()])
    assert manager.sites_by_modalities() == {
        ("m", "n"): ["b", "d"],
        ("m",): ["a", "e"],
        ("n",): ["c"],
    }
    assert manager.lacking(manager.sites["c"]) == ("m",)


def test_a_node_that_is_refused_changes_nothing() -> None:
    data = DataInfo("x", False, ("c",), (ModalityInfo("m", ("b",), 8),))
    manager = SiteManager(data)
    manager.register(data, [SiteInfo("a", 1, 1, 1, ("m",))])
    other = DataInfo("x", False, ("c",), (ModalityInfo("n", ("b",), 8),))
    with pytest.raises(RunError, match="two sites are called 'a'"):
        manager.register(other, [SiteInfo(name, 2, 1, 1, ("n",)) for name in ("b", "a")])
    assert list(manager.sites) == ["a"]
    assert manager.data == data
