"""A Flower grid in the test's process: the real apps and strategies, without Ray or a network.

It hands every message to a client function when it is pushed. The test chooses the faults: a
function that sees each reply may change it, drop it (return None) or raise; another decides how
often the message is delivered, and a site may be killed at work. A dropped reply may be put into
``replies`` later, under the id of its message.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Handler = Callable[[Message, Context], Message]
Fault = Callable[[Message, Message], Message | None]


class Killed(BaseException):
    """Stands for SIGKILL at a site: no handler of ordinary errors catches it."""


class LoopbackGrid(Grid):
    """Nodes are contexts; a message is handled when it is pushed.

    Attributes
    ----------
    away : set of int
        Nodes that are not connected.
    names : dict of int to str
        Registered names of nodes; without one, a node is as in a simulation.
    seen : list of Message
        All messages, in the order pushed.
    """

    def __init__(
        self,
        app: ClientApp | Handler,
        node_configs: Iterable[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        run_id: int = 7,
        fault: Fault = lambda message, reply: reply,
        times: Callable[[Message], int] = lambda message: 1,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1
        self.app = app
        self.fault = fault
        self.times = times
        self.away: set[int] = set()
        self.names: dict[int, str] = {}
        self.contexts = {
            node_id: Context(
                run_id=run_id,
                node_id=node_id,
                node_config=dict(config),
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node_id, config in enumerate(node_configs, start=101)
        }
        self.replies: dict[str, Message] = {}
        self.seen: list[Message] = []

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return [node_id for node_id in self.contexts if node_id not in self.away]

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=self.names.get(node, "")) for node in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(i) for i in list(message_ids) if i in self.replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _push(self, message: Message) -> str:
        message_id = uuid.uuid4().hex
        message.metadata.__dict__["_message_id"] = message_id
        self.seen.append(message)
        reply: Message | None = None
        try:
            for _ in range(self.times(message)):
                reply = self.app(message, self.contexts[message.metadata.dst_node_id])
        except Killed:
            reply = Message(Error(code=0, reason="the ClientApp crashed"), reply_to=message)
        except Exception as error:  # Flower turns whatever a client raises into an error reply
            reply = Message(Error(code=0, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
        changed = None if reply is None else self.fault(message, reply)
        if changed is not None:
            self.replies[message_id] = changed
        return message_id
