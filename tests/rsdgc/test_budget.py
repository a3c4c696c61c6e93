import pytest

from rsdgc.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "expected"), [("100x", 10.0), ("2.5x", 400.0), ("1×", 1000.0), ("64", 64.0)]
)
def test_a_budget_is_a_ratio_or_bytes(text: str, expected: float) -> None:
    assert parse_budget(text, dense_bytes=1000) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "0.5x", "-3", "1e3", "ten", "100xx"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ratio"):
        parse_budget(text, dense_bytes=1000)
