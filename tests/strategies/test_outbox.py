from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from strategies.ledger import content_bytes
from strategies.outbox import Outbox
from strategies.transport import expected_replies
from tests.loopback import LoopbackGrid


def echo(message: Message, context: Context) -> Message:
    return Message(RecordDict({"task": message.content["task"]}), reply_to=message)


def send(grid: LoopbackGrid, outbox: Outbox, server_round: int, *sites: str) -> list[Message]:
    """Send a message to each site; return the replies in the order sent."""
    outbox.begin()
    for site in sites:
        content = RecordDict({"task": ConfigRecord({"site": site, "round": server_round})})
        message = Message(content, 101, MessageType.TRAIN)
        outbox.add(message, site, server_round, "train", {"header": 5})
    ids = grid.push_messages([sent.message for sent in outbox.sent])
    return [grid.replies.pop(message_id) for message_id in ids]


def test_replies_are_known_by_the_message_they_answer() -> None:
    grid, outbox = LoopbackGrid(echo, [{}], {}), Outbox()
    (old,) = send(grid, outbox, 1, "a")
    a, b = send(grid, outbox, 2, "a", "b")
    assert outbox.replies_by_site([b, old, a, b]) == {"a": a, "b": b}
    entry = outbox.entries["b"]
    num_bytes = content_bytes(outbox.sent[1].message.content)
    assert (entry.site, entry.round, entry.bytes_down) == ("b", 2, num_bytes)
    assert entry.down_by_group == {"header": 5, "task": num_bytes - 5}


def test_the_answer_to_a_resync_is_counted_apart() -> None:
    grid, outbox = LoopbackGrid(echo, [{}], {}), Outbox()
    (request,) = send(grid, outbox, 1, "a")
    first_bytes = outbox.entries["a"].bytes_down
    content = RecordDict({"task": ConfigRecord({"site": "a"})})
    answer = Message(content, 101, MessageType.TRAIN)
    outbox.add_resync(0, request, answer, {"whole model": 3})
    (message_id,) = grid.push_messages([answer])
    reply = grid.replies.pop(message_id)
    assert outbox.replies_by_site([reply]) == {"a": reply}
    entry, answer_bytes = outbox.entries["a"], content_bytes(content)
    assert entry.resynced
    assert entry.bytes_up == content_bytes(request.content)
    assert entry.bytes_down == first_bytes + answer_bytes
    assert entry.bytes_resync == entry.bytes_up + answer_bytes
    assert entry.down_by_group["whole model"] == 3


def test_a_late_error_counts_what_the_site_sent_and_nothing_that_flower_says() -> None:
    grid, outbox = LoopbackGrid(echo, [{}], {}), Outbox()
    send(grid, outbox, 1, "a")
    sent = outbox.sent[0].message
    outbox.unanswered.expect(expected_replies([outbox.sent[0].id], [sent]))
    send(grid, outbox, 2)
    error = Message(Error(code=0, reason="ä" * 10), reply_to=sent)
    outbox.unanswered.arrived.append(error)
    (entry,) = outbox.end()
    assert (entry.reason, entry.bytes_up, entry.failed) == ("late reply", 20, True)
    send(grid, outbox, 3, "a")
    outbox.unanswered.expect(expected_replies([outbox.sent[0].id], [outbox.sent[0].message]))
    unavailable = Message(Error(code=0, reason="Node Unavailable"), reply_to=outbox.sent[0].message)
    unavailable.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    send(grid, outbox, 4)
    outbox.unanswered.arrived.append(unavailable)
    assert outbox.end() == []


def test_a_late_reply_is_an_entry_of_its_own_once() -> None:
    grid, outbox = LoopbackGrid(echo, [{}], {}), Outbox()
    (late,) = send(grid, outbox, 1, "a")
    outbox.unanswered.expect(expected_replies([outbox.sent[0].id], [outbox.sent[0].message]))
    send(grid, outbox, 2, "a")
    outbox.unanswered.arrived.append(late)
    this_round, entry = outbox.end()
    assert this_round is outbox.entries["a"]
    assert (entry.site, entry.round, entry.phase, entry.reason) == ("a", 1, "late", "late reply")
    assert entry.bytes_up == content_bytes(late.content)
    assert outbox.end() == [this_round]
