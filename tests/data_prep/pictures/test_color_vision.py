"""Simulated color vision and color differences, against published values."""

import numpy as np
import pytest

from data_prep.pictures.color_vision import (
    DEFICIENCIES,
    VISIONS,
    least_difference,
    simulate,
    to_lab,
)
from tests.data_prep.pictures.ciede2000 import ciede2000


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
        ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_gives_the_values_of_sharma_wu_and_dalal(
    first: tuple[float, ...], second: tuple[float, ...], difference: float
) -> None:
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize(
    ("color", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_lab_of_the_primaries(color: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert to_lab(simulate(color, "normal")) == pytest.approx(lab, abs=0.01)


# Machado et al.'s matrices as colorspacious 1.1.2 applies them ("sRGB1+CVD", severity 100).
@pytest.mark.parametrize(
    ("vision", "linear"),
    [
        (
            "protanopia",
            ((0.13285984, 0.10295187, 0.00924178), (0.05305139, 0.22017475, 0.74382055)),
        ),
        (
            "deuteranopia",
            ((0.24808761, 0.19277495, 0.00769231), (0.00326093, 0.16387919, 0.7013334)),
        ),
        ("tritanopia", ((0.71937933, 0.0, 0.03791948), (0.0, 0.27944504, 0.34741379))),
    ],
)
def test_colors_as_color_blind_readers_see_them(
    vision: str, linear: tuple[tuple[float, ...], ...]
) -> None:
    colors = np.array([[200, 60, 30], [30, 120, 220]])
    np.testing.assert_allclose(simulate(colors, vision), linear, atol=1e-7)


@pytest.mark.parametrize("vision", VISIONS)
def test_grays_look_the_same_to_everybody(vision: str) -> None:
    gray = np.repeat(np.arange(0, 256, 17)[:, None], 3, axis=1)
    np.testing.assert_allclose(simulate(gray, vision), simulate(gray, "normal"), atol=2e-6)


def test_red_and_green_are_told_apart_worst_without_red_or_green_cones() -> None:
    red, green = np.array([[180, 60, 30]]), np.array([[110, 110, 30]])
    worst = least_difference(red, green)[0, 0]
    normal = np.linalg.norm(to_lab(simulate(red, "normal")) - to_lab(simulate(green, "normal")))
    assert worst < normal / 2
    assert len(DEFICIENCIES) == 3
