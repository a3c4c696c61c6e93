"""The sites behind Flower's nodes: what data each has, and which take part in a round.

In a deployment a node hosts one site. In a simulation with fewer nodes than sites a node hosts
several, so a run has the same sites however many nodes the simulation was given.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING
from typing import TypeVar

from flwr.common import log

from rsdgc.errors import RunError
from rsdgc.site_weights import WeightRules
from strategies.checkpoints import State
from strategies.node_book import JoinRefused, NodeBook

Value = TypeVar("Value")


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
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of a chip."""
        return len(self.bands), self.px, self.px

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


@dataclass(frozen=True)
class ModelCode:
    """A run's model, as the setting names it, and the signature of its code at the server."""

    model: str
    signature: str

    def compare(self, signature: str) -> None:
        """Raise :class:`JoinRefused` if a site has another signature."""
        if signature != self.signature:
            raise JoinRefused(
                "other code",
                f"its code of model {self.model!r} is {signature} instead of {self.signature}: "
                "copy the server's files to its code-dir, or install the server's version",
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


def sites_in_round(fraction: float, num_sites: int) -> int:
    """Return how many of the connected sites are drawn for a round: at least one."""
    return max(1, round(fraction * num_sites))


@dataclass
class SiteManager:
    """The sites known so far, by name, and the data that they share.

    Until :meth:`fix_modalities`, sites may bring modalities that those before them lack.
    """

    data: DataInfo
    sites: dict[str, SiteInfo] = field(default_factory=dict)
    #: what every site must have; None to compare no code
    code: ModelCode | None = None
    #: fewest sites that a run starts with
    min_sites: int = 1
    #: limits of what a site counts for in the mean
    weights: WeightRules = field(default_factory=WeightRules)
    #: the nodes behind the sites, and those that are left out
    nodes: NodeBook = field(default_factory=NodeBook, repr=False)
    _fixed: bool = field(default=False, repr=False)
    _order_given: bool = field(default=False, repr=False)
    _limits: dict[str, int] = field(default_factory=dict, repr=False)
    #: why no site may lack a modality, and what to do; None if sites may
    _refusal: str | None = field(default=None, repr=False)

    def draw(
        self,
        fraction: float,
        seed: int,
        server_round: int,
        nodes: Collection[int] | None = None,
        without: Collection[str] = (),
    ) -> list[SiteInfo]:
        """Draw a share of the sites for a round; return them in the order of their names.

        The draw depends on the seed, the round and the names of the sites alone, so names are
        sorted first: the order in which sites joined must not matter. If ``nodes`` are given, sites
        of other nodes are left out: a message to them would cost the round its whole time-out. The
        sites ``without`` are left out, too.
        """
        names = [site.name for site in self.connected(nodes) if site.name not in without]
        if not names:
            return []
        count = sites_in_round(fraction, len(names))
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

        ``nodes`` are those that are connected; None if all are.

        Raises
        ------
        JoinRefused
            The sites do not fit the others, or a name is taken. Nothing changes in that case.
        """
        sites = list(sites)
        self._check_names(sites, nodes)
        self._check_classes(data)
        brought = {modality.name: modality for modality in data.modalities}
        modalities = {modality.name: modality for modality in self.data.modalities}
        for site in sites:
            for name in site.modalities:
                self._check_modality(brought[name], modalities.setdefault(name, brought[name]))
            self._check_fixed(site)
        self.compare_counts({name: known.num_train for name, known in self.sites.items()}, sites)
        self.sites.update((site.name, site) for site in sites)
        self.data = replace(self.data, modalities=tuple(modalities.values()))
        self._limits = {}

    def fix_modalities(self, order: Sequence[str] = ()) -> None:
        """Fix the modalities of the run, which sites that join later cannot add to.

        They are in the order given, or else in that of the sites' names, so that the order in which
        sites join does not matter. Sites with others than those given are left out.

        Raises
        ------
        RunError
            The order names a modality that no site has.
        """
        modalities = {modality.name: modality for modality in self.data.modalities}
        unknown = [name for name in order if name not in modalities]
        if unknown:
            raise RunError(
                f"no site has modality {', '.join(unknown)}; of those named in modalities, "
                f"sites have {', '.join(modalities)}: correct the name, or leave it out"
            )
        names = order or dict.fromkeys(name for s in self.connected() for name in s.modalities)
        self.data = replace(self.data, modalities=tuple(modalities[name] for name in names))
        self._fixed, self._order_given = True, bool(order)
        self._leave_out(self._misfits())

    def compare_counts(self, before: Mapping[str, int], sites: Iterable[SiteInfo]) -> None:
        """Log which sites report another number of training chips than before."""
        for site in sites:
            count = before.get(site.name, site.num_train)
            if count != site.num_train:
                text = "site %s reports %d training chips, and reported %d before"
                log(WARNING, text, site.name, site.num_train, count)

    def weight_limit(self, site: SiteInfo) -> int:
        """Return the number of chips that a site counts for at most in the mean."""
        if len(self._limits) != len(self.sites):
            counts = {name: known.num_train for name, known in self.sites.items()}
            self._limits = self.weights.limits(counts)
        return self._limits.get(site.name, site.num_train)

    def refuse_lacking(self, reason: str) -> None:
        """Leave out every site, now or later, that lacks a modality.

        The reason ends with a remedy. Unless the run's modalities were given, they become those
        that most sites have: else a single site with one more would leave all others out.

        Raises
        ------
        RunError
            Fewer than ``min_sites`` remain.
        """
        self._refusal = reason
        before = self.data
        if not self._order_given:
            kept = most_common(frozenset(site.modalities) for site in self.connected())
            modalities = tuple(m for m in self.data.modalities if m.name in kept)
            self.data = replace(self.data, modalities=modalities)
        misfits = self._misfits()
        if len(self.sites) - len(misfits) < max(1, self.min_sites):
            self.data = before
            raise RunError(str((misfits or self._misfits())[0][1]))
        self._leave_out(misfits)

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

    def state(self) -> State:
        """Return what a resumed run compares: names that belong to keys, and counts of chips."""
        counts = {name: self.sites[name].num_train for name in sorted(self.sites)}
        return State(values={"registered": sorted(self.nodes.registered), "num_train": counts})

    def restore(self, state: State) -> None:
        """Compare the sites with what :meth:`state` returned before the run was stopped."""
        self.nodes.registered.update(state.texts("registered"))
        self.compare_counts(state.counts("num_train"), self.connected())

    def _misfits(self) -> list[tuple[SiteInfo, JoinRefused]]:
        """Return the sites that cannot take part with the modalities that they have, and why."""
        misfits = []
        for site in self.connected():
            try:
                self._check_fixed(site)
            except JoinRefused as refusal:
                misfits.append((site, refusal))
        return misfits

    def _leave_out(self, misfits: Iterable[tuple[SiteInfo, JoinRefused]]) -> None:
        for site, refusal in misfits:
            del self.sites[site.name]
            name = self.nodes.label(site.node_id, [site.name])
            self.nodes.refuse(site.node_id, name, refusal)
        self._limits = {}

    def _check_names(self, sites: Sequence[SiteInfo], nodes: Collection[int] | None) -> None:
        """Raise :class:`JoinRefused` if a node may not come as these sites."""
        for site in sites:
            name = self.nodes.registered_name(site.node_id)
            if name and len(sites) > 1:
                raise JoinRefused(
                    "more than one site",
                    f"it has {len(sites)} sites; a node with a registered key is one site",
                )
            if name and site.name != name:
                raise JoinRefused(
                    "name of another site",
                    f"it calls itself '{site.name}', and its key is registered as '{name}': set "
                    f'name = "{name}" in its site.toml, or register a key of the other name '
                    "(rsdgc server register)",
                )
            if not name and self.nodes.registered_only:
                raise JoinRefused(
                    "no registered name",
                    f"it calls itself '{site.name}', and its key is not registered under a name: "
                    "put its public key into the folder keys, and run rsdgc server register",
                )
            if not name and site.name in self.nodes.registered:
                raise JoinRefused(
                    "name of another site",
                    f"it calls itself '{site.name}', which is the name of another node's key",
                )
            known = self.sites.get(site.name)
            if known is None or known.node_id == site.node_id:
                continue
            if name and not self.nodes.registered_name(known.node_id):
                continue  # the name is this node's, whoever took it before
            if nodes is None or known.node_id in nodes:
                raise JoinRefused(
                    "name taken",
                    f"two sites are called '{site.name}', the other one is node {known.node_id}; "
                    "give each its own site-name",
                )

    def _check_classes(self, data: DataInfo) -> None:
        if data.classes != self.data.classes:
            differing = sorted(set(data.classes) ^ set(self.data.classes)) or ["another order"]
            more = f", and {len(differing) - 10} more" if len(differing) > 10 else ""
            raise JoinRefused(
                "other classes",
                f"it has another class list ({', '.join(differing[:10])}{more}); use one for all",
            )

    def _check_modality(self, own: ModalityInfo, others: ModalityInfo) -> None:
        if own != others:
            raise JoinRefused(
                "other bands",
                f"it has modality {own.name} with the bands {own.text}, the others with "
                f"{others.text}: ingest all sites with the same bands, in the same order, and the "
                "same --chip",
            )

    def _check_fixed(self, site: SiteInfo) -> None:
        """Raise :class:`JoinRefused` if a site cannot take part with its modalities."""
        names = self.data.modality_names
        if not self._fixed:
            return
        unknown = [name for name in site.modalities if name not in names]
        if unknown:
            raise JoinRefused(
                "other modalities",
                f"site {site.name} has modality {', '.join(unknown)}, which the run does not have: "
                f"it trains on {', '.join(names)}",
            )
        lacking = self.lacking(site)
        if lacking and self._refusal is not None:
            raise JoinRefused(
                "lacks a modality",
                f"site {site.name} lacks modality {', '.join(lacking)}, {self._refusal}",
            )


def most_common(values: Iterable[Value]) -> Value:
    """Return the most frequent value; of several, the one that comes first."""
    counts: dict[Value, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=lambda value: counts[value])
