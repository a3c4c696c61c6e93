"""Flower's own way of a message in the test's process, without Ray or a network.

The grid is that of a deployment, and the SuperLink's functions and link state are the real ones.
Every message becomes objects, which are sent and stored one by one, as over a network. A test may
change the objects of a reply before its site sends them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory, in_memory_linkstate
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_children_ids_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import HttpGrid
from flwr.superlink.servicer.runtime import runtime_handlers

from tests.loopback import Handler

HEARTBEAT_S = 3600.0
DIVIDER = b"\0"


@dataclass(frozen=True)
class Objects:
    """The objects of a message by id; ``root`` is the message's own.

    ``tree`` is what the sender declares of them, which by default is what their heads say.
    ``withheld`` are declared and never sent.
    """

    root: str
    contents: Mapping[str, bytes]
    tree: ObjectTree | None = None
    withheld: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, message: Message) -> Objects:
        nested = get_all_nested_objects(message)
        return cls(message.object_id, {key: value.deflate() for key, value in nested.items()})

    def kind(self, object_id: str) -> str:
        return self.contents[object_id].partition(b" ")[0].decode(errors="replace")

    def ids(self, kind: str) -> list[str]:
        return [object_id for object_id in self.contents if self.kind(object_id) == kind]

    def body(self, object_id: str) -> bytes:
        return self.contents[object_id].partition(DIVIDER)[2]

    def with_body(self, object_id: str, body: bytes, head: bytes | None = None) -> Objects:
        """Return the objects with another body in one, under its new id; and its first head."""
        own = self.contents[object_id].partition(DIVIDER)[0] if head is None else head
        first, _, _ = own.rpartition(b" ")
        return self.with_content(object_id, first + b" %d" % len(body) + DIVIDER + body)

    def with_content(self, object_id: str, content: bytes) -> Objects:
        """Return the objects with other bytes for one; those that name it get new ids, too."""
        contents = dict(self.contents)
        changed = {object_id: content}
        root = self.root
        while changed:
            old, new = changed.popitem()
            del contents[old]
            new_id = hashlib.sha256(new).hexdigest()
            root = new_id if old == root else root
            for other, present in contents.items():
                holder = changed.get(other, present)
                if old.encode() in holder:
                    changed[other] = holder.replace(old.encode(), new_id.encode())
            contents[new_id] = new
        return replace(self, root=root, contents=contents)

    def declared(self) -> ObjectTree:
        return self.tree or self._tree(self.root, 9)

    def _tree(self, object_id: str, depth: int) -> ObjectTree:
        try:
            children = get_object_children_ids_from_object_content(self.contents[object_id])
        except (ValueError, KeyError):
            children = []
        # The SuperLink itself refuses a tree with an id that is none, or with one twice.
        known = dict.fromkeys(child for child in children if child in self.contents)
        below = [self._tree(child, depth - 1) for child in known] if depth else []
        return ObjectTree(object_id=object_id, children=below)


def identify(run_id: int = 7) -> None:
    """Tell Flower which run this process serves; messages cannot be made before."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1


Tamper = Callable[[Message, Objects], Objects | None]


class SuperLinkClient:
    """Calls the SuperLink's functions with messages that are serialized, as over HTTP."""

    def __init__(self, state: Any, task: Task) -> None:
        self._state, self._task = state, task

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
        handler = getattr(runtime_handlers, words)

        def call(request: Any) -> Any:
            received = type(request).FromString(request.SerializeToString())
            answer = handler(received, self._state, self._task)
            return type(answer).FromString(answer.SerializeToString())

        return call


class LinkGrid(HttpGrid):
    """The grid of a deployment, over a link state in this process.

    Parameters
    ----------
    app : callable
        Answers the messages to all nodes.
    count : int
        Number of nodes; their ids are 101, 102, …
    tamper : callable
        Returns what a site sends in the place of its reply's objects; None: nothing.
    names : sequence of str
        Under which the nodes' keys are registered; by default none has a name.
    """

    def __init__(
        self,
        app: Handler,
        count: int,
        tamper: Tamper = lambda message, objects: objects,
        run_id: int = 7,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(token="token")
        identify(run_id)
        factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        self.state: Any = factory.state()
        run = Run.create_empty(run_id)
        run.primary_task_id = 1
        run.federation_id = "@none/default"
        self.state.run_ids[run_id] = in_memory_linkstate.RunRecord(run=run)
        self.state.task_store[1] = task = Task(task_id=1, run_id=run_id)
        self.set_run(run)
        self._client = SuperLinkClient(self.state, task)
        self.app, self.tamper = app, tamper
        self.node_ids = list(range(101, 101 + count))
        with patch.object(
            in_memory_linkstate, "generate_rand_int_from_bytes", side_effect=self.node_ids
        ):
            for index, number in enumerate(self.node_ids):
                name = names[index] if names else None
                key = b"key %d" % number
                node = self.state.create_node("owner", "owner", key, HEARTBEAT_S, name=name)
                self.state.acknowledge_node_heartbeat(node, HEARTBEAT_S)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = list(super().push_messages(messages))
        for node_id in self.node_ids:
            for message in self.state.get_message_ins(node_id=node_id, limit=None):
                self.send(message, self._answer(self._receive(message)))
        return ids

    def send(self, message: Message, reply: Message) -> None:
        """Send a reply as its site would: first its list of objects, then the objects."""
        objects = self.tamper(message, Objects.of(reply))
        if objects is not None:
            self.send_objects(reply, objects)

    def send_objects(self, reply: Message, objects: Objects) -> None:
        reply.metadata.__dict__["_message_id"] = objects.root
        run_id = self.run.run_id
        session = self.state.start_session(run_id)
        stored, _ = self.state.store_message_and_object_tree(reply, objects.declared(), session)
        assert stored, "the SuperLink itself has refused the reply"
        for object_id, content in objects.contents.items():
            if object_id not in objects.withheld:
                self.state.store_object(run_id, session, object_id, content)

    def _receive(self, message: Message) -> Message:
        root = message.metadata.message_id
        store = self.state.object_store
        ids = [node.object_id for node in iterate_object_tree(store.get_object_tree(root))]
        received = inflate_object_from_contents(root, {i: store.get(i) for i in ids})
        assert isinstance(received, Message)
        received.metadata.__dict__["_message_id"] = root
        return received

    def _answer(self, message: Message) -> Message:
        context = Context(7, message.metadata.dst_node_id, {}, RecordDict(), {})
        try:
            return self.app(message, context)
        except Exception as error:  # Flower turns whatever a client raises into an error reply
            return Message(Error(code=0, reason=str(error)), reply_to=message)
