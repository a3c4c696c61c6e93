"""The sites behind Flower's nodes: what data each has, and which take part in a round.

In a deployment a node hosts one site. In a simulation with fewer nodes than sites a node hosts
several, so a run has the same sites however many nodes the simulation was given.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rsdgc.errors import RunError


@dataclass(frozen=True)
class ModalityInfo:
    """A modality of the sites' chips: what a model must know to take it.

    ``px`` is the side of a chip in this modality's own pixels: 64 for bands of 10 m, and 11 for
    those of 60 m on the same ground.
    """

    name: str
    bands: tuple[str, ...]
    px: int

    @property
    def text(self) -> str:
        """Bands, in their order, and size."""
        return f"{', '.join(self.bands)} ({self.px} px)"


@dataclass(frozen=True)
class SiteInfo:
    """What a site reported about itself when it joined.

    It is known by its name: the ``node_id`` of Flower's node that hosts it may change.
    ``num_train`` and ``num_test`` count its chips; an upload's weight may not exceed ``num_train``.
    ``modalities`` are the names of those that it has, in its own order. ``num_val`` counts the
    chips by which the best round is chosen.
    """

    name: str
    node_id: int
    num_train: int
    num_test: int
    modalities: tuple[str, ...]
    num_val: int = 0


class OtherCodeError(RunError):
    """A site has no or other code of the run's model; the other sites can do without it."""


@dataclass(frozen=True)
class ModelCode:
    """A run's model, as the setting names it, and the signature of its code at the server."""

    model: str
    signature: str

    def compare(self, site: str, signature: str) -> None:
        """Raise :class:`OtherCodeError` if a site has another signature."""
        if signature != self.signature:
            raise OtherCodeError(
                f"site {site} has other code of model {self.model!r} than the server: {signature} "
                f"instead of {self.signature}; copy the server's files to its code-dir, or install "
                "the server's version"
            )


@dataclass(frozen=True)
class DataInfo:
    """What all sites must agree on so that one model can serve them.

    A site may lack some of the ``modalities`` where the model allows it.
    """

    dataset: str
    synthetic: bool
    classes: tuple[str, ...]
    modalities: tuple[ModalityInfo, ...]

    @property
    def bands(self) -> int:
        """Bands of all modalities together."""
        return sum(len(modality.bands) for modality in self.modalities)

    @property
    def chip_px(self) -> int:
        """Side of a chip in pixels of the finest modality."""
        return max((modality.px for modality in self.modalities), default=0)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order in which a model takes them."""
        return tuple(modality.name for modality in self.modalities)


@dataclass
class SiteManager:
    """The sites known so far, by name, and the data that they share.

    Until :meth:`fix_modalities`, sites may bring modalities that those before them lack.
    """

    data: DataInfo
    sites: dict[str, SiteInfo] = field(default_factory=dict)
    #: what every site must have; None to compare no code
    code: ModelCode | None = None
    _fixed: bool = field(default=False, repr=False)
    #: why no site may lack a modality, and what to do; None if sites may
    _refusal: str | None = field(default=None, repr=False)

    def draw(
        self, fraction: float, seed: int, server_round: int, nodes: Collection[int] | None = None
    ) -> list[SiteInfo]:
        """Draw a share of the sites for a round; return them in the order of their names.

        The draw depends on the seed, the round and the names of the sites alone, so names are
        sorted first: the order in which sites joined must not matter. If ``nodes`` are given, sites
        of other nodes are left out: a message to them would cost the round its whole time-out.
        """
        names = [site.name for site in self.connected(nodes)]
        if not names:
            return []
        count = max(1, round(fraction * len(names)))
        # A string seed mixes both numbers: seed 1 of round 2 is not seed 2 of round 1.
        drawn = random.Random(f"{seed}/{server_round}").sample(names, count)
        return [self.sites[name] for name in sorted(drawn)]

    def connected(self, nodes: Collection[int] | None = None) -> list[SiteInfo]:
        """Return the sites of the given nodes, or all sites, in the order of their names."""
        sites = [self.sites[name] for name in sorted(self.sites)]
        return [site for site in sites if nodes is None or site.node_id in nodes]

    def register(
        self, data: DataInfo, sites: Iterable[SiteInfo], nodes: Collection[int] | None = None
    ) -> None:
        """Add the sites of a node; a known site may come back with a node if its own has gone.

        Raises
        ------
        RunError
            The sites do not fit the others, or a name is taken. Nothing changes in that case.
        """
        sites = list(sites)
        names = [site.name for site in sites]
        self._check_classes(data, ", ".join(site.name for site in sites))
        brought = {modality.name: modality for modality in data.modalities}
        modalities = {modality.name: modality for modality in self.data.modalities}
        for site in sites:
            for name in site.modalities:
                self._check_modality(
                    brought[name], modalities.setdefault(name, brought[name]), site
                )
            self._check_fixed(site)
            known = self.sites.get(site.name)
            is_taken = known is not None and (nodes is None or known.node_id in nodes)
            if is_taken or names.count(site.name) > 1:
                raise RunError(f"two sites are called '{site.name}'; give each its own site-name")
        self.sites.update((site.name, site) for site in sites)
        self.data = replace(self.data, modalities=tuple(modalities.values()))

    def fix_modalities(self, order: Sequence[str] = ()) -> None:
        """Fix the modalities of the run, which sites that join later cannot add to.

        They are in the order given, or else in that of the sites' names, so that the order in which
        sites join does not matter.

        Raises
        ------
        RunError
            The order names a modality that no site has, or lacks one that a site has.
        """
        modalities = {modality.name: modality for modality in self.data.modalities}
        unknown = [name for name in order if name not in modalities]
        if unknown:
            raise RunError(
                f"no site has modality {', '.join(unknown)}: set modalities to some of "
                f"{', '.join(modalities)}"
            )
        names = order or dict.fromkeys(name for s in self.connected() for name in s.modalities)
        self.data = replace(self.data, modalities=tuple(modalities[name] for name in names))
        self._fixed = True
        for site in self.connected():
            self._check_fixed(site)

    def refuse_lacking(self, reason: str) -> None:
        """Refuse every site, now or later, that lacks a modality; the reason ends with a remedy.

        Raises
        ------
        RunError
            A site lacks one.
        """
        self._refusal = reason
        for site in self.connected():
            self._check_fixed(site)

    def lacking(self, site: SiteInfo) -> tuple[str, ...]:
        """Return the modalities of the run that a site lacks."""
        return tuple(name for name in self.data.modality_names if name not in site.modalities)

    def sites_by_modalities(self) -> dict[tuple[str, ...], list[str]]:
        """Return the names of the sites that have the same modalities, the most of them first."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for site in self.connected():
            own = tuple(name for name in self.data.modality_names if name in site.modalities)
            groups.setdefault(own, []).append(site.name)
        return dict(sorted(groups.items(), key=lambda group: (-len(group[0]), group[0])))

    def _check_classes(self, data: DataInfo, names: str) -> None:
        if data.classes != self.data.classes:
            differing = sorted(set(data.classes) ^ set(self.data.classes)) or ["another order"]
            raise RunError(
                f"site {names} has another class list ({', '.join(differing)}); use one for all"
            )

    def _check_modality(self, own: ModalityInfo, others: ModalityInfo, site: SiteInfo) -> None:
        if own != others:
            raise RunError(
                f"site {site.name} has modality {own.name} with the bands {own.text}, the others "
                f"with {others.text}: ingest all sites with the same bands, in the same order, and "
                "the same --chip"
            )

    def _check_fixed(self, site: SiteInfo) -> None:
        """Raise :class:`RunError` if a site cannot take part with the modalities that it has."""
        names = self.data.modality_names
        if not self._fixed:
            return
        unknown = [name for name in site.modalities if name not in names]
        if unknown:
            raise RunError(
                f"site {site.name} has modality {', '.join(unknown)}, which the run does not have: "
                f"it trains on {', '.join(names)}"
            )
        lacking = self.lacking(site)
        if lacking and self._refusal is not None:
            raise RunError(f"site {site.name} lacks modality {', '.join(lacking)}, {self._refusal}")
