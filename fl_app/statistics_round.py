"""Common normalization: before the first round all sites report sums, which are added up.

The result is ``normalization.json`` in the run folder. Every task carries it, so that a site that
joins late, or has lost its disk, normalizes as the others do. A resumed run reads the file again,
and whoever uses the final model needs it, too.
"""

from __future__ import annotations

from logging import INFO
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from data_prep.common_statistics import (
    CommonStatistics,
    SiteSums,
    merge_sites,
    outlying_sites,
)
from fl_app.runs.records import damaged
from fl_app.settings import Settings
from rsdgc.documents import DocumentError, read_text
from rsdgc.durable import replace_text
from rsdgc.errors import DataError, RunError
from strategies import messages
from strategies.base import SiteStrategy
from strategies.ledger import STATISTICS, SiteEntry, content_bytes
from strategies.replies import count_arrival, refusing
from strategies.sites import DataInfo, SiteInfo
from strategies.transport import send_and_receive
from strategies.validation import ReplyRefused, check_records

FILE = "normalization.json"


def normalization_config(
    grid: Grid, settings: Settings, strategy: SiteStrategy, folder: Path
) -> ConfigRecord:
    """Return what every task says about normalization: nothing, or the common statistics.

    The common statistics are collected from the sites and written to the run folder, or read from
    there if the run was resumed.
    """
    if settings.normalization == "site":
        return ConfigRecord()
    if strategy.resumed_round:
        common = run_statistics(folder)
        if common is None:
            raise RunError(f"{folder} has lost its {FILE}: the run cannot be resumed")
    else:
        common = _collect_statistics(grid, settings, strategy)
        replace_text(folder / FILE, common.to_json())
    return ConfigRecord({messages.NORMALIZATION: common.pack()})


def run_statistics(folder: Path) -> CommonStatistics | None:
    """Return the common statistics of a run; None if each site normalized by its own store's.

    Raises :class:`RunFolderError` if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return CommonStatistics.from_json(read_text(path))
    except (OSError, DataError, DocumentError) as error:
        raise damaged(path, error) from error


def _collect_statistics(grid: Grid, settings: Settings, strategy: SiteStrategy) -> CommonStatistics:
    """Ask all sites for the sums of their train samples, and add them up.

    Unusable sums are refused, counted in the ledger and left out. The result does not depend on the
    order in which sites reply.
    """
    sites, data = strategy.site_manager.connected(), strategy.site_manager.data
    queries = [_query(site) for site in sites]
    replies = send_and_receive(grid, queries, settings.join_timeout_s)
    sums: dict[str, SiteSums] = {}
    entries = []
    for site, query, reply in zip(sites, queries, replies, strict=True):
        entry = SiteEntry(0, site.name, phase=STATISTICS)
        entry.send({}, content_bytes(query.content))
        entries.append(entry)
        with refusing(entry):
            sums[site.name] = _read_sums(site, data, reply, entry)
            entry.accepted = True
    for name, reason in outlying_sites(sums).items():
        entry = next(entry for entry in entries if entry.site == name)
        with refusing(entry):
            entry.accepted = False
            del sums[name]
            raise ReplyRefused("not valid statistics", reason)
    strategy.ledger.record(entries)
    needed = max(1, settings.min_sites)
    if len(sums) < needed:
        raise RunError(
            f"only {len(sums)} sites reported statistics, and min-sites is {needed}: "
            "see the warnings above, lower min-sites, or train with normalization=site"
        )
    log(INFO, "all sites normalize by the statistics of %s", ", ".join(sums))
    common = CommonStatistics.of(merge_sites(list(sums.values()))).modalities
    missing = [name for name in data.modality_names if name not in common]
    if missing:
        raise RunError(
            f"no site reported statistics of modality {', '.join(missing)}: see the warnings "
            "above, or train with normalization=site"
        )
    return CommonStatistics({name: common[name] for name in data.modality_names})


def _query(site: SiteInfo) -> Message:
    content = RecordDict({messages.TASK: ConfigRecord({messages.SITE: site.name})})
    kind = f"{MessageType.QUERY}.{messages.STATISTICS}"
    return Message(content=content, message_type=kind, dst_node_id=site.node_id)


def _read_sums(site: SiteInfo, data: DataInfo, reply: Message | None, entry: SiteEntry) -> SiteSums:
    """Return a site's sums; raise :class:`ReplyRefused` if they are missing or impossible."""
    content = check_records(count_arrival(reply, entry), {messages.SUMS: ConfigRecord})
    try:
        sums = SiteSums.from_mapping(dict(content.get(messages.SUMS, {})))
        _check(sums, site, data)
    except DataError as error:
        raise ReplyRefused("not valid statistics", str(error)) from None
    return sums


def _check(sums: SiteSums, site: SiteInfo, data: DataInfo) -> None:
    """Raise :class:`DataError` if sums cannot be those of the data that the site reported."""
    if sums.classes != data.classes or sum(sums.class_counts) != site.num_train:
        raise DataError(f"they are not of the site's {site.num_train} train samples")
    bands = {name: modality.bands for name, modality in sums.modalities.items()}
    expected = {m.name: m.bands for m in data.modalities if m.name in site.modalities}
    if bands != expected:
        raise DataError(f"they are of the bands {bands} instead of {expected}")
    most = site.num_train * data.chip_px**2
    for name, modality in sums.modalities.items():
        if (modality.count > most).any():
            raise DataError(f"modality {name} has more than {most} pixels a band")
    if not CommonStatistics.of(sums).finite:
        raise DataError("a mean or a standard deviation is too large for float32")
