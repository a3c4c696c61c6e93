"""Common normalization: before the first round all sites report sums, which are added up.

The result is ``normalization.json`` in the run folder. Every task carries it, so that a site that
joins late, or has lost its disk, normalizes as the others do. A resumed run reads the file again,
and whoever uses the final model needs it, too.
"""

from __future__ import annotations

from logging import INFO, WARNING
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from data_prep.common_statistics import CommonStatistics, SiteSums, merge_sites
from fl_app.settings import Settings
from rsdgc.durable import replace_text
from rsdgc.errors import DataError, RunError
from strategies import messages
from strategies.base import SiteStrategy
from strategies.ledger import Ledger, SiteEntry, content_bytes
from strategies.sites import DataInfo, SiteInfo, SiteManager
from strategies.transport import error_summary, send_and_receive
from strategies.validation import ReplyRefused

FILE = "normalization.json"


def normalization_config(
    grid: Grid, settings: Settings, strategy: SiteStrategy, folder: Path
) -> ConfigRecord:
    """Return what every task says about normalization: nothing, or the common statistics.

    The common statistics are collected from the sites and written to the run folder, or read from
    there if the run was resumed.

    Raises
    ------
    RunError
        See :func:`collect_statistics`; or the resumed run has lost its ``normalization.json``.
    """
    if settings.normalization == "site":
        return ConfigRecord()
    common = run_statistics(folder) if strategy.resumed_round else None
    if common is None and strategy.resumed_round:
        raise RunError(f"{folder} has lost its {FILE}: the run cannot be resumed")
    if common is None:
        common = collect_statistics(
            grid,
            strategy.site_manager,
            strategy.ledger,
            settings.min_sites,
            settings.join_timeout_s,
        )
        replace_text(folder / FILE, common.to_json())
    return ConfigRecord({messages.NORMALIZATION: common.pack()})


def collect_statistics(
    grid: Grid, sites: SiteManager, ledger: Ledger, min_sites: int, timeout_s: float
) -> CommonStatistics:
    """Ask all sites for the sums of their train samples, and add them up.

    Sums that are malformed, or count more pixels than the site has, are refused, counted in the
    ledger, and left out. The result does not depend on the order of the replies.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    sites : SiteManager
        The sites that are asked.
    ledger : Ledger
        Gets a line a site, with the phase ``statistics``.
    min_sites : int
        Fewest sites whose sums are needed.
    timeout_s : float
        Longest wait for all replies, seconds.

    Raises
    ------
    RunError
        Too few sites reported usable sums, or sites differ in modalities or bands.
    """
    asked = sites.connected()
    queries = [_query(site) for site in asked]
    replies = send_and_receive(grid, queries, timeout_s)
    sums: dict[str, SiteSums] = {}
    entries = []
    for site, query, reply in zip(asked, queries, replies, strict=True):
        entry = SiteEntry(0, site.name, phase="statistics")
        entry.send({}, content_bytes(query.content))
        entries.append(entry)
        try:
            sums[site.name] = _read_sums(site, sites.data, reply, entry)
            entry.accepted = True
        except ReplyRefused as refusal:
            entry.reason = refusal.reason
            log(WARNING, "the statistics of %s were refused: %s", site.name, refusal)
    ledger.begin(entries)
    if len(sums) < max(1, min_sites):
        raise RunError(
            f"only {len(sums)} sites reported statistics, and min-sites is {max(1, min_sites)}: "
            "see the warnings above, lower min-sites, or train with normalization=site"
        )
    _check_same_bands(sums)
    log(INFO, "all sites normalize by the statistics of %s", ", ".join(sums))
    return CommonStatistics.of(merge_sites(list(sums.values())))


def run_statistics(folder: Path) -> CommonStatistics | None:
    """Return the common statistics of a run; None if each site normalized by its own store's.

    Raises
    ------
    RunError
        The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return CommonStatistics.from_json(path.read_text(encoding="utf-8"))
    except (OSError, DataError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _query(site: SiteInfo) -> Message:
    content = RecordDict({messages.TASK: ConfigRecord({messages.SITE: site.name})})
    kind = f"{MessageType.QUERY}.{messages.STATISTICS}"
    return Message(content=content, message_type=kind, dst_node_id=site.node_id)


def _read_sums(site: SiteInfo, data: DataInfo, reply: Message | None, entry: SiteEntry) -> SiteSums:
    if reply is None:
        raise ReplyRefused("no reply", "its statistics did not arrive in time")
    if reply.has_error():
        raise ReplyRefused("error at the site", error_summary(reply.error.reason))
    entry.bytes_up = content_bytes(reply.content)
    record = reply.content.config_records.get(messages.SUMS)
    try:
        sums = SiteSums.from_mapping({} if record is None else dict(record))
    except DataError as error:
        raise ReplyRefused("not valid statistics", str(error)) from None
    _check(sums, site, data)
    return sums


def _check(sums: SiteSums, site: SiteInfo, data: DataInfo) -> None:
    """Raise :class:`ReplyRefused` if sums contradict what the site said about its data."""
    reason = "not valid statistics"
    if sums.classes != data.classes or sum(sums.class_counts) != site.num_train:
        raise ReplyRefused(reason, f"they are not of the site's {site.num_train} train samples")
    bands = sum(len(modality.bands) for modality in sums.modalities.values())
    if bands != data.bands:
        raise ReplyRefused(reason, f"they are of {bands} bands instead of {data.bands}")
    most = site.num_train * data.chip_px**2
    for name, modality in sums.modalities.items():
        if (modality.count > most).any():
            raise ReplyRefused(reason, f"modality {name} has more than {most} pixels a band")
    if not CommonStatistics.of(sums).finite:
        raise ReplyRefused(reason, "a mean or a standard deviation is too large for float32")


def _check_same_bands(sums: dict[str, SiteSums]) -> None:
    (first, expected), *others = sums.items()
    for name, site_sums in others:
        if site_sums.bands_text != expected.bands_text:
            raise RunError(
                f"site {name} has the modalities {site_sums.bands_text} and site {first} "
                f"{expected.bands_text}: ingest all alike, or train with normalization=site"
            )
