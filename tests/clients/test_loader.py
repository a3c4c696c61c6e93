from __future__ import annotations

import numpy as np
import pytest
import torch

from clients.loader import Chips, SplitLoader
from rsdgc.errors import DataError
from tests.clients.toys import CPU, Arrays, make_split, unit


def numbered(count: int, **settings: int | None) -> tuple[SplitLoader, Arrays]:
    """Chips that hold their own number; their labels are a tenth of it."""
    chips = np.arange(count, dtype=np.uint16)[:, None, None, None] * np.ones((1, 1, 4, 4), "u2")
    source = Arrays([chips, chips.astype(np.float32)])
    positions = np.arange(count)
    labels = positions // 10
    return SplitLoader(source, positions, labels, [unit(1), unit(1)], CPU, **settings), source


def joined(chips: Chips) -> torch.Tensor:
    (x,) = chips
    assert x is not None
    return x


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_a_model_that_is_not_stacked_takes_each_modality_by_itself(cache_bytes: int | None) -> None:
    rng = np.random.default_rng(0)
    fine, coarse = rng.random((9, 3, 8, 8)), rng.random((9, 2, 4, 4))
    split = SplitLoader(
        Arrays([fine.astype("f4"), coarse.astype("f4")]),
        np.arange(9),
        np.arange(9) % 2,
        [unit(3), unit(2)],
        CPU,
        stacked=False,
        cache_bytes=cache_bytes,
    )
    ((x, y), _), ((rest, _), _) = split.batches(6, None)
    assert x is not None
    assert y is not None
    assert rest is not None
    np.testing.assert_allclose(torch.cat([x, rest]).numpy(), fine, rtol=1e-6)
    np.testing.assert_allclose(y.numpy(), coarse[:6], rtol=1e-6)


@pytest.mark.parametrize("cache_bytes", [0, None])
@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("batch_size", [1, 8, 25, 100])
def test_every_chip_comes_once_with_its_label(
    cache_bytes: int | None, seed: int | None, batch_size: int
) -> None:
    split, _ = numbered(25, cache_bytes=cache_bytes)
    batches = [(joined(chips), y) for chips, y in split.batches(batch_size, seed)]
    assert [len(y) for _, y in batches[:-1]] == [batch_size] * (len(batches) - 1)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert x.shape == (25, 2, 4, 4)
    assert x.dtype == torch.float32
    numbers = x[:, 0, 0, 0].long()
    assert torch.equal(numbers // 10, y)
    assert torch.equal(x[:, 0], x[:, 1])
    order = numbers.tolist()
    assert (order == list(range(25))) == (seed is None)
    assert sorted(order) == list(range(25))


def test_streamed_and_cached_batches_are_equal() -> None:
    (cached, kept), (streamed, source) = numbered(25), numbered(25, cache_bytes=0)
    for (x, _), (other, _) in zip(cached.batches(7, 1), streamed.batches(7, 1), strict=True):
        assert torch.equal(joined(x), joined(other))
    assert (kept.reads, source.reads) == (1 + 1, 1 + 4)


def test_chips_are_streamed_if_the_memory_for_them_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: SplitLoader, first_chip: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = [joined(chips) for chips, _ in numbered(25)[0].batches(8, 1)]
    monkeypatch.setattr(SplitLoader, "_load_all", fail)
    split, _ = numbered(25)
    assert split.cached_bytes == 0
    assert "no memory for 25 chips: streaming them" in caplog.text
    for (chips, _), x in zip(split.batches(8, 1), expected, strict=True):
        assert torch.equal(joined(chips), x)


def test_a_cached_split_is_read_once() -> None:
    split, source = numbered(25)
    reads = source.reads
    for seed in range(3):
        list(split.batches(8, seed))
    assert source.reads == reads


def test_order_depends_on_the_seed_alone() -> None:
    split, _ = numbered(25)

    def order(seed: int) -> list[int]:
        return [int(n) for x, _ in split.batches(8, seed) for n in joined(x)[:, 0, 0, 0]]

    first = order(1)
    torch.rand(5)
    assert order(1) == first
    assert order(2) != first


def test_leaving_a_streamed_epoch_early_is_clean() -> None:
    split, _ = numbered(25, cache_bytes=0)
    batches = split.batches(4, None)
    next(batches)
    batches.close()


def test_a_reading_error_of_the_source_reaches_the_caller() -> None:
    split, source = numbered(25, cache_bytes=0)
    source.modalities = [array[:10] for array in source.modalities]
    with pytest.raises(IndexError):
        list(split.batches(4, None))


@pytest.mark.parametrize(
    ("positions", "labels", "modalities", "words"),
    [
        ([], [], 1, "no samples"),
        ([0, 1], [0], 1, "2 chips have 1 labels"),
        ([0], [-1], 1, "label -1"),
        ([0], [0], 2, "1 modalities have 2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    positions: list[int], labels: list[int], modalities: int, words: str
) -> None:
    source = Arrays([np.zeros((4, 1, 8, 8), np.uint8)])
    with pytest.raises(DataError, match=words):
        SplitLoader(source, np.array(positions), np.array(labels), [unit(1)] * modalities, CPU)


def test_bands_must_fit_the_statistics() -> None:
    source = Arrays([np.zeros((4, 3, 8, 8), np.uint8)])
    with pytest.raises(DataError, match=r"\(3, 8, 8\).*2 bands"):
        SplitLoader(source, np.arange(4), np.zeros(4), [unit(2)], CPU)


def test_labels_outside_the_class_list_are_refused() -> None:
    split = make_split(classes=3)
    split.check_labels(3)
    with pytest.raises(DataError, match="label 2 is outside the list of 2"):
        split.check_labels(2)


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_balanced_batches_draw_every_class_as_often(cache_bytes: int | None) -> None:
    """Chips 0 to 9 are of class 0, and so on; the last class has three, and one is empty."""
    chips = np.arange(1203, dtype=np.uint16)[:, None, None, None] * np.ones((1, 1, 2, 2), "u2")
    labels = np.repeat([0, 2, 3], [400, 800, 3])
    source = Arrays([chips])
    split = SplitLoader(source, np.arange(1203), labels, [unit(1)], CPU, cache_bytes=cache_bytes)
    batches = [(joined(x), y) for x, y in split.batches(100, 5, balanced=True)]
    assert [len(y) for _, y in batches] == [100] * 12 + [3]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    numbers = x[:, 0, 0, 0].long()
    assert torch.equal(y, torch.from_numpy(labels)[numbers])
    counts = torch.bincount(y, minlength=4)
    assert counts[1] == 0
    assert (counts[[0, 2, 3]] - 401).abs().max() < 60
    assert len(set(numbers[y == 3].tolist())) == 3
    assert len(set(numbers[y == 2].tolist())) > 250
    again, _ = next(split.batches(100, 5, balanced=True))
    other, _ = next(split.batches(100, 6, balanced=True))
    assert torch.equal(joined(again), batches[0][0])
    assert not torch.equal(joined(other), batches[0][0])


def test_a_split_counts_its_classes() -> None:
    assert numbered(25)[0].class_counts().tolist() == [10, 10, 5]
