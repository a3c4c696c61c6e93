"""Central differential privacy: clipped updates, uniform weights, Gaussian noise on their mean.

DP-FedAvg (McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language
Models", ICLR 2018), with a fixed denominator. In a round that asks n sites, with updates u_i::

    mean = 1/n · Σ u_i · min(1, C / ‖u_i‖)        released = mean + N(0, (z · C / n)² I)

The unit of privacy is a site: neighboring federations differ in all the data of one site, whose
updates are zero in one of them. n does not depend on the data: a site that does not answer, or
whose update is refused, counts as one that sends zero. So one site changes the mean by at most C/n,
and a round is one Gaussian mechanism with noise multiplier z.

What is claimed, and how:

- **Every round counts for every site.** T releases are one Gaussian mechanism with multiplier
  z / √T, exactly, adaptive ones too (Dong, Roth, Su, "Gaussian Differential Privacy", 2022). Its ε
  for a δ is that of ``dp-accounting``. There is no amplification by sampling: sites know when they
  are drawn, and the draw follows from the run's seed, which all sites know.
- **A site's residual** carries older data into later uploads. The claim does not need that an
  upload is of one round's data: each is clipped, whatever it carries, and each counts. What
  clipping cuts off is lost; it does not return to the residual.
- **All that follows is post-processing**: momentum, ratios, patches, the final model.

The server is trusted: it sees what arrives. What else it publishes is not covered: scores, losses,
numbers of chips, bytes, refusals, and the choice of the best round.

The noise follows from a secret, the round, and the mean itself. A round that is repeated after a
resume therefore has the same noise if it has the same mean, and the run ends as if it had not been
interrupted. With another mean it has other noise: with the same noise, the difference of the two
releases would be that of the means, without any noise. Such a repetition is one more release, and
counts: the file ``privacy.jsonl`` has a line for each, which is on disk before the release.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Iterable
from logging import INFO
from pathlib import Path

import numpy as np
from flwr.common import log

from rsdgc.arrays import Float32
from rsdgc.durable import make_folder, sync
from rsdgc.errors import RunError, SettingError
from strategies.checkpoints import State

RELEASES_FILE = "privacy.jsonl"
_SECRET_BYTES = 32
_NOISE_BLOCK = 1 << 20
"""Values whose noise is drawn at once, which bounds the memory."""


def epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """Return the ε of a number of releases, for a δ; 0 without any.

    Raises
    ------
    SettingError
        The package ``dp-accounting`` is not installed.
    """
    if releases == 0:
        return 0.0
    try:
        from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415  # an extra, and slow
    except ImportError:
        raise SettingError(
            "dp-noise-multiplier needs dp-accounting: pip install 'rsdgc[privacy]' at the server"
        ) from None
    with np.errstate(divide="ignore"):  # log(0), where a step of its search overshoots
        return float(get_epsilon_gaussian(noise_multiplier / math.sqrt(releases), delta))


class PrivateMean:
    """The mean of a round's updates with noise, and what all means so far have revealed.

    Parameters
    ----------
    noise_multiplier : float
        z: standard deviation of the noise on the *sum* of the clipped updates, over C; above 0.
    clip : float
        C: largest Euclidean norm of a site's update that counts; above 0.
    delta : float
        δ, above 0 and below 1.
    folder : Path
        Run folder, for ``privacy.jsonl``. Releases that it already has count.

    Raises
    ------
    SettingError
        See :func:`epsilon`.
    """

    def __init__(self, noise_multiplier: float, clip: float, delta: float, folder: Path) -> None:
        self.noise_multiplier = noise_multiplier
        self.clip = clip
        self.delta = delta
        self._path = folder / RELEASES_FILE
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._releases = self._read_releases()
        epsilon(noise_multiplier, 1, delta)  # what is missing is said before the run starts

    @property
    def releases(self) -> int:
        """Number of means that were released, in repeated rounds too."""
        return len(self._releases)

    def epsilon(self) -> float:
        """Return the ε of all releases so far."""
        return epsilon(self.noise_multiplier, self.releases, self.delta)

    def release(
        self, updates: Iterable[Float32], *, asked: int, size: int, server_round: int
    ) -> Float32:
        """Return the mean of the updates with noise, float32 [size].

        Parameters
        ----------
        updates : iterable of float32 [size]
            One for each site that answered, in an order that does not depend on their arrival.
        asked : int
            Sites that were asked in the round: the denominator.

        Raises
        ------
        RunError
            The release cannot be recorded on disk, or more updates came than sites were asked.
        """
        total = np.zeros(size, np.float64)
        norms = []
        for update in updates:
            exact = update.astype(np.float64)
            norms.append(float(np.linalg.norm(exact)))
            # A difference of huge values may be infinite. It counts as zero.
            if math.isfinite(norms[-1]):
                total += exact * (self.clip / max(norms[-1], self.clip))
        if len(norms) > asked:
            raise RunError(f"{len(norms)} updates came from {asked} sites that were asked")
        total /= asked
        tag = self._tag(total, server_round)
        self._record(server_round, tag)
        noise = np.random.Generator(np.random.Philox(int.from_bytes(tag, "big")))
        deviation = self.noise_multiplier * self.clip / asked
        for start in range(0, size, _NOISE_BLOCK):
            block = total[start : start + _NOISE_BLOCK]
            block += deviation * noise.standard_normal(block.size)
        clipped = sum(norm > self.clip for norm in norms)
        log(
            INFO,
            "differential privacy: %d of %d updates clipped to %.3g (norms up to %.3g), ε = %.3g",
            *(clipped, len(norms), self.clip, max(norms, default=0.0), self.epsilon()),
        )
        return total.astype(np.float32)

    def state(self) -> State:
        """Return the secret of the noise: who has it can subtract the noise."""
        return State(values={"secret": self._secret.hex()})

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        self._secret = bytes.fromhex(state.values["secret"])

    def _tag(self, mean: np.ndarray[tuple[int], np.dtype[np.float64]], server_round: int) -> bytes:
        """Return what the noise of a mean follows from, and what reveals nothing of it."""
        digest = hashlib.sha256(np.ascontiguousarray(mean, "<f8").data).digest()
        message = server_round.to_bytes(8, "big") + digest
        return hmac.digest(self._secret, message, "sha256")

    def _record(self, server_round: int, tag: bytes) -> None:
        """Write a release to disk, unless it is there already."""
        line = json.dumps({"round": server_round, "tag": tag.hex()})
        if line in self._releases:
            return
        try:
            make_folder(self._path.parent)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # the last line may have been cut off
            sync(self._path)
        except OSError as error:
            # What is not recorded would not be counted after a resume.
            raise RunError(
                f"{self._path} cannot be written ({error.strerror}): free space, then resume the "
                "run"
            ) from None
        self._releases.add(line)

    def _read_releases(self) -> set[str]:
        """Return the recorded releases; a line that was cut off counts as one."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
            return {line for line in text.splitlines() if line}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be read ({error.strerror}): without it the releases so far "
                "are not counted"
            ) from None
