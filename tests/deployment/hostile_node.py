"""A registered site that speaks to a live SuperLink itself, and sends what no app would send."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supernode.fleet_http_connection import http_request_response

from fl_app.client_app import app
from fl_app.deploy.credentials import read_private
from fl_app.deploy.party_config import read_site
from fl_app.settings import Settings
from strategies import messages
from strategies.transport import MALFORMED_REPLY, OVERSIZED_REPLY, chunk_upload
from tests.deployment.parties import Running
from tests.flower_link import Objects, identify

HOSTILE = "site-02"
ROUNDS = 4
"""As many as there are attacks on an update."""
RUN = {
    "model": "small-cnn",
    "rounds": ROUNDS,
    "budget": "10x",
    "batch-size": 8,
    "learning-rate": 0.02,
    "device": "cpu",
    "suspend-after": 0,  # it would not be asked a fourth time
}

Attack = Callable[[Message, Objects], Objects]


def nested(message: Message, objects: Objects) -> Objects:
    return objects.with_body(objects.ids("RecordDict")[0], b"[" * 10_000)


def repeated(message: Message, objects: Objects) -> Objects:
    target = objects.ids("Array")[0]
    fields = json.loads(objects.body(target)) | {"arraychunk_ids": [0] * 20_000}
    return objects.with_body(target, json.dumps(fields).encode())


def large(message: Message, objects: Objects) -> Objects:
    upload = chunk_upload(np.random.default_rng(0).bytes(8 * 2**20))
    return Objects.of(Message(RecordDict({messages.UPDATE: upload}), reply_to=message))


def no_message(message: Message, objects: Objects) -> Objects:
    return Objects(objects.ids("RecordDict")[0], objects.contents)


def error(message: Message, objects: Objects) -> Objects:
    return Objects.of(Message(Error(code=0, reason="\x1b[2J" * 5000), reply_to=message))


ATTACKS: tuple[tuple[Attack, str], ...] = (
    (nested, MALFORMED_REPLY),
    (repeated, OVERSIZED_REPLY),
    (large, OVERSIZED_REPLY),
    (no_message, MALFORMED_REPLY),
)


class HostileNode(threading.Thread):
    """Joins as its site does, works on each task, and tampers with the objects of its replies."""

    def __init__(self, running: Running, state_dir: Path) -> None:
        super().__init__(daemon=True)
        self._config = read_site(running.federation.site_file(HOSTILE))
        self._run_config = Settings.from_mapping(RUN).to_mapping()
        self._node_config = {
            "site-name": HOSTILE,
            "data-dir": str(running.data),
            "state-dir": str(state_dir),
        }
        self._attacks = [attack for attack, _ in ATTACKS] + [error]
        self.stop = threading.Event()
        self.failure = ""

    def run(self) -> None:
        try:
            self._work()
        except Exception:
            self.failure = traceback.format_exc()

    def _work(self) -> None:
        key = read_private(self._config.private_key)
        endpoint = self._config.server_endpoint
        certificate = self._config.ca_certificate.read_bytes()
        with http_request_response(
            endpoint.address, False, certificate, (key, key.public_key())
        ) as (node_id, receive, send, _, _, pull, push, confirm):
            while not self.stop.is_set():
                received = receive()
                if received is None:
                    time.sleep(0.5)
                    continue
                run_id, tree = received[0].metadata.run_id, received[1]
                listed = [each.object_id for each in iterate_object_tree(tree)]
                contents = pull_objects(listed, partial(pull, run_id))  # as they become available
                message = inflate_object_from_contents(tree.object_id, contents)
                confirm(run_id, tree.object_id)
                assert isinstance(message, Message)
                message.metadata.__dict__["_message_id"] = tree.object_id
                reply, objects = self._reply(message, run_id, node_id)
                wanted, session = send(reply, objects.declared(), 0.0)
                for object_id, content in objects.contents.items():
                    # The server deletes a reply that it has refused while the rest of it arrives.
                    with suppress(ObjectPushError):
                        if object_id in wanted:
                            push(run_id, session, object_id, content)

    def _reply(self, message: Message, run_id: int, node_id: int) -> tuple[Message, Objects]:
        identify(run_id)
        state = RecordDict()
        reply = app(message, Context(run_id, node_id, self._node_config, state, self._run_config))
        objects = Objects.of(reply)
        if message.metadata.message_type != "query":
            objects = self._attacks.pop(0)(message, objects)
        reply.metadata.__dict__["_message_id"] = objects.root
        return reply, objects
