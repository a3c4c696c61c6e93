from __future__ import annotations

import torch

from clients.augment import flips_and_quarter_turns


def ways(x: torch.Tensor, count: int = 400) -> dict[tuple[float, ...], int]:
    out = flips_and_quarter_turns(x.expand(count, *x.shape[1:]), torch.Generator().manual_seed(0))
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
    out = flips_and_quarter_turns(x, torch.Generator().manual_seed(1))
    assert torch.equal(x, before)
    assert torch.equal(out[:, 0], out[:, 2])
    assert torch.equal(out.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
