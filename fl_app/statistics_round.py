"""The round before the first: all sites tell their sums, and normalise by what they add up to.

What was agreed on is ``normalization.json`` in the run folder. It goes out with every task, so a
site that joins late, or has lost its disk, normalises as the others do; a run that is resumed reads
it again instead of asking anew, and whoever uses the delivered model needs it too.
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
    grid: Grid, roster: SiteManager, ledger: Ledger, min_sites: int, timeout_s: float
) -> CommonStatistics:
    """Ask all sites for the sums of their train samples, and add them up.

    What is malformed or claims more pixels than the site has is refused, counted in the ledger,
    and left out. The result does not depend on the order in which sites answer.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    roster : SiteManager
        The sites that are asked.
    ledger : Ledger
        Gets a line a site, of the phase ``statistics``.
    min_sites : int
        Fewest sites whose sums must be there.
    timeout_s : float
        Longest wait for all of them, seconds.

    Raises
    ------
    RunError
        Too few sites have told usable sums, or sites differ in modalities or bands.
    """
    cards = roster.connected()
    messages = [_question(card) for card in cards]
    replies = send_and_receive(grid, messages, timeout_s)
    told: dict[str, SiteSums] = {}
    entries = []
    for card, message, reply in zip(cards, messages, replies, strict=True):
        entry = SiteEntry(0, card.name, 0, phase="statistics")
        entry.send({}, content_bytes(message.content))
        entries.append(entry)
        try:
            told[card.name] = _answer(card, roster.data, reply, entry)
            entry.accepted = True
        except ReplyRefused as refusal:
            entry.reason = refusal.reason
            log(WARNING, "the statistics of %s were refused: %s", card.name, refusal)
    ledger.begin(entries)
    if len(told) < max(1, min_sites):
        raise RunError(
            f"{len(told)} of at least {max(1, min_sites)} sites have told their statistics; see "
            "the warnings above, lower min-sites, or train with normalization=site"
        )
    _check_alike(told)
    log(INFO, "all sites normalise by the statistics of %s", ", ".join(told))
    return CommonStatistics.of(merge_sites(list(told.values())))


def run_statistics(folder: Path) -> CommonStatistics | None:
    """Return what the sites of a run normalise by; None where each goes by its own store's.

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


def _question(card: SiteInfo) -> Message:
    content = RecordDict({messages.TASK: ConfigRecord({messages.SITE: card.name})})
    kind = f"{MessageType.QUERY}.{messages.STATISTICS}"
    return Message(content=content, message_type=kind, dst_node_id=card.node_id)


def _answer(card: SiteInfo, data: DataInfo, reply: Message | None, entry: SiteEntry) -> SiteSums:
    if reply is None:
        raise ReplyRefused("no reply", "its statistics did not come in time")
    if reply.has_error():
        raise ReplyRefused("error at the site", error_summary(reply.error.reason))
    entry.bytes_up = content_bytes(reply.content)
    record = reply.content.config_records.get(messages.SUMS)
    try:
        sums = SiteSums.from_mapping({} if record is None else dict(record))
    except DataError as error:
        raise ReplyRefused("not valid statistics", str(error)) from None
    _check(sums, card, data)
    return sums


def _check(sums: SiteSums, card: SiteInfo, data: DataInfo) -> None:
    """Raise :class:`ReplyRefused` if sums are not those of what the site said that it has."""
    reason = "not valid statistics"
    if sums.classes != data.classes or sum(sums.class_counts) != card.num_train:
        raise ReplyRefused(reason, f"they are not of the site's {card.num_train} train samples")
    bands = sum(len(modality.bands) for modality in sums.modalities.values())
    if bands != data.bands:
        raise ReplyRefused(reason, f"they are of {bands} bands instead of {data.bands}")
    most = card.num_train * data.chip_px**2
    for name, modality in sums.modalities.items():
        if (modality.count > most).any():
            raise ReplyRefused(reason, f"modality {name} has more than {most} pixels a band")
    if not CommonStatistics.of(sums).finite:
        raise ReplyRefused(reason, "a mean or a standard deviation is too large for float32")


def _check_alike(told: dict[str, SiteSums]) -> None:
    (first, its), *others = told.items()
    for name, sums in others:
        if sums.bands_text != its.bands_text:
            raise RunError(
                f"site {name} has the modalities {sums.bands_text} and site {first} "
                f"{its.bands_text}: ingest all alike, or train with normalization=site"
            )
