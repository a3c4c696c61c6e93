"""What the sites of a run agree on: classes, modalities, and what the data is called.

What is right comes from the record of a resumed run, or else from the majority of the nodes, and
never from the one that answered first. Without a majority it is what the site says whose name comes
first, so that the order of arrival does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strategies.node_answer import NodeAnswer
from strategies.sites import DataInfo, ModalityInfo, most_common

MOST_LISTED = 10
"""Names of classes or sites in a line of the log."""


def agree(answers: Sequence[NodeAnswer], record: DataInfo | None) -> DataInfo:
    """Return the data that a run is about.

    Modalities are those of all nodes together; each is described as most of the nodes that have it
    describe it. ``answers`` is not empty.
    """
    ordered = sorted(answers, key=_first_name)
    classes = record.classes if record is not None and record.classes else ()
    classes = classes or most_common(answer.data.classes for answer in ordered)
    fitting = [answer for answer in ordered if answer.data.classes == classes]
    modalities = {} if record is None else {m.name: m for m in record.modalities}
    for answer in fitting:
        for name in answer.data.modality_names:
            if name not in modalities:
                modalities[name] = most_common(_descriptions(fitting, name))
    source = fitting or ordered
    return DataInfo(
        dataset=record.dataset if record else most_common(a.data.dataset for a in source),
        # If half of them say so, the results must be marked.
        synthetic=(
            record.synthetic
            if record
            else 2 * sum(answer.data.synthetic for answer in source) >= len(source)
        ),
        classes=classes,
        modalities=tuple(modalities.values()),
    )


def differences(answers: Sequence[NodeAnswer], data: DataInfo, *, recorded: bool) -> Iterator[str]:
    """Yield a line for each thing about which the nodes' answers differ from the agreed data.

    ``recorded`` says whether a resumed run's record decided, and not the majority.
    """
    ordered = sorted(answers, key=_first_name)
    if any(a.data.classes != data.classes for a in ordered):
        number = sum(a.data.classes == data.classes for a in ordered)
        source = "the record of the run decides" if recorded else "the majority decides"
        yield f"{number} of {len(ordered)} nodes have these classes, and {source}: " + _list(
            data.classes
        )
    others: dict[str, list[str]] = {}
    for answer in ordered:
        if answer.data.dataset != data.dataset:
            others.setdefault(answer.data.dataset, []).append(_first_name(answer))
    if others:
        texts = (f"'{name}' at {_list(sites)}" for name, sites in others.items())
        yield f"the data is called '{data.dataset}' in this run, and {', '.join(texts)}"
    marked = [_first_name(answer) for answer in ordered if answer.data.synthetic]
    if 0 < len(marked) < len(ordered) or (ordered and bool(marked) != data.synthetic):
        text = "counts as synthetic" if data.synthetic else "does not count as synthetic"
        yield f"the data of the run {text}; that of {_list(marked) or 'no site'} is marked so"


def _descriptions(answers: Sequence[NodeAnswer], name: str) -> Iterator[ModalityInfo]:
    for answer in answers:
        yield from (modality for modality in answer.data.modalities if modality.name == name)


def _first_name(answer: NodeAnswer) -> str:
    return min(site.name for site in answer.sites)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
