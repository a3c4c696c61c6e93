"""The evaluation after the last round: the sites score the model that the run delivers.

They report whole confusion matrices instead of counts by class, and the entries of the model that
stay with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from rsdgc.arrays import Float32, Int64
from rsdgc.spec import without_branches
from strategies.ledger import SiteEntry
from strategies.metrics import ClassCounts, Scores, sum_counts
from strategies.replies import EvaluateReply, count_arrival, read_evaluate_reply, refusing
from strategies.running_statistics import ReceivedArrays, mean_arrays, read_statistics
from strategies.sites import SiteManager


@dataclass(eq=False)
class FinalEvaluation:
    """What the sites reported of the model that the run delivers.

    Parameters
    ----------
    initial_local : mapping of str to float32 array
        Entries of the model before training that stay at the sites.
    """

    initial_local: Mapping[str, Float32]
    #: the entries that stay at the sites, as the model that is delivered has them: their mean
    local: dict[str, Float32] = field(init=False)
    #: int64 [K, K]: confusion matrix over all sites' test splits, reference in rows
    confusion: Int64 | None = None
    scores: Scores | None = None
    val: Scores | None = None  #: scores on the validation splits
    #: what each site counted on its test split, by name
    by_site: dict[str, ClassCounts] = field(default_factory=dict)
    #: scores at the sites that have these modalities and no others
    by_modalities: dict[tuple[str, ...], Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.local = dict(self.initial_local)

    def aggregate(
        self,
        replies: Mapping[str, Message],
        entries: Mapping[str, SiteEntry],
        site_manager: SiteManager,
    ) -> None:
        """Add up the sites' confusion matrices and score the sum.

        Parameters
        ----------
        replies : mapping of str to Message
            By site, as they arrived.
        entries : mapping of str to SiteEntry
            Of all sites that were asked. A reply that cannot be used is recorded in its entry.
        site_manager : SiteManager
            The sites.
        """
        received: list[ReceivedArrays] = []
        counts: dict[str, ClassCounts] = {}
        vals = []
        confusion = np.zeros((len(site_manager.data.classes),) * 2, np.int64)
        for name, entry in sorted(entries.items()):
            reply = self._accept(replies.get(name), entry, site_manager, received)
            if reply is not None:
                counts[name], confusion = reply.test, confusion + reply.confusion
                vals.append(reply.val)
        self.local = {**self.initial_local, **mean_arrays(received, self.initial_local)}
        self.val = sum_counts(vals)
        self.by_site = {name: part for name, part in counts.items() if part.samples}
        self.scores = sum_counts(counts.values())
        if self.scores is None:
            return
        self.confusion = confusion
        for modalities, names in site_manager.sites_by_modalities().items():
            group = sum_counts(counts.get(name) for name in names)
            if group is not None:
                self.by_modalities[modalities] = group

    def _accept(
        self,
        reply: Message | None,
        entry: SiteEntry,
        site_manager: SiteManager,
        local: list[ReceivedArrays],
    ) -> EvaluateReply | None:
        """Return what a site reported, or record why it is refused.

        The entries of the model that stay at the site are appended to ``local``, with its weight in
        their mean.
        """
        site = site_manager.sites[entry.site]
        with refusing(entry):
            arrived = count_arrival(reply, entry)
            scores = read_evaluate_reply(arrived, site, len(site_manager.data.classes))
            if scores.local is not None:
                arrays, _ = read_statistics(scores.local, self.initial_local, "local entries")
                # Those of a branch that the site lacks are as built, and not part of the mean.
                own = without_branches({**self.initial_local, **arrays}, site_manager.lacking(site))
                weight = min(site.num_train, site_manager.weight_limit(site))
                local.append((site.name, own, float(weight)))
            entry.accepted, entry.accuracy = True, scores.test.accuracy
            return scores
        return None
