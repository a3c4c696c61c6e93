from __future__ import annotations

import numpy as np
import torch
from torch import nn

from clients.evaluation import score_model
from clients.loader import SplitLoader
from tests.clients.toys import CPU, Arrays, TinyNet, make_split, unit


class Says(nn.Module):
    """Says the class that the chip's pixels hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 50.0 * nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float()


def test_rows_are_the_reference() -> None:
    said = np.array([0, 1, 1, 2, 2], np.uint8)
    source = Arrays([said[:, None, None, None]])
    split = SplitLoader(source, np.arange(5), np.array([0, 1, 0, 2, 1]), [unit(1)], CPU)
    result = score_model(Says(), split, 3, batch_size=2)
    assert result.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert result.confusion.dtype == np.int64
    assert result.samples == 5
    assert result.loss == np.float32(2 * 50 / 5)


def test_scoring_changes_nothing_and_does_not_depend_on_the_batch() -> None:
    model, split = TinyNet(dropout=0.5), make_split()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (score_model(model, split, 3, batch_size=size) for size in (5, 24))
    np.testing.assert_array_equal(first.confusion, second.confusion)
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_site_without_a_test_split_counts_nothing() -> None:
    result = score_model(TinyNet(), None, 3)
    assert result.samples == 0
    assert result.loss == 0
