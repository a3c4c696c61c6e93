import re

import numpy as np
import pytest

from rsdgc import (
    BudgetCompressor,
    Compression,
    Layer,
    ModelSpec,
    Random,
    Scheme,
    SettingError,
)

STEPS = ("ratios_every", "dense_steps", "warm_up_steps")
SHARES = ("top_share", "dense_share", "momentum", "clip_norm")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", "100y"),
        ("budget", 100),
        ("budget", -5),
        ("budget", "0.5x"),
        ("policy", "energy"),
        ("ratios", {"fc": 1.5}),
        ("ratios_every", 0),
        ("top_share", 2.0),
        ("dense_share", -0.1),
        ("momentum", 1.0),
        ("clip_norm", -1.0),
        ("clip_norm", float("nan")),
        ("dense_steps", -1),
        ("warm_up_steps", -1),
        *[(name, value) for name in STEPS for value in (2.5, 2.0, True, "3", None)],
        ("clip_norm", 10**400),
        *[(name, value) for name in SHARES for value in (True, "0.5", None)],
        ("clip_norm", float("inf")),
        ("ratios", {"fc": True}),
        ("factor_masking", "no"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(name, value):
    shown = value["fc"] if isinstance(value, dict) else value
    with pytest.raises(SettingError, match=re.escape(str(shown))) as caught:
        Compression(**{name: value})
    assert re.match(f"{name}|the ratio of layer 'fc'", str(caught.value))
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    chosen = Compression(ratios_every=np.int64(3), momentum=np.float32(0.5), dense_steps=0)
    assert chosen == Compression(ratios_every=3, momentum=0.5)


@pytest.mark.parametrize("value", [0, -1, 65, 1.5, 3.0, True, "3"])
def test_the_edge_of_a_tile_is_a_whole_number(value):
    with pytest.raises(SettingError, match=re.escape(f"tile_px is {value!r}: choose ")):
        Scheme("tile", tile_px=value)


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_a_seed_is_a_whole_number(value):
    with pytest.raises(SettingError, match=re.escape(f"seed is {value!r}: choose ")):
        Random(value)


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, None])
def test_workers_are_a_whole_number(value):
    spec = ModelSpec([Layer("fc", (4, 40))])
    with pytest.raises(SettingError, match=re.escape(f"workers is {value!r}: choose ")):
        BudgetCompressor(spec, Compression("1x"), value)


@pytest.mark.parametrize("value", ["50x", 50, {"budget": "50x"}, Compression])
def test_a_budget_alone_is_no_compression(value):
    with pytest.raises(SettingError, match=r'^compression is .*: pass .* Compression\("100x"\)'):
        BudgetCompressor(ModelSpec([Layer("fc", (4, 40))]), value)


@pytest.mark.parametrize("budget", [-5, None, "0x", "0.5x", "nan", ""])
def test_a_budget_that_cannot_be_read_says_how_to_write_one(budget):
    with pytest.raises(SettingError, match="write a ratio from '1x' on, such as '100x', or a"):
        Compression(budget)
