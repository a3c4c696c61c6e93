"""Compression of a series of gradients, or of a model's changes, inside a byte budget.

Everything that one worker needs, without a server that steers it: gradient clipping, momentum
correction with factor masking, error feedback (:mod:`rsdgc.feedback` has the equations), layer
ratios that follow the training, and warm-up (:mod:`rsdgc.compression`). With gradient g of one of N
workers, velocity u and residual r, a step is::

    g ← g · min(1, clip_norm / (√N · ‖g‖))        u ← m · u + g        r ← r + u
    d = decode(encode(r))        r ← r − d        u ← 0 where d was sent

A layer whose gradient is zero everywhere takes no part in a step, as PyTorch skips a parameter that
has no gradient: nothing of it is sent, and its velocity and residual stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rsdgc.arguments import check_whole
from rsdgc.arrays import (
    Bools,
    Float32,
    Float64,
    add_scaled,
    check_finite,
    check_flat,
    l2_norm,
    max_magnitude,
)
from rsdgc.compression import Compression, budget_of_step, warm_up_exponent
from rsdgc.compressor import Compressor
from rsdgc.errors import RsdgcError, SettingError
from rsdgc.feedback import compress_with_feedback, mask_velocity
from rsdgc.ratios import fit_ratios, uniform_shares, update_shares, weight_shares
from rsdgc.spec import ModelSpec
from rsdgc.update import SparseUpdate, Stamp


@dataclass(frozen=True, eq=False)
class CompressorState:
    """What a :class:`BudgetCompressor` remembers; its arrays are not copied.

    ``residual`` is float32 [spec.size], ``velocity`` too, or empty without momentum correction;
    ``ratios`` is float64 [num_layers].
    """

    step: int
    residual: Float32
    velocity: Float32
    ratios: Float64


class BudgetCompressor:
    """Compresses one model's gradients or changes, step by step, with error feedback.

    ::

        compressor = BudgetCompressor(spec, Compression("100x"))
        payload = compressor.compress(spec.views(change)).payload

    Parameters
    ----------
    spec : ModelSpec
        The model.
    compression : Compression
        How much is sent, and in which form.
    workers : int
        N, the number of workers whose gradients are averaged; for clipping.

    Attributes
    ----------
    step : int
        Steps so far.
    residual : float32 [spec.size]
        What has not been sent.
    ratios : float64 [num_layers]
        Of the last compressed step.

    Raises
    ------
    SettingError
        The budget is too small for this model, the names of the ratios are not its layers, or
        ``workers`` is not a whole number of at least 1.
    """

    def __init__(
        self, spec: ModelSpec, compression: Compression | None = None, workers: int = 1
    ) -> None:
        check_whole("workers", workers, 1)
        self.spec = spec
        self.compression = Compression.checked(compression)
        self.step = 0
        self.residual: Float32 = np.zeros(spec.size, np.float32)
        self._velocity: Float32 = np.zeros(
            spec.size if self.compression.momentum else 0, np.float32
        )
        self._workers = workers
        self._compressor = Compressor(spec, self.compression.scheme, self.compression.indicator)
        self._fixed_ratios = self._named_ratios()
        self.ratios: Float64 = np.ones(len(spec.layers))
        self._fitted_step = -1
        if self._fixed_ratios is None:
            # A budget that is too small is refused now, not in the first step of a long training.
            last = self.compression.dense_steps + self.compression.warm_up_steps
            self._even_ratios(budget_of_step(self.compression, spec.dense_bytes, last))

    @property
    def is_dense(self) -> bool:
        """Whether the next step sends everything."""
        return budget_of_step(self.compression, self.spec.dense_bytes, self.step) >= (
            self.spec.dense_bytes
        )

    def add(self, gradients: Sequence[Float32 | None]) -> Bools:
        """Clip a step's gradients, correct their momentum, and add them to the residual.

        :meth:`encode` or :meth:`send_everything` completes the step.

        Parameters
        ----------
        gradients : sequence of (float32 [layer.size] or None), one for each layer
            Flat, and not changed. None is a layer without a gradient.

        Returns
        -------
        bool [num_layers]
            Which layers take part.

        Raises
        ------
        SettingError
            The gradients are not those of the model's layers; nothing has changed.
        RsdgcError
            A gradient holds NaN or infinity. The message names the layer; nothing has changed.
        """
        present = self._check(gradients)
        scale = self._clip_scale(gradients, present)
        velocities: Sequence[Float32] = self.spec.views(self._velocity) if self._corrects else ()
        for index, residual in enumerate(self.spec.views(self.residual)):
            gradient = gradients[index]
            if gradient is None or not present[index]:
                continue
            if self._corrects:
                velocity = velocities[index]
                velocity *= np.float32(self.compression.momentum)
                _add(velocity, gradient, scale)
                _add(residual, velocity, 1.0)
            else:
                _add(residual, gradient, scale)
        return present

    def encode(self, present: Bools, weights: Callable[[], Float32] | None = None) -> SparseUpdate:
        """Encode the residual inside the step's budget, and keep what the update leaves out.

        Parameters
        ----------
        present : bool [num_layers]
            Layers that take part, as :meth:`add` returns them.
        weights : callable, optional
            Returns the model's weights, float32 [spec.size]; the policy ``"weight"`` needs them.

        Returns
        -------
        SparseUpdate
            What was sent, as a decoder finds it in its ``payload``. The stamp's round is the step.

        Raises
        ------
        SettingError
            The policy needs the weights.
        RsdgcError
            The residual has left the range of float32.
        """
        budget = budget_of_step(self.compression, self.spec.dense_bytes, self.step)
        self._fit(budget, weights)
        ratios = np.where(present, self.ratios, 0.0)
        stamp = Stamp(round=self.step)
        sent = compress_with_feedback(self._compressor, self.residual, ratios, stamp, budget)
        if self._corrects and self.compression.factor_masking:
            mask_velocity(self._velocity, sent)
        self.step += 1
        return sent

    def send_everything(self) -> Float32:
        """Return the residual, float32 [spec.size], for a dense step; the caller may change it.

        The velocity stays: a step that sends everything is a step of plain momentum.
        """
        self.step += 1
        everything = self.residual
        self.residual = np.zeros(self.spec.size, np.float32)
        return everything

    def compress(
        self,
        gradients: Sequence[Float32 | None],
        weights: Callable[[], Float32] | None = None,
    ) -> SparseUpdate:
        """Take a whole step: :meth:`add`, then :meth:`encode`, with their arguments and errors."""
        self._check_weights(weights)  # before the gradients are added, which is done once
        return self.encode(self.add(gradients), weights)

    def roll_back(self, update: SparseUpdate) -> None:
        """Add an update that did not arrive to the residual again."""
        update.add_to(self.residual)

    def state(self) -> CompressorState:
        """Return what a resumed training needs."""
        return CompressorState(self.step, self.residual, self._velocity, self.ratios)

    def restore(self, state: CompressorState) -> None:
        """Continue from what :meth:`state` returned, bit for bit as without an interruption.

        Raises
        ------
        SettingError
            The state is of another model or of other settings.
        """
        for what, values, expected in (
            ("residual", state.residual, self.residual),
            ("velocity", state.velocity, self._velocity),
            ("ratios", state.ratios, self.ratios),
        ):
            if values.shape != expected.shape:
                raise SettingError(
                    f"the saved {what} has {values.size} elements, not {expected.size}: load it "
                    "with the model and the compression that it was saved with"
                )
        self.step = state.step
        self.residual = np.array(state.residual, np.float32)
        self._velocity = np.array(state.velocity, np.float32)
        self.ratios = np.array(state.ratios, np.float64)
        self._fitted_step = self._last_fit(self.step - 1)

    @property
    def _corrects(self) -> bool:
        return self.compression.momentum > 0

    def _check(self, gradients: Sequence[Float32 | None]) -> Bools:
        """Return which layers have a gradient other than zero; raise if one cannot be added."""
        num_layers = len(self.spec.layers)
        if len(gradients) != num_layers:
            raise SettingError(f"{len(gradients)} gradients: pass {num_layers}, one for each layer")
        present = np.zeros(num_layers, np.bool_)
        for index, (layer, gradient) in enumerate(zip(self.spec.layers, gradients, strict=True)):
            if gradient is None:
                continue
            check_flat(gradient, layer.size, f"the gradient of layer {layer.name!r}")
            largest = max_magnitude(gradient)
            try:
                check_finite(largest)
            except RsdgcError as error:
                raise RsdgcError(f"layer {layer.name!r}: {error}") from None
            present[index] = largest > 0
        return present

    def _clip_scale(self, gradients: Sequence[Float32 | None], present: Bools) -> float:
        limit = self.compression.clip_norm / math.sqrt(self._workers)
        if not limit:
            return 1.0
        chosen = zip(gradients, present, strict=True)
        norm = math.hypot(*(l2_norm(each) for each, is_in in chosen if is_in and each is not None))
        return min(1.0, limit / norm) if norm else 1.0

    def _last_fit(self, step: int) -> int:
        """Return the latest step up to this one at which ratios are computed; -1 if there is none.

        A pure function of the step, so that a resumed training computes them at the same steps.
        """
        start = self.compression.dense_steps
        if step < start:
            return -1
        exponent = warm_up_exponent(self.compression, step)
        latest = start + (step - start) // self.compression.ratios_every * (
            self.compression.ratios_every
        )
        # A stage of the warm-up may start between two of these steps.
        while latest < step and warm_up_exponent(self.compression, latest) != exponent:
            latest += 1
        return latest

    def _fit(self, budget: float, weights: Callable[[], Float32] | None) -> None:
        due = self._last_fit(self.step)
        if due == self._fitted_step:
            return
        self._check_weights(weights)
        self._fitted_step = due
        if self._fixed_ratios is not None:
            self.ratios = self._fixed_ratios ** warm_up_exponent(self.compression, self.step)
            return
        shares = self._shares(budget, weights)
        dense_share = self.compression.dense_share
        self.ratios = fit_ratios(
            self.spec, self.compression.scheme, shares, budget, dense_share=dense_share
        )

    def _check_weights(self, weights: Callable[[], Float32] | None) -> None:
        by_weight = self.compression.policy == "weight" and self._fixed_ratios is None
        if weights is None and by_weight and self._last_fit(self.step) != self._fitted_step:
            raise SettingError("policy='weight' needs the model's weights: pass weights")

    def _shares(self, budget: float, weights: Callable[[], Float32] | None) -> Float64:
        top_share = self.compression.top_share
        match self.compression.policy:
            case "weight":
                assert weights is not None  # checked
                return weight_shares(self.spec, weights(), top_share or 0.5)
            case "update":
                # What one global threshold would keep at this budget.
                sizes = np.diff(self.spec.offsets)
                density = float(self._even_ratios(budget) @ sizes) / self.spec.size
                scheme = self.compression.scheme
                return update_shares(self.spec, scheme, self.residual, top_share or density)
            case "uniform":
                return uniform_shares(self.spec)

    def _even_ratios(self, budget: float) -> Float64:
        shares = uniform_shares(self.spec)
        return fit_ratios(
            self.spec, self.compression.scheme, shares, budget, self.compression.dense_share
        )

    def _named_ratios(self) -> Float64 | None:
        given = self.compression.ratios
        if given is None:
            return None
        names = [layer.name for layer in self.spec.layers]
        if set(names) != set(given):
            odd = sorted(set(names) ^ set(given))[0]
            kind = "has no ratio" if odd in names else "has a ratio and is not in the model"
            raise SettingError(f"layer {odd!r} {kind}: give each layer of the model one")
        return np.array([given[name] for name in names], np.float64)


def _add(target: Float32, values: Float32, scale: float) -> None:
    if scale == 1.0:
        target += values
    else:
        add_scaled(target, values, scale)
