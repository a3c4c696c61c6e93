"""The messages of a round: what is packed for each site, what comes back, and what sites ask for.

A site whose replica does not match the patches asks for the whole model instead of sending an
upload, one that lacks the frozen part of the model or the reference of the channel transform asks
for that. Each is answered within the same round, once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from logging import WARNING
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.arrays import Float32
from rsdgc.errors import RunError
from rsdgc.frozen_part import FrozenPart
from strategies import messages
from strategies.downlink import Download
from strategies.ledger import FROZEN_GROUP, SiteEntry
from strategies.node_answer import modality_fields
from strategies.observer import RunObserver
from strategies.outbox import Outbox
from strategies.replies import is_request
from strategies.reply_objects import ReplyLimits
from strategies.running_statistics import RunningStatistics
from strategies.sites import SiteInfo, SiteManager
from strategies.transport import UPLOAD_CHUNK_BYTES, send_and_receive

SMALL_REPLY_BYTES = 64 * 1024
"""Bytes of a reply beside its upload and its counts: names, headers, the other numbers."""

MAX_COUNT_BYTES = 10
"""Bytes of a count as protobuf writes it."""

LACKING = {
    messages.FROZEN: "the frozen part of the model",
    messages.TRANSFORM: "the reference of the transform",
}
"""What a site lacks that asks for a part of a message."""


class Method(Protocol):
    """What a strategy sends, and what it expects."""

    def download(self, site: SiteInfo, *, whole: bool = False) -> Download:
        """Return the arrays that bring a site to the present model; the same ones if repeated."""
        ...

    def task_fields(self, site: SiteInfo, message_type: str) -> dict[str, Any]:
        """Return the fields of a site's task that the method adds."""
        ...

    def requests_whole_model(self, reply: Message) -> bool:
        """Return whether a reply asks for the whole model instead of carrying an upload."""
        ...

    def transform_reference(self) -> Download | None:
        """Return the reference of the channel transform; None if updates are not transformed."""
        ...

    def largest_upload(self) -> tuple[float, int]:
        """Return bytes and arrays that no valid upload of this round exceeds."""
        ...


class RoundExchange:
    """Packs and sends the messages of a round, and answers requests.

    Parameters
    ----------
    method : Method
        Decides what the messages hold.
    site_manager : SiteManager
        The sites.
    running : RunningStatistics
        Those of the model, which travel with every task.
    local : mapping of str to float32 array
        Entries of the model that stay at the sites, and come with the final evaluation.
    frozen : FrozenPart or None
        What sites have of the model and are not sent unless they ask; None if it is not compared.
    """

    def __init__(
        self,
        method: Method,
        site_manager: SiteManager,
        running: RunningStatistics,
        local: Mapping[str, Float32],
        frozen: FrozenPart | None,
    ) -> None:
        self.outbox = Outbox()
        self.timeout_s = 3600.0
        self.sent_at = 0.0  #: when the messages of the present round were sent, monotonic
        self._method = method
        self._site_manager = site_manager
        self._running = running
        self._local_bytes = sum(array.nbytes for array in local.values())
        self._frozen = frozen
        self._frozen_download: Download | None = None

    @property
    def entries(self) -> dict[str, SiteEntry]:
        """Entries of the ledger for the present round, by site."""
        return self.outbox.entries

    def message(self, message_type: str, site: SiteInfo, config: Mapping[str, Any]) -> Message:
        """Return a message to a site; its task has the fields of ``config``."""
        task: dict[str, Any] = {**config, messages.SITE: site.name}
        data = self._site_manager.data
        # A site with all of them, in this order, knows them.
        if site.modalities != data.modality_names:
            task |= modality_fields(data.modalities)
        if self._frozen is not None:
            task[messages.FROZEN] = self._frozen.digest
        task |= self._method.task_fields(site, message_type)
        return self._pack(message_type, site, ConfigRecord(task), self._method.download(site))

    def send(
        self,
        grid: Grid,
        server_round: int,
        message_type: str,
        configured: Iterable[Message],
        observer: RunObserver,
    ) -> list[Message]:
        """Record and send the messages of a round; return the replies that came in time."""
        to_send = list(configured)
        self.outbox.begin()
        for message in to_send:
            task = message.content.config_records.get(messages.TASK, ConfigRecord())
            name = str(task.get(messages.SITE, ""))
            if name not in self._site_manager.sites:
                raise RunError(
                    f"a message names site '{name}', which is not part of the run: "
                    "configure_train and configure_evaluate must set 'site' in each task"
                )
            download = self._method.download(self._site_manager.sites[name])
            # Arrays that an override put in are not known by group: they count as the task's.
            unchanged = message.content.get(messages.MODEL) is download.arrays
            groups = (download.groups if unchanged else {}) | self._running.groups()
            self.outbox.add(message, name, server_round, message_type, groups)
        observer.messages_sent(message_type, server_round, list(self.entries))

        def answer(index: int, reply: Message) -> Message | None:
            message = self._answer_request(index, reply)
            if message is None:
                observer.site_replied(self.outbox.sent[index].site)
            return message

        self.sent_at = time.monotonic()
        replies = send_and_receive(
            grid,
            to_send,
            self.timeout_s,
            follow_up=answer,
            unanswered=self.outbox.unanswered,
            limits=self._reply_limits(message_type),
        )
        return [reply for reply in replies if reply is not None]

    def _pack(
        self, message_type: str, site: SiteInfo, task: ConfigRecord, download: Download
    ) -> Message:
        content = RecordDict({messages.TASK: task})
        if download.arrays is not None:
            content[messages.MODEL] = download.arrays
        running = self._running.record()
        if running is not None:
            content[messages.RUNNING] = running
        # Longer than a round, so that a reply that comes too late is seen and counted.
        return Message(content, site.node_id, message_type, ttl=2 * self.timeout_s)

    def _reply_limits(self, message_type: str) -> ReplyLimits:
        """Return what no valid reply to the messages of a round exceeds."""
        num_classes = len(self._site_manager.data.classes)
        counts = len(messages.CLASS_COUNTS + messages.VAL_CLASS_COUNTS) * num_classes
        arrays = 0
        if message_type == MessageType.TRAIN:
            num_bytes, arrays = self._method.largest_upload()
            num_bytes += 2 * self._running.largest_bytes
        else:
            counts += num_classes**2
            num_bytes = 2 * self._local_bytes
        num_bytes = round(num_bytes) + SMALL_REPLY_BYTES
        arrays += 1 + num_bytes // UPLOAD_CHUNK_BYTES
        return ReplyLimits(num_bytes, arrays, SMALL_REPLY_BYTES + MAX_COUNT_BYTES * counts)

    def _answer_request(self, index: int, reply: Message) -> Message | None:
        """Return a message with the whole model if a reply asks for it, once a round and site.

        A site without the frozen part is sent that, too. It lacks the weights that the run started
        from, so neither its own version 0 nor its reference of the channel transform would be the
        server's. A site that lacks the reference alone is sent that.
        """
        sent = self.outbox.sent[index]
        entry = self.entries[sent.site]
        entry.reply_seconds = round(time.monotonic() - self.sent_at, 3)
        if entry.resynced:
            return None
        parts = self._requested_parts(reply)
        if parts:
            log(WARNING, "%s lacks %s: sending it", sent.site, LACKING[next(iter(parts))])
        elif self._method.requests_whole_model(reply):
            log(WARNING, "the replica of %s is out of sync: sending the whole model", sent.site)
        else:
            return None
        site = self._site_manager.sites[sent.site]
        model = self._method.download(site, whole=True)
        # The same task, so that an override's changes to it hold for the second message as well.
        task = sent.message.content.config_records[messages.TASK]
        message = self._pack(sent.message.metadata.message_type, site, task, model)
        groups = model.groups | self._running.groups()
        for part, download in parts.items():
            assert download.arrays is not None
            message.content[part] = download.arrays
            groups |= download.groups
        self.outbox.add_resync(index, reply, message, groups)
        return message

    def _requested_parts(self, reply: Message) -> dict[str, Download]:
        """Return what a reply asks for beside the model, what it lacks first; see above."""
        lacks_frozen = self._frozen is not None and is_request(reply, messages.FROZEN)
        if not lacks_frozen and not is_request(reply, messages.TRANSFORM):
            return {}
        reference = self._method.transform_reference()
        parts = {} if reference is None else {messages.TRANSFORM: reference}
        return {messages.FROZEN: self._frozen_part(), **parts} if lacks_frozen else parts

    def _frozen_part(self) -> Download:
        """Return the frozen part; it is packed once."""
        assert self._frozen is not None
        if self._frozen_download is None:
            array = Array(np.frombuffer(self._frozen.pack(), np.uint8))
            arrays = ArrayRecord({messages.PACKED: array})
            self._frozen_download = Download(arrays, {FROZEN_GROUP: len(array.data)})
        return self._frozen_download
