"""A CUDA device without a GPU: PyTorch's fake tensors know shape, type and device, but no values.

Operations that mix devices fail as they would on a GPU. Whatever makes the host wait for the device
is counted: values that the host reads (every one of them is 1), and copies to the device from
memory that is not pinned.

What cannot be had without a GPU: the backward pass needs a CUDA context, so that here it only gives
gradients of zeros to the parameters that would get some. The fused kernel of SGD has no fake;
PyTorch's other implementation stands in. Streams and events do nothing. Whatever a second thread
does is done by the first one, where the fake device is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.cuda.amp.common
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from clients import loader, optimizers

GPU = torch.device("cuda", 0)
ATEN = torch.ops.aten


class FakeDevice(FakeTensorMode):
    """Counts what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is ATEN._local_scalar_dense.default:
            self.waits += args[0].device.type == "cuda"
            return 1.0 if args[0].is_floating_point() else 1
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func in (ATEN.copy_.default, ATEN._to_copy.default):
            source = args[1] if func is ATEN.copy_.default else args[0]
            non_blocking = (kwargs or {}).get("non_blocking") or True in args[2:]
            self.waits += source.device.type != result.device.type and not non_blocking
        return result


@contextmanager
def fake_cuda(*, has_bf16: bool = True) -> Iterator[FakeDevice]:
    """Let tensors be on :data:`GPU`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in {
            "current_device": 0,
            "current_stream": _Stream(),
            "get_rng_state": None,
            "is_bf16_supported": has_bf16,
            "mem_get_info": (8 << 30, 16 << 30),
            "memory_allocated": 0,
            "memory_reserved": 0,
            "set_rng_state": None,
            "stream": nullcontext(),
        }.items():
            patch.setattr(torch.cuda, name, partial(_answer, answer))
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "Event", _Stream)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(Tensor, "record_stream", _Stream.wait_event)
        # It draws again until all values are near enough, and every value that is read is 1.
        patch.setattr(torch.nn.init, "_no_grad_trunc_normal_", lambda tensor, *_, **__: tensor)
        patch.setattr(torch.autograd, "backward", _give_gradients)
        patch.setattr(optimizers, "sgd", partial(_unfused, optimizers.sgd))
        patch.setattr(loader, "ThreadPoolExecutor", _SameThread)
        patch.setattr(loader.SplitLoader, "_order", outside(loader.SplitLoader._order))
        with FakeDevice() as device:
            yield device


class _Stream:
    """Stands in for a stream or an event."""

    def __init__(self, *_: object) -> None:
        pass

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def wait_event(self, event: object) -> None: ...


class _SameThread(nullcontext[Any]):
    """Stands in for an executor: a fake device is known to the thread that entered it alone."""

    def __init__(self, **_: object) -> None:
        super().__init__(self)

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args))
        return future


def _answer(answer: Any, *_: object, **__: object) -> Any:
    return answer


def outside(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes real values, although a fake device is entered."""

    def real(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return draw(*args, **kwargs)

    return real


def _unfused(
    update: Callable[..., None], *args: Any, fused: bool, found_inf: Tensor | None, **kwargs: Any
) -> None:
    assert found_inf is None or found_inf.device == GPU
    update(*args, foreach=False, **kwargs)


def _give_gradients(loss: Tensor) -> None:
    assert loss.device == GPU
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            gradient = torch.zeros_like(leaf)
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
