"""Random fields, hashes and filters from which terrain, land cover and textures are made.

Everything is float32 on a scene's pixel grid; lengths and wavelengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class FieldMaker:
    """Draws stationary Gaussian random fields by filtering white noise in the Fourier domain.

    All fields are float32 (px, px) of zero mean and unit variance, and periodic. The order of the
    calls decides what is drawn.
    """

    px: int
    rng: np.random.Generator

    def band(self, wavelength: float, width: float = 0.5) -> F32:
        """Draw a field of about one wavelength, with a pass band of ``width`` in natural logs."""
        octaves = np.log(np.maximum(self._frequency(), 1e-6) * wavelength)
        return self._draw(np.exp(-0.5 * (octaves / width) ** 2))

    def smooth(self, wavelength: float) -> F32:
        """Draw a low-pass field (Gaussian roll-off) without detail below ``wavelength``."""
        return self._draw(np.exp(-0.5 * (self._frequency() * wavelength) ** 2))

    def fractal(self, roughness: float, longest: float) -> F32:
        """Draw a field of amplitude 1/f**``roughness``, flat above the wavelength ``longest``."""
        return self._draw((self._frequency() ** 2 + longest**-2) ** (-roughness / 2))

    def white(self) -> F32:
        """Draw independent standard normal values."""
        return self.rng.standard_normal((self.px, self.px), dtype=np.float32)

    def _frequency(self) -> F32:
        """Return radial frequencies in cycles per pixel on the half plane of ``rfft2``."""
        fy = np.fft.fftfreq(self.px).astype(np.float32)
        fx = np.fft.rfftfreq(self.px).astype(np.float32)
        return np.hypot(fy[:, None], fx[None, :])

    def _draw(self, gain: F32) -> F32:
        """Filter white noise by ``gain`` and scale it to zero mean and unit variance."""
        shape = (*gain.shape, 2)
        noise = self.rng.standard_normal(shape, dtype=np.float32).view(np.complex64)[..., 0]
        noise *= gain
        noise[0, 0] = 0
        drawn = np.fft.irfft2(noise, s=(self.px, self.px)).astype(np.float32, copy=False)
        return drawn / np.float32(max(float(drawn.std()), 1e-12))


def hash_unit(seed: int, *keys: NDArray[np.generic]) -> F32:
    """Hash integer keys, which broadcast, to uniform float32 numbers in [0, 1).

    Unlike a generator, a hash gives each field or tree its properties wherever its pixels are
    computed.
    """
    return (hash_bits(seed, *keys) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def hash_bits(seed: int, *keys: NDArray[np.generic]) -> U32:
    """Hash integer keys to 32 bits (one multiply-xorshift round per key)."""
    state: U32 = np.full(1, (seed * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF, dtype=np.uint32)
    for key in keys:
        state = state ^ np.asarray(key).astype(np.int64).astype(np.uint32)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x7FEB352D)
        state = (state ^ (state >> np.uint32(15))) * np.uint32(0x846CA68B)
        state = state ^ (state >> np.uint32(16))
    return state


def smoothstep(value: F32, low: float, high: float) -> F32:
    """Rise smoothly from 0 at ``low`` to 1 at ``high`` (cubic); ``high`` may be the smaller one."""
    t: F32 = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blur(image: F32, radius: float) -> F32:
    """Blur a square image with a Gaussian of standard deviation ``radius`` (periodic)."""
    fy = np.fft.fftfreq(image.shape[0]).astype(np.float32)
    fx = np.fft.rfftfreq(image.shape[1]).astype(np.float32)
    gain = np.exp(-2 * (np.pi * radius) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2))
    return np.fft.irfft2(np.fft.rfft2(image) * gain, s=image.shape).astype(np.float32, copy=False)
