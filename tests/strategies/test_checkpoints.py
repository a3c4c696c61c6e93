from pathlib import Path

import numpy as np
import pytest

import strategies.checkpoints
from rsdgc.errors import RunError
from strategies.checkpoints import Checkpoint, Checkpoints, plain_values, put_back


def checkpoint(number: int) -> Checkpoint:
    arrays = {
        "weights": np.full(100, number, np.float32),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros(0, np.uint8),
    }
    return Checkpoint(number, arrays, {"number": number})


def saved(tmp_path: Path, *numbers: int, keep: int = 2) -> Checkpoints:
    folder = Checkpoints(tmp_path, every=3, keep=keep)
    for number in numbers:
        folder.save(checkpoint(number))
    return folder


def test_the_last_ones_are_kept_and_come_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, 6, 9)
    assert folder.rounds() == [6, 9]
    found = list(folder.newest())
    assert [one.round for one in found] == [9, 6]
    assert found[0].values == {"number": 9}
    for name, array in checkpoint(9).arrays.items():
        np.testing.assert_array_equal(found[0].arrays[name], array)
        assert found[0].arrays[name].shape == array.shape


def test_they_are_due_every_so_many_rounds(tmp_path: Path) -> None:
    assert [n for n in range(1, 10) if Checkpoints(tmp_path, 3, 1).due(n)] == [3, 6, 9]
    assert not any(Checkpoints(tmp_path, 0, 1).due(n) for n in range(1, 10))
    assert Checkpoints(tmp_path / "none", 1, 1).rounds() == []


@pytest.mark.parametrize("at", [0, 20, 200, -1])
def test_a_damaged_one_is_passed_over_with_a_warning(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path, 3, 6)
    path = tmp_path / "checkpoints" / "round-000006.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    for wrong in (bytes(content), bytes(content[: len(content) // 2]), b""):
        path.write_bytes(wrong)
        assert [one.round for one in folder.newest()] == [3]
        assert "is damaged" in caplog.text
    path.rename(path.with_name("round-000007.safetensors"))
    assert [one.round for one in folder.newest()] == [3]


def test_a_full_disk_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, 3)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(strategies.checkpoints, "save_file", fail)
    with pytest.raises(RunError, match="No space left"):
        folder.save(checkpoint(6))
    assert folder.rounds() == [3]


def test_a_resumed_run_forgets_those_after_its_own(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, 6, 9, keep=3)
    folder.forget_after(6)
    assert folder.rounds() == [3, 6]


def test_plain_values_make_a_thing_as_it_was() -> None:
    class Thing:
        def __init__(self) -> None:
            self.settings = object()
            self.level, self.followed = 1.0, False
            self.shares = np.zeros(3)

    one, two = Thing(), Thing()
    one.level, one.followed, one.shares = 2.5, True, np.arange(3.0)
    put_back(two, *plain_values(one))
    assert (two.level, two.followed) == (2.5, True)
    np.testing.assert_array_equal(two.shares, one.shares)
    assert two.settings is not one.settings
