from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.augment import crop, drop_bands, drop_modalities, flips_and_quarter_turns, jitter
from clients.loader import Chips


def augmented(
    function: Callable[..., Chips], x: torch.Tensor, *arguments: float, seed: int = 0
) -> torch.Tensor:
    (out,) = function([x], *arguments, torch.Generator().manual_seed(seed))
    assert out is not None
    return out


def ways(x: torch.Tensor, count: int = 400) -> dict[tuple[float, ...], int]:
    out = augmented(flips_and_quarter_turns, x.expand(count, *x.shape[1:]))
    found: dict[tuple[float, ...], int] = {}
    for chip in out:
        key = tuple(chip.flatten().tolist())
        found[key] = found.get(key, 0) + 1
    return found


def test_square_chips_come_in_all_eight_ways_about_as_often() -> None:
    chip = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = {
        tuple(torch.rot90(side, turns, (2, 3)).flatten().tolist())
        for side in (chip, chip.flip(3))
        for turns in range(4)
    }
    found = ways(chip)
    assert set(found) == expected
    assert min(found.values()) > 25


def test_other_chips_keep_their_shape() -> None:
    assert len(ways(torch.arange(6.0).reshape(1, 1, 2, 3))) == 4


def test_bands_stay_together_and_the_input_as_it_is() -> None:
    x = torch.rand(5, 1, 4, 4).repeat(1, 3, 1, 1)
    before = x.clone()
    out = augmented(flips_and_quarter_turns, x, seed=1)
    assert torch.equal(x, before)
    assert torch.equal(out[:, 0], out[:, 2])
    assert torch.equal(out.flatten(1).sort(1).values, x.flatten(1).sort(1).values)


def test_all_inputs_of_a_chip_turn_together_at_any_resolution() -> None:
    fine = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    turned = flips_and_quarter_turns([fine, None, coarse], torch.Generator().manual_seed(3))
    x, missing, y = turned
    assert x is not None
    assert missing is None
    assert y is not None
    assert not torch.equal(x, fine)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(x, 2), y)


def ramps(count: int, height: int, width: int) -> torch.Tensor:
    """Two bands with each pixel's place down and right, from 0 to 1 over the chip."""
    down = (torch.arange(height) + 0.5) / height
    right = (torch.arange(width) + 0.5) / width
    chip = torch.stack(torch.meshgrid(down, right, indexing="ij"))
    return chip.expand(count, *chip.shape).clone()


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (12, 18), (9, 9)])
def test_crops_lie_in_the_chip_and_keep_their_share(size: tuple[int, int], centered: bool) -> None:
    smallest, x = 0.25, ramps(800, *size)
    (out,) = crop([x], smallest, torch.Generator().manual_seed(1), centered=centered)
    assert out is not None
    assert out.shape == x.shape
    # What a pixel shows, away from the border, where there is nothing beyond to interpolate with.
    inner = out[:, :, 2:-2, 2:-2]
    down, right = (inner[:, 0, 1, 0] - inner[:, 0, 0, 0]), (inner[:, 1, 0, 1] - inner[:, 1, 0, 0])
    sides = torch.stack([down * size[0], right * size[1]])
    torch.testing.assert_close(sides[0], sides[1], rtol=1e-3, atol=1e-3)
    areas = sides[0] ** 2
    assert (areas > smallest - 1e-3).all()
    assert (areas < 1 + 1e-3).all()
    assert abs(float(areas.mean()) - (1 + smallest) / 2) < 0.03
    centers = inner.mean(dim=(2, 3))
    if centered:
        torch.testing.assert_close(centers, torch.full_like(centers, 0.5))
    else:
        assert float((centers - 0.5).abs().max()) > 0.2
        assert (centers - sides.T / 2 > -1e-3).all()
        assert (centers + sides.T / 2 < 1 + 1e-3).all()
        assert float(torch.corrcoef(centers.T)[0, 1].abs()) < 0.15


def test_a_centered_crop_keeps_the_central_pixel() -> None:
    x = torch.rand((50, 3, 9, 9), generator=torch.Generator().manual_seed(2))
    (out,) = crop([x], 0.3, torch.Generator().manual_seed(1), centered=True)
    assert out is not None
    torch.testing.assert_close(out[:, :, 4, 4], x[:, :, 4, 4])
    assert not torch.equal(out, x)


def test_all_inputs_of_a_chip_are_cropped_to_the_same_ground() -> None:
    fine, coarse = ramps(64, 24, 24), ramps(64, 8, 8)
    cropped = crop([fine, None, coarse], 0.3, torch.Generator().manual_seed(3), centered=False)
    x, missing, y = cropped
    assert x is not None
    assert missing is None
    assert y is not None
    shown = torch.nn.functional.avg_pool2d(x, 3)
    torch.testing.assert_close(shown[..., 1:-1, 1:-1], y[..., 1:-1, 1:-1])


def test_crops_stay_within_the_values_of_the_chip_and_repeat() -> None:
    x = torch.randn((40, 2, 7, 7), generator=torch.Generator().manual_seed(4))
    x[::2] = 0  # nothing but pixels without data
    outs = [crop([x], 0.1, torch.Generator().manual_seed(5), centered=False)[0] for _ in range(2)]
    assert outs[0] is not None
    assert outs[1] is not None
    assert torch.equal(outs[0], outs[1])
    assert not outs[0][::2].any()
    flat, out = x.flatten(2), outs[0].flatten(2)
    assert (out.amax(2) <= flat.amax(2) + 1e-6).all()
    assert (out.amin(2) >= flat.amin(2) - 1e-6).all()


@pytest.mark.parametrize("bands", [1, 2, 13, 200])
def test_jitter_changes_gain_and_offset_of_each_band_and_chip(bands: int) -> None:
    x = torch.randn((64, bands, 4, 4), generator=torch.Generator().manual_seed(1))
    out = augmented(jitter, x, 0.1)
    flat, changed = x.flatten(2), out.flatten(2)
    gain = (changed[..., 0] - changed[..., 1]) / (flat[..., 0] - flat[..., 1])
    offset = changed.mean(2) - gain * flat.mean(2)
    # one line through all pixels of a band
    assert torch.allclose(changed, gain[..., None] * flat + offset[..., None], atol=1e-3)
    assert 0.05 < float((gain - 1).std()) < 0.2
    assert 0.05 < float(offset.std()) < 0.2
    assert torch.equal(out, augmented(jitter, x, 0.1))


@pytest.mark.parametrize(("bands", "share"), [(1, 0.9), (2, 0.5), (13, 0.2), (4, 0.99)])
def test_bands_are_left_out_whole_and_never_all(bands: int, share: float) -> None:
    x = torch.ones((500, bands, 3, 3))
    out = augmented(drop_bands, x, share)
    kept = out.amax(dim=(2, 3))
    assert torch.equal(kept, out.amin(dim=(2, 3)))
    assert (kept.sum(dim=1) >= 1).all()
    if bands > 1:
        dropped = 1 - float(kept.mean())
        # what is kept against the odds is the best of a chip's bands
        expected = share - share**bands / bands
        assert abs(dropped - expected) < 0.05


@given(st.lists(st.booleans(), min_size=1, max_size=4).filter(any), st.integers(0, 2**31))
def test_one_of_the_modalities_that_are_there_always_stays(present: list[bool], seed: int) -> None:
    chips = [torch.zeros(2, 1, 4, 4) if is_present else None for is_present in present]
    kept = drop_modalities(chips, 0.999, torch.Generator().manual_seed(seed))
    assert sum(x is not None for x in kept) >= 1
    assert all(x is None or x is chip for x, chip in zip(kept, chips, strict=True))


def test_modalities_are_dropped_with_the_probability_given() -> None:
    generator = torch.Generator().manual_seed(0)
    chips = [torch.zeros(1, 1, 4, 4) for _ in range(3)]
    kept = [drop_modalities(chips, 0.3, generator) for _ in range(2000)]
    shares = np.mean([[x is None for x in batch] for batch in kept], axis=0)
    # 0.3 but for the batches that would lose all three, in which one stays
    np.testing.assert_allclose(shares, 0.3 - 0.3**3 / 3, atol=0.03)
    again = torch.Generator().manual_seed(0)
    repeated = [drop_modalities(chips, 0.3, again) for _ in range(2000)]
    assert [[x is None for x in b] for b in repeated] == [[x is None for x in b] for b in kept]
