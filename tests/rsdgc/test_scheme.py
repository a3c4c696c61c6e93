import pytest

from rsdgc import Scheme, SettingError


@pytest.mark.parametrize(
    "setting",
    [
        {"neighborhood": "row"},
        {"values": "int4"},
        {"dense_values": "int4"},
        {"dense_values": "ternary"},
        {"dense_values": "deadzone"},
        {"indices": "leb128"},
        {"tile_px": 0},
        {"tile_px": 65},
    ],
)
def test_bad_settings_are_refused_with_the_remedy(setting):
    with pytest.raises(SettingError, match="choose"):
        Scheme(**setting)
