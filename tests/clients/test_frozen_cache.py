"""A site's frozen part: built, found on the machine, received, or asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from clients.frozen_cache import FrozenPartMissing, load_frozen_part
from clients.model_parts import ModelParts
from clients.state_cleanup import clean_states
from rsdgc.errors import RunError, StateError
from tests.clients.test_state_cleanup import make_states


def make_parts(seed: int) -> ModelParts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    nn.init.uniform_(model[1].running_mean)
    return ModelParts(model)


def test_it_holds_what_is_frozen_and_the_statistics_before_training() -> None:
    part = make_parts(0).frozen_part()
    assert list(part.arrays) == ["0.weight", "0.bias", "1.running_mean", "1.running_var"]


def test_an_equal_part_needs_nothing(tmp_path: Path) -> None:
    load_frozen_part(make_parts(0), make_parts(0).frozen_part().digest, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_received_part_is_kept_for_all_sites_and_later_runs(tmp_path: Path) -> None:
    server = make_parts(0)
    part, site = server.frozen_part(), make_parts(1)
    with pytest.raises(FrozenPartMissing):
        load_frozen_part(site, part.digest, tmp_path, None)
    load_frozen_part(site, part.digest, tmp_path, part.pack())
    assert site.frozen_part().digest == part.digest
    assert torch.equal(site.model[1].running_mean, server.model[1].running_mean)
    assert not torch.equal(site.model[3].weight, server.model[3].weight)
    other = make_parts(2)
    load_frozen_part(other, part.digest, tmp_path, None)
    assert other.frozen_part().digest == part.digest


class Constants(nn.Module):
    """Buffers that are never sent in a round, of types that NumPy lacks, too."""

    def __init__(self, value: int) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.register_buffer("order", torch.full((3,), value))
        self.register_buffer("flag", torch.tensor(value > 0))
        self.register_buffer("mask", torch.tensor([value, -torch.inf]))
        self.register_buffer("gain", torch.full((2, 2), value, dtype=torch.bfloat16), False)
        self.register_buffer("phase", torch.full((2,), value * 1j), False)
        self.register_buffer("empty", torch.zeros(0, dtype=torch.int32))
        self.norm = nn.BatchNorm2d(2)


def test_constants_are_compared_and_sent_whatever_their_type(tmp_path: Path) -> None:
    server, site = ModelParts(Constants(1)), ModelParts(Constants(0))
    part = server.frozen_part()
    assert "norm.num_batches_tracked" not in part.arrays
    assert {"order", "flag", "mask", "gain", "phase"} <= set(part.arrays)
    load_frozen_part(site, part.digest, tmp_path, part.pack())
    assert site.frozen_part().digest == part.digest
    site.load_vector(site.vector())  # constants return to the values of the server
    for name, buffer in server.model.named_buffers():
        assert torch.equal(site.model.get_buffer(name), buffer)
    load_frozen_part(ModelParts(Constants(2)), part.digest, tmp_path, None)


def test_a_damaged_file_is_asked_for_again_and_replaced(tmp_path: Path) -> None:
    part, site = make_parts(0).frozen_part(), make_parts(1)
    load_frozen_part(site, part.digest, tmp_path, part.pack())
    (path,) = (tmp_path / "frozen").iterdir()
    for content in (b"", part.pack()[:-1] + b"\x00", part.pack() + b"\x00"):
        path.write_bytes(content)
        with pytest.raises(FrozenPartMissing, match="cannot be used"):
            load_frozen_part(make_parts(1), part.digest, tmp_path, None)
    load_frozen_part(make_parts(1), part.digest, tmp_path, part.pack())
    assert path.read_bytes() == part.pack()


@pytest.mark.parametrize("change", [lambda b: b[:-4], lambda b: b + b"\0", lambda b: bytes(len(b))])
def test_a_damaged_or_hostile_part_changes_nothing(tmp_path: Path, change: object) -> None:
    part, site = make_parts(0).frozen_part(), make_parts(1)
    before = make_parts(1).frozen_part().digest
    with pytest.raises(RunError, match="frozen part"):
        load_frozen_part(site, part.digest, tmp_path, change(part.pack()))
    assert site.frozen_part().digest == before
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    part = make_parts(0).frozen_part()
    (tmp_path / "frozen").write_text("")
    with pytest.raises(StateError, match="set another state-dir"):
        load_frozen_part(make_parts(1), part.digest, tmp_path, part.pack())


def test_parts_are_cleaned_by_their_last_use(tmp_path: Path) -> None:
    make_states(tmp_path)
    part = make_parts(0).frozen_part()
    load_frozen_part(make_parts(1), part.digest, tmp_path, part.pack())
    (path,) = (tmp_path / "frozen").iterdir()
    for chosen in ({"run": "1"}, {"site": "a"}, {"older_than_days": 1.0}):
        list(clean_states(tmp_path, delete=True, **chosen))
        assert path.exists()
    os.utime(path, (0, 0))
    (cleaned,) = clean_states(tmp_path, older_than_days=1.0)
    assert str(cleaned) == f"frozen part {part.digest.hex()[:8]}: 0.0 MB, can go"
    load_frozen_part(make_parts(1), part.digest, tmp_path, None)
    assert not list(clean_states(tmp_path, older_than_days=1.0))
    list(clean_states(tmp_path, delete=True))
    assert not path.exists()
