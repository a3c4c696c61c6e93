from __future__ import annotations

from strategies.sites import DataInfo, ModalityInfo, SiteInfo, SiteManager


def test_a_draw_depends_on_seed_and_round_only() -> None:
    sites = {name: SiteInfo(name, 1, 1, 1, ("m",)) for name in "abcdefgh"}
    one = SiteManager(DataInfo("x", False, ("c",), (ModalityInfo("m", ("b",), 8),)), sites)
    two = SiteManager(one.data, dict(reversed(sites.items())))
    draws = [[site.name for site in one.draw(0.5, 3, number)] for number in range(20)]
    assert draws == [[site.name for site in two.draw(0.5, 3, number)] for number in range(20)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert {name for draw in draws for name in draw} == set(sites)
