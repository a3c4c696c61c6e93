"""The order of events in copies to a GPU, with stand-ins for CUDA's streams and events."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from clients.transfers import BatchCopier, send
from tests.clients.toys import CPU


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List what happens to events and buffers, in order."""
    happened: list[str] = []
    events: list[str] = []
    empty = torch.empty

    class Event:
        def __init__(self) -> None:
            self.name = f"event {len(events)}"
            events.append(self.name)

        def synchronize(self) -> None:
            happened.append(f"host waits for {self.name}")

        def record(self) -> None:
            happened.append(f"record {self.name}")

    class Stream:
        def __init__(self, *_: object) -> None: ...

        def wait_event(self, event: Event) -> None:
            happened.append(f"stream waits for {event.name}")

    def pinned(*shape: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        if pin_memory:
            happened.append("pin a buffer")
        return empty(*shape, **kwargs)

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda *_: happened.append("keep the memory")
    )
    return happened


def test_a_buffer_is_used_again_once_its_copy_is_done(log: list[str]) -> None:
    copier = BatchCopier(CPU)
    for number in range(3):
        (sent,) = copier.receive(*copier.send([torch.full((4, 2), number)]))
        assert torch.equal(sent, torch.full((4, 2), number))
    end = ["keep the memory"]
    assert log == [
        *("host waits for event 0", "pin a buffer", "record event 0", "stream waits for event 0"),
        *end,
        *("host waits for event 1", "pin a buffer", "record event 1", "stream waits for event 1"),
        *end,
        *("host waits for event 0", "record event 0", "stream waits for event 0"),
        *end,
    ]


def test_buffers_grow_with_the_batch_and_fit_its_type(log: list[str]) -> None:
    copier = BatchCopier(CPU)
    for tensor in (
        torch.arange(6).view(3, 2),
        torch.arange(4).view(2, 2),  # the other buffer
        torch.arange(2).view(1, 2),  # the last batch of an epoch is smaller
        torch.arange(8).view(4, 2),
        torch.arange(3.0),
    ):
        (sent,), _ = copier.send([tensor])
        assert torch.equal(sent, tensor)
    assert log.count("pin a buffer") == 4


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(3)
    assert send(tensor, CPU) is tensor
