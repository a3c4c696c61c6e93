from __future__ import annotations

import pytest
import torch

from clients.device import choose_device
from rsdgc.errors import SettingError


@pytest.mark.parametrize(("present", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(
    present: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_absent_cuda_and_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="'auto'"):
        choose_device("cuda")
    with pytest.raises(SettingError, match=r"'tpu'.*auto, cpu, cuda"):
        choose_device("tpu")
