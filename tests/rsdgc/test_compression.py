import pytest

from rsdgc import Compression, SettingError


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
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(name, value):
    shown = value["fc"] if isinstance(value, dict) else value
    with pytest.raises(SettingError, match=str(shown)):
        Compression(**{name: value})


@pytest.mark.parametrize("budget", [-5, None, "0x", "0.5x", "nan", ""])
def test_a_budget_that_cannot_be_read_says_how_to_write_one(budget):
    with pytest.raises(SettingError, match="write a ratio from '1x' on, such as '100x', or a"):
        Compression(budget)
