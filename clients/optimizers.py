"""The optimizers of local training, new in each round.

They call PyTorch's functions :func:`torch.optim.sgd.sgd` and :func:`torch.optim.adamw.adamw`, as
``torch.optim.SGD`` and ``torch.optim.AdamW`` do. Creating one of those would import PyTorch's
compiler, which takes longer than a small site trains, and Flower handles every message in a process
of its own.

A parameter without a gradient is skipped, as PyTorch does: no decay, no momentum. A network has
such parameters in the branch of a modality that the site lacks, for instance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

ADAMW_SECOND_BETA = 0.999
"""Decay of the mean of squared gradients, the default of PyTorch and of the paper."""


class Optimizer(ABC):
    """Changes parameters by their gradients.

    Parameters
    ----------
    model : torch.nn.Module
        Whose trainable parameters are changed, in place.
    lr : float
        Learning rate.
    momentum : float
        Share of the last step that the next one keeps, from 0 to below 1; β₁ of AdamW.
    weight_decay : float
        L2 penalty of SGD; decoupled decay of AdamW.
    """

    #: values that are kept for each parameter, at most
    states = 1

    # What torch.amp.GradScaler asks of an optimizer and sets for a step, so that a step with
    # infinite gradients is skipped on the device, without making the host wait for it.
    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self, model: nn.Module, *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        #: the trainable parameters, in the model's order
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """All parameters, as :class:`torch.amp.GradScaler` looks for them."""
        return [{"params": self.parameters}]

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient, then drop the gradients."""
        self._update([p for p in self.parameters if p.grad is not None])
        for parameter in self.parameters:
            parameter.grad = None  # the next backward pass then writes instead of adding

    @abstractmethod
    def _update(self, parameters: list[Tensor]) -> None:
        """Change parameters, which all have a gradient."""


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``."""

    nesterov = False

    def __init__(
        self, model: nn.Module, *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(model, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._buffers: dict[Tensor, Tensor] = {}

    def _update(self, parameters: list[Tensor]) -> None:
        # The fused kernel takes parameters that all have a momentum buffer, or none of them.
        new = [p for p in parameters if p not in self._buffers]
        self._update_alike([p for p in parameters if p in self._buffers])
        self._update_alike(new)

    def _update_alike(self, parameters: list[Tensor]) -> None:
        buffers = [self._buffers.get(p) for p in parameters]
        if self.found_inf is not None and self.momentum:
            # A skipped first step would leave the buffers undefined.
            buffers = [
                torch.zeros_like(p) if buffer is None else buffer
                for p, buffer in zip(parameters, buffers, strict=True)
            ]
        sgd(
            parameters,
            _gradients(parameters),
            buffers,
            fused=True,  # one kernel for all layers, on the CPU as on a GPU
            found_inf=self.found_inf,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
        )
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if buffer is not None:
                self._buffers[parameter] = buffer


class NesterovSgd(Sgd):
    """SGD with Nesterov's momentum."""

    nesterov = True


class AdamW(Optimizer):
    """Adam with decoupled weight decay [1]_, as ``torch.optim.AdamW``.

    Only matrices and convolution kernels decay. Biases and the scales and shifts of normalization
    do not, as is usual where transformers are trained, and as timm does by default.

    .. [1] Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019.
    """

    states = 2

    def __init__(
        self, model: nn.Module, *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(model, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._means: dict[Tensor, Tensor] = {}
        self._squares: dict[Tensor, Tensor] = {}
        # On the parameter's device, where the fused kernel counts the steps.
        self._steps: dict[Tensor, Tensor] = {}

    def _update(self, parameters: list[Tensor]) -> None:
        self._update_alike([p for p in parameters if p.ndim > 1], self.weight_decay)
        self._update_alike([p for p in parameters if p.ndim <= 1], 0.0)

    def _update_alike(self, parameters: list[Tensor], weight_decay: float) -> None:
        for parameter in parameters:
            if parameter not in self._steps:
                self._means[parameter] = torch.zeros_like(parameter)
                self._squares[parameter] = torch.zeros_like(parameter)
                self._steps[parameter] = torch.zeros((), device=parameter.device)
        adamw(
            parameters,
            _gradients(parameters),
            [self._means[p] for p in parameters],
            [self._squares[p] for p in parameters],
            [],
            [self._steps[p] for p in parameters],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=self.momentum,
            beta2=ADAMW_SECOND_BETA,
            lr=self.lr,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": Sgd,
    "sgd-nesterov": NesterovSgd,
    "adamw": AdamW,
}
"""Optimizers by the name that the setting ``optimizer`` has."""


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]  # for mypy: all have one
