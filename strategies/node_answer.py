"""What a node answers to the roll call, and what of that a server reads.

Every field is the node's own claim. One that is not of its type, or larger than any archive's,
refuses the node; its names and texts are one printable line each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message

from rsdgc.errors import RunError
from rsdgc.plain_text import MAX_NAME, is_plain, plain_line
from strategies import messages
from strategies.node_book import JoinRefused
from strategies.party_versions import WIRE_FORMAT, own_versions
from strategies.sites import DataInfo, ModalityInfo, ModelCode, SiteInfo
from strategies.transport import RefusedReply, error_summary
from strategies.validation import MAX_COUNT

Value = TypeVar("Value", str, int)
Scalar = TypeVar("Scalar", str, bool)

# Far above what archives have, and far below what would fill the server's memory.
MAX_SITES = 10_000
"""Sites of a node; only the nodes of a simulation have more than one."""
MAX_CLASSES = 10_000
MAX_MODALITIES = 62
"""One bit each in a whole number of Flower's records."""
MAX_BANDS = 4096
"""Bands of all modalities together."""
MAX_CHIP_PX = 8192

_FIELDS = frozenset(
    {
        *(messages.NAMES, messages.NUM_TRAIN, messages.NUM_TEST, messages.NUM_VAL),
        *(messages.CLASSES, messages.MODALITIES, messages.NUM_BANDS, messages.BANDS),
        *(messages.CHIP_PX, messages.LACKING, messages.DATASET, messages.SYNTHETIC),
        *(messages.MODEL_CODE, messages.MODEL_ERROR, messages.VERSIONS, messages.WIRE_FORMAT),
    }
)


@dataclass(frozen=True)
class NodeAnswer:
    """What a node answered: the data of its sites, and the sites. ``versions`` may be empty."""

    data: DataInfo
    sites: tuple[SiteInfo, ...]
    versions: tuple[str, ...] = ()


def site_record(data: DataInfo, sites: Sequence[SiteInfo]) -> ConfigRecord:
    """Return what a node answers to the roll call."""
    record = ConfigRecord(
        {
            messages.NAMES: [site.name for site in sites],
            messages.NUM_TRAIN: [site.num_train for site in sites],
            messages.NUM_TEST: [site.num_test for site in sites],
            messages.CLASSES: list(data.classes),
            **modality_fields(data.modalities),
            messages.DATASET: data.dataset,
            messages.SYNTHETIC: data.synthetic,
            messages.VERSIONS: own_versions(),
            messages.WIRE_FORMAT: WIRE_FORMAT,
        }
    )
    lacking = [
        sum(1 << i for i, name in enumerate(data.modality_names) if name not in site.modalities)
        for site in sites
    ]
    if any(lacking):
        record[messages.LACKING] = lacking
    if any(site.num_val for site in sites):
        record[messages.NUM_VAL] = [site.num_val for site in sites]
    return record


def claimed_names(reply: Message) -> list[str]:
    """Return the names of sites in an answer that may be anything else but readable."""
    record = reply.content.get(messages.SITE) if reply.has_content() else None
    names = record.get(messages.NAMES) if isinstance(record, ConfigRecord) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def read_answer(reply: Message, node: int, code: ModelCode | None) -> NodeAnswer:
    """Return a node's answer.

    Raises
    ------
    JoinRefused
        It is an error, cannot be read, or the node has other code of the run's model.
    """
    if isinstance(reply, RefusedReply):
        raise JoinRefused(reply.reason, reply.detail)
    if reply.has_error():
        raise JoinRefused("error at the site", error_summary(reply.error.reason))
    try:
        unknown = set(reply.content) - {messages.SITE}
        if unknown:
            raise _unreadable(f"the records {_shown(sorted(unknown))}")
        record = reply.content.config_records.get(messages.SITE, ConfigRecord())
        _check_code(record, code)
        return _read_record(record, node)
    except JoinRefused:
        raise
    except Exception as error:  # what no check foresaw must cost this node its part, and no other
        raise JoinRefused("unreadable answer", str(error)) from error


def modality_fields(modalities: Sequence[ModalityInfo]) -> dict[str, Any]:
    """Return the fields of a message that describe modalities."""
    return {
        messages.MODALITIES: [modality.name for modality in modalities],
        messages.NUM_BANDS: [len(modality.bands) for modality in modalities],
        messages.BANDS: [band for modality in modalities for band in modality.bands],
        messages.CHIP_PX: [modality.px for modality in modalities],
    }


def read_modalities(record: ConfigRecord) -> tuple[ModalityInfo, ...]:
    """Return the modalities of :func:`modality_fields`; :class:`RunError` if they are malformed."""
    names = _read_names(record, messages.MODALITIES, MAX_MODALITIES)
    counts = _read_counts(record, messages.NUM_BANDS, MAX_MODALITIES)
    bands = _read_names(record, messages.BANDS, MAX_BANDS)
    sides = _read_counts(record, messages.CHIP_PX, MAX_MODALITIES)
    if not (0 < len(names) == len(set(names)) == len(counts) == len(sides)):
        raise _unreadable(
            f"the modalities {_shown(names)} with the band counts {_shown(counts)} and sizes "
            f"{_shown(sides)}"
        )
    if min(counts) < 1 or sum(counts) != len(bands):
        raise _unreadable(f"{len(bands)} bands, and {_shown(counts)} by modality")
    if not 1 <= min(sides) <= max(sides) <= MAX_CHIP_PX:
        raise _unreadable(f"chips of {_shown(sides)} px; at most {MAX_CHIP_PX} are allowed")
    remaining = iter(bands)
    return tuple(
        ModalityInfo(name, tuple(islice(remaining, count)), px)
        for name, count, px in zip(names, counts, sides, strict=True)
    )


def _check_code(record: ConfigRecord, code: ModelCode | None) -> None:
    wire_format = record.get(messages.WIRE_FORMAT, WIRE_FORMAT)
    if wire_format != WIRE_FORMAT:
        raise JoinRefused(
            "other wire format",
            f"its uploads have format version {_shown(wire_format)}, the server's {WIRE_FORMAT}: "
            "install the server's version of rsdgc",
        )
    if code is None:
        return
    if messages.MODEL_ERROR in record:
        raise JoinRefused("other code", error_summary(str(record[messages.MODEL_ERROR])))
    code.compare(str(record.get(messages.MODEL_CODE, "an earlier version of rsdgc")))


def _read_record(record: ConfigRecord, node: int) -> NodeAnswer:
    unknown = set(record) - _FIELDS
    if unknown:
        raise _unreadable(f"the fields {_shown(sorted(unknown))}")
    data = DataInfo(
        dataset=plain_line(_read_value(record, messages.DATASET, str), MAX_NAME),
        synthetic=_read_value(record, messages.SYNTHETIC, bool),
        classes=tuple(_read_names(record, messages.CLASSES, MAX_CLASSES)),
        modalities=read_modalities(record),
    )
    if not data.classes or len(set(data.classes)) < len(data.classes):
        raise _unreadable(f"the classes {_shown(data.classes)}")
    names = _read_names(record, messages.NAMES, MAX_SITES)
    lacking, num_vals = (
        _read_counts(record, key, MAX_SITES) if key in record else []
        for key in (messages.LACKING, messages.NUM_VAL)
    )
    columns = (
        names,
        _read_counts(record, messages.NUM_TRAIN, MAX_SITES),
        _read_counts(record, messages.NUM_TEST, MAX_SITES),
        lacking or [0] * len(names),
        num_vals or [0] * len(names),
    )
    if len({len(column) for column in columns}) != 1:
        raise _unreadable(f"{len(names)} sites with other numbers of counts")
    if len(set(names)) < len(names):
        raise JoinRefused("name taken", f"two of its sites have one name: {_shown(names)}")
    sites = []
    for name, num_train, num_test, mask, num_val in zip(*columns, strict=True):
        own = [m for index, m in enumerate(data.modality_names) if not mask >> index & 1]
        if not own:
            raise _unreadable(f"a site {name} without a modality")
        # Means are weighted by the chips of training, and scores limited by the others.
        if num_train < 1 or max(num_train, num_test, num_val) >= MAX_COUNT:
            counts = f"{_shown(num_train)}, {_shown(num_test)} and {_shown(num_val)}"
            raise _unreadable(f"a site {name} of {counts} chips")
        sites.append(SiteInfo(name, node, num_train, num_test, tuple(own), num_val))
    versions = _read_names(record, messages.VERSIONS, 10) if messages.VERSIONS in record else []
    return NodeAnswer(data, tuple(sites), tuple(versions))


def _read_value(record: ConfigRecord, key: str, kind: type[Scalar]) -> Scalar:
    value = record.get(key)
    if not isinstance(value, kind):
        raise _unreadable(f"{key}={_shown(value)}")
    return value


def _read_names(record: ConfigRecord, key: str, limit: int) -> list[str]:
    """Return a list of names, each one printable line."""
    names = _read_list(record, key, str, limit)
    bad = next((name for name in names if not is_plain(name)), None)
    if bad is not None:
        raise _unreadable(
            f"{key} with {_shown(bad)}, which is not a line of 1 to {MAX_NAME} printable characters"
        )
    return names


def _read_counts(record: ConfigRecord, key: str, limit: int) -> list[int]:
    """Return a list of whole numbers from 0."""
    values = _read_list(record, key, int, limit)
    if any(value < 0 for value in values):
        raise _unreadable(f"{key}={_shown(values)}, in which no number may be negative")
    return values


def _read_list(record: ConfigRecord, key: str, kind: type[Value], limit: int) -> list[Value]:
    values = record.get(key)
    # Flower makes a list of bytes of an empty one, and Python counts True as a number.
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise _unreadable(f"{key}={_shown(values)}")
    if len(values) > limit:
        raise _unreadable(f"{len(values)} values of {key}; at most {limit} are allowed")
    return values  # type: ignore[return-value]


def _shown(value: object) -> str:
    """Return a value from a message for an error, not longer than a name."""
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        texts = [_shown(item) for item in islice(value, 10)]
        return f"[{', '.join(texts)}{', …' if len(value) > len(texts) else ''}]"
    # Of a long text, only the beginning is turned into what represents it.
    text = repr(value[:MAX_NAME]) if isinstance(value, str | bytes) else str(value)
    return plain_line(text, MAX_NAME) or "nothing"


def _unreadable(what: str) -> RunError:
    return RunError(
        f"a message has {what}, which cannot be read: install the same version at the server and "
        "at all sites"
    )
