"""Rival methods of other authors, with real bytes, beside the app's own methods.

Each takes the changes of all sites of a round, sends them inside a byte budget, and returns the
step of the global model. What is counted is what was serialized. What arrives is decoded from it.

``sparseloco``
    SparseLoCo (arXiv 2508.15706): the k largest elements of every chunk of 4096, in 2 bits each,
    and a residual that decays by 0.95 a round. k follows from the budget. The positions are in
    Golomb-Rice code, which is shorter than the coding of the paper (8.9 bits a position). The four
    values of a layer are the means of small and large magnitudes with either sign, in float16.
``ef21``
    EF21 (arXiv 2106.05203): site and server keep the same estimate of the site's change, and what
    is sent is the compressed difference between change and estimate. It is compressed as the app's
    ``topk`` does: largest elements, int8 values, coded positions.
``powersgd``
    PowerSGD (arXiv 1905.13727) with error feedback and warm start: every layer as a matrix of
    output channels by all else, in one step of power iteration. The rank follows from the budget,
    and is at least 1. Factors and vectors (biases, norms) are sent in float16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.federated_training import Flat
from fl_app.settings import Settings
from rsdgc import Compressor, ModelSpec, Stamp, make_indicator
from rsdgc.arrays import Int64
from rsdgc.codec.byte_stream import ByteReader, encode_varint
from rsdgc.codec.golomb_rice import RiceReader, RiceWriter, best_rice, gaps_of
from strategies.rate_control import RateControl

Half: TypeAlias = NDArray[np.float16]
CHUNK_SIZE = 4096
RESIDUAL_DECAY = 0.95
FLOAT16_BYTES = 2


class Rival(ABC):
    """One method at all sites and at the server.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    shares : sequence of float
        Weight of every site in the mean; they add up to 1.
    budget_bytes : float
        Size of an upload.

    Attributes
    ----------
    bytes_up, bytes_down : float
        Of a site in the last round; down in the way of the method's own paper.
    """

    def __init__(self, spec: ModelSpec, shares: Sequence[float], budget_bytes: float) -> None:
        self.spec, self.shares, self.budget_bytes = spec, shares, budget_bytes
        self.bytes_up = self.bytes_down = 0.0

    @abstractmethod
    def step(self, changes: Sequence[Flat], number: int) -> Flat:
        """Send the changes of a round, each float32 [spec.size]; return the global step."""

    def _zeros(self) -> list[Flat]:
        return [np.zeros(self.spec.size, np.float32) for _ in self.shares]

    def _mean(self, vectors: Sequence[Flat]) -> Flat:
        total = np.zeros(self.spec.size, np.float32)
        for share, vector in zip(self.shares, vectors, strict=True):
            total += np.float32(share) * vector
        return total


class SparseLoCo(Rival):
    """Chunked top-k in two bits; each site receives the uploads of all others."""

    def __init__(self, spec: ModelSpec, shares: Sequence[float], budget_bytes: float) -> None:
        super().__init__(spec, shares, budget_bytes)
        self._residuals = self._zeros()

    def step(self, changes: Sequence[Flat], number: int) -> Flat:
        """Send residual times its decay plus change, and keep what is left out."""
        uploads, sizes = [], []
        for index, change in enumerate(changes):
            total = np.float32(RESIDUAL_DECAY) * self._residuals[index] + change
            payload = encode_chunks(self.spec, total, self.budget_bytes)
            sent = decode_chunks(self.spec, payload)
            self._residuals[index] = total - sent
            uploads.append(sent)
            sizes.append(len(payload))
        self.bytes_up = float(np.mean(sizes))
        self.bytes_down = self.bytes_up * (len(sizes) - 1)
        return self._mean(uploads)


class EF21(Rival):
    """Compressed differences from an estimate that both ends keep; the whole model down."""

    def __init__(self, spec: ModelSpec, shares: Sequence[float], budget_bytes: float) -> None:
        super().__init__(spec, shares, budget_bytes)
        settings = Settings.from_mapping({"method": "topk"})
        scheme = settings.scheme()
        self._compressor = Compressor(spec, scheme, make_indicator(settings.resolved("indicator")))
        self._rates = RateControl(spec, scheme, "uniform", budget_bytes)
        self._estimates = self._zeros()
        self.bytes_down = float(spec.dense_bytes)

    def step(self, changes: Sequence[Flat], number: int) -> Flat:
        """Move the estimates of the changes; the step is their mean."""
        sizes, rates = [], self._rates
        for estimate, change in zip(self._estimates, changes, strict=True):
            stamp = Stamp(1, number, number - 1)
            difference = change - estimate
            sent = self._compressor.compress(difference, rates.ratios, stamp, rates.target_bytes)
            sent.add_to(estimate)
            sizes.append(len(sent.payload))
        self.bytes_up = float(np.mean(sizes))
        step = self._mean(self._estimates)
        rates.adjust(step, step, self.bytes_up)
        return step


class PowerSGD(Rival):
    """Factors of low rank; each site receives the means of the factors."""

    def __init__(self, spec: ModelSpec, shares: Sequence[float], budget_bytes: float) -> None:
        super().__init__(spec, shares, budget_bytes)
        self._residuals = self._zeros()
        largest = max(min(_matrix_shape(shape)) for shape in _shapes(spec))
        ranks = range(largest, 0, -1)
        self.rank = next((r for r in ranks if factor_bytes(spec, r) <= budget_bytes), 1)
        rng = np.random.default_rng(0)
        #: right factors of the layers that have some, float32 [columns, rank]
        self._right = {
            index: rng.standard_normal((_matrix_shape(shape)[1], self.rank)).astype(np.float32)
            for index, shape in enumerate(_shapes(spec))
            if _has_factors(shape, self.rank)
        }

    def step(self, changes: Sequence[Flat], number: int) -> Flat:
        """Approximate residual plus change; the step is what the means of the factors give."""
        step = np.zeros(self.spec.size, np.float32)
        totals = [np.add(*pair) for pair in zip(self._residuals, changes, strict=True)]
        self._residuals = totals  # what is sent is subtracted in place
        site_views = [self.spec.views(total) for total in totals]
        self.bytes_up = 0.0
        for index, out in enumerate(self.spec.views(step)):
            parts = [views[index] for views in site_views]
            if index in self._right:
                self._step_of_matrix(index, parts, out)
                continue
            sent = [_as_half(part) for part in parts]
            for part, values in zip(parts, sent, strict=True):
                np.subtract(part, values, out=part)
            out[:] = self._received(sent)
        self.bytes_down = self.bytes_up
        return step

    def _step_of_matrix(self, index: int, parts: list[Flat], out: Flat) -> None:
        right = self._right[index]
        right /= np.linalg.norm(right, axis=0) + np.float32(1e-30)  # so that float16 holds it
        matrices = [part.reshape(-1, len(right)) for part in parts]
        left = self._received([_as_half(matrix @ right) for matrix in matrices])
        left = np.linalg.qr(left)[0].astype(np.float32)
        rights = [_as_half(matrix.T @ left) for matrix in matrices]
        for matrix, own in zip(matrices, rights, strict=True):
            np.subtract(matrix, left @ own.T.astype(np.float32), out=matrix)
        self._right[index] = self._received(rights)
        out[:] = (left @ self._right[index].T).ravel()

    def _received(self, sent: list[Half]) -> Flat:
        """Return the mean of what the sites sent, as they receive it; count the bytes."""
        self.bytes_up += len(sent[0].tobytes())
        total = np.zeros(sent[0].shape, np.float32)
        for share, values in zip(self.shares, sent, strict=True):
            total += np.float32(share) * values
        return _as_half(total).astype(np.float32)


RIVALS: dict[str, type[Rival]] = {"sparseloco": SparseLoCo, "ef21": EF21, "powersgd": PowerSGD}


def encode_chunks(spec: ModelSpec, vector: Flat, budget_bytes: float) -> bytes:
    """Encode the largest elements of each chunk, as many as fit the budget, and at least one.

    Layers are cut into chunks of 4096 elements; of a shorter last one, as large a part is kept,
    rounded up. The buffer: k, the Rice parameter of each layer, the length of the unary stream, the
    streams of :mod:`rsdgc.codec.golomb_rice` with positions and two bits a value, and four float16
    values a layer.
    """
    views = spec.views(vector)
    orders = [_chunk_orders(view) for view in views]
    low, high, best = 1, CHUNK_SIZE, b""
    while low <= high:
        k = (low + high) // 2
        payload = _encode_largest(views, orders, k)
        if len(payload) <= budget_bytes or k == 1:
            best, low = payload, k + 1
        else:
            high = k - 1
    return best


def decode_chunks(spec: ModelSpec, payload: bytes) -> Flat:
    """Decode what :func:`encode_chunks` returned; float32 [spec.size]."""
    reader = ByteReader(payload)
    k = reader.read_varint()
    rices = list(reader.take(len(spec.layers), "the Rice parameters"))
    num_unary = reader.read_varint()
    values = np.frombuffer(payload, np.float16, offset=len(payload) - 8 * len(spec.layers))
    unary = reader.take(num_unary, "the unary stream")
    plain = reader.take(reader.remaining - values.nbytes, "the plain stream")
    streams = RiceReader(unary, plain)
    vector = np.zeros(spec.size, np.float32)
    for view, rice, book in zip(spec.views(vector), rices, values.reshape(-1, 4), strict=True):
        count = sum(_kept(size, k) for size in _chunk_sizes(view.size))
        ids = streams.read_ids(count, rice, view.size)
        large, negative = streams.read_bits(count), streams.read_bits(count)
        view[ids] = book[2 * large.astype(np.int64) + negative]
    streams.finish()
    return vector


def factor_bytes(spec: ModelSpec, rank: int) -> int:
    """Return the bytes of the factors of all layers, and of the layers that have none."""
    elements = 0
    for shape in _shapes(spec):
        rows, columns = _matrix_shape(shape)
        elements += rank * (rows + columns) if _has_factors(shape, rank) else rows * columns
    return FLOAT16_BYTES * elements


def _encode_largest(views: list[Flat], orders: list[list[Int64]], k: int) -> bytes:
    writer, rices, books = RiceWriter(), bytearray(), []
    for view, chunks in zip(views, orders, strict=True):
        kept = [
            CHUNK_SIZE * number + order[: _kept(order.size, k)]
            for number, order in enumerate(chunks)
        ]
        ids = np.sort(np.concatenate(kept))
        values = view[ids]
        magnitudes, negative = np.abs(values), values < 0
        large = magnitudes > magnitudes.mean()
        gaps = gaps_of(ids)
        rices.append(best_rice(gaps))
        writer.write_numbers(gaps, rices[-1])
        writer.write_bits(large)
        writer.write_bits(negative)
        for flag in (False, True):
            for sign in (False, True):
                members = values[(large == flag) & (negative == sign)]
                books.append(members.mean() if members.size else 0.0)
    unary, plain = writer.finish()
    head = encode_varint(k) + bytes(rices) + encode_varint(len(unary))
    return head + unary + plain + _as_half(np.array(books, np.float32)).tobytes()


def _chunk_sizes(size: int) -> list[int]:
    return [min(CHUNK_SIZE, size - start) for start in range(0, size, CHUNK_SIZE)]


def _chunk_orders(view: Flat) -> list[Int64]:
    """Return the positions in each chunk, by descending magnitude."""
    starts = range(0, view.size, CHUNK_SIZE)
    return [np.argsort(-np.abs(view[start : start + CHUNK_SIZE])) for start in starts]


def _kept(size: int, k: int) -> int:
    """Return how many elements of a chunk are kept if a whole chunk keeps k."""
    return -(-size * k // CHUNK_SIZE)


def _shapes(spec: ModelSpec) -> list[tuple[int, ...]]:
    return [layer.shape for layer in spec.layers]


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    size = int(np.prod(shape))
    return (shape[0], size // shape[0]) if shape else (1, 1)


def _has_factors(shape: tuple[int, ...], rank: int) -> bool:
    rows, columns = _matrix_shape(shape)
    return rank * (rows + columns) < rows * columns and min(rows, columns) > 1


def _as_half(values: Flat) -> Half:
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(np.float16)
