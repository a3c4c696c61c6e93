"""Byte budgets, as a user writes them."""

from __future__ import annotations

import re


def parse_budget(text: str, dense_bytes: int) -> float:
    """Bytes of one upload that a budget allows.

    Parameters
    ----------
    text : str
        ``"100x"``: a hundredth of the dense float32 model; or a plain number of bytes.
    dense_bytes : int
        Size of the whole model in float32, bytes.

    Raises
    ------
    ValueError
        If ``text`` is neither, or not positive.
    """
    match = re.fullmatch(
        r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(x?)", text.strip().lower().replace("×", "x")
    )
    number = float(match[1]) if match else 0.0
    if match is None or number <= 0:
        raise ValueError("write a ratio such as '100x' or a number of bytes such as '50000'")
    if match[2] and number < 1:
        raise ValueError("a ratio is at least '1x'")
    return dense_bytes / number if match[2] else number
