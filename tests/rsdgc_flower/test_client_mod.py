import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from rsdgc import Scheme
from rsdgc.errors import RunError, SettingError
from rsdgc_flower import Compression, CompressionMod, DecodingStrategy
from rsdgc_flower.client_mod import ARRAYS
from rsdgc_flower.records import to_arrays
from tests.rsdgc_flower.app import client_app, grid, initial_arrays, network

CONFIG = ConfigRecord({"lr": 0.05})
EXACT = Compression("1x", scheme=Scheme(values="float32", dense_values="float32"))


def run(app, strategy=None, rounds=4, **options):
    nodes = grid(app, **options)
    strategy = strategy or DecodingStrategy(FedAvg(1, 1, 1, 1, 1))
    result = strategy.start(nodes, initial_arrays(), num_rounds=rounds, train_config=CONFIG)
    return result, strategy, nodes


def test_one_line_at_each_side_saves_bytes_and_keeps_accuracy():
    dense, _, _ = run(client_app(), FedAvg())
    result, strategy, _ = run(client_app(CompressionMod(Compression("20x"))))
    scores = [r.evaluate_metrics_clientapp[4]["accuracy"] for r in (dense, result)]
    assert scores[1] > scores[0] - 0.1
    assert list(result.train_metrics_clientapp[1]) == ["train_loss"]
    # Three clients, four rounds, a model of 5,300 bytes and its framing in Flower's records.
    assert strategy.bytes_up < strategy.dense_bytes_up / 4
    assert list(result.arrays) == list(dense.arrays)
    assert [a.dtype for a in result.arrays.values()] == [a.dtype for a in dense.arrays.values()]


def test_without_compression_the_result_is_that_of_the_app_alone():
    dense, _, _ = run(client_app(), FedAvg(), rounds=1)
    result, _, _ = run(client_app(CompressionMod(EXACT)), rounds=1)
    for name, array in dense.arrays.items():
        expected = torch.from_numpy(array.numpy().copy()).float()
        got = torch.from_numpy(result.arrays[name].numpy().copy()).float()
        assert torch.allclose(got, expected, rtol=5e-3, atol=1e-4), name


def test_the_state_of_the_node_keeps_what_was_left_out():
    _, _, nodes = run(client_app(CompressionMod(Compression("20x"))), rounds=1)
    residual = nodes.contexts[101].state[ARRAYS]["residual"].numpy()
    assert residual.size == sum(p.numel() for p in network().parameters())
    assert residual.any()


def test_a_lost_upload_is_sent_again():
    """The residual after a lost reply holds the whole change, and the next upload sends it."""
    lost = []

    def fault(message, reply):
        first = not lost and message.metadata.message_type == "train"
        lost.append(message) if first else None
        return None if first else reply

    _, _, nodes = run(
        client_app(CompressionMod(Compression("20x"))), rounds=2, nodes=1, fault=fault
    )
    _, _, again = run(client_app(CompressionMod(Compression("20x"))), rounds=1, nodes=1)
    # The first upload was the same in both; in the first run it went back to the residual.
    sizes = [
        float(abs(each.contexts[101].state[ARRAYS]["residual"].numpy()).sum())
        for each in (nodes, again)
    ]
    assert len(lost) == 1
    assert sizes[0] > sizes[1]


def test_a_budget_alone_is_refused_when_the_mod_is_made():
    with pytest.raises(SettingError, match=r"^compression is .20x.: pass an"):
        CompressionMod("20x")


def test_a_server_that_does_not_decode_is_named():
    nodes = grid(client_app(CompressionMod()))
    message = Message(RecordDict({"arrays": initial_arrays(), "config": CONFIG}), 101, "train")
    with pytest.raises(RunError, match="DecodingStrategy"):
        nodes.app(message, nodes.contexts[101])


@pytest.mark.parametrize("arrays", [{}, {"other": 1}, {"arrays": 1, "other": 1}])
def test_a_reply_without_the_model_is_refused(arrays):
    def answer(message, context, call_next):
        records = {name: ArrayRecord({"x": torch.zeros(3)}) for name in arrays}
        content = RecordDict({**records, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    errors = []

    def fault(message, reply):
        errors.append(reply.error.reason if reply.has_error() else "")
        return reply

    run(client_app(CompressionMod(Compression("20x")), answer), rounds=1, nodes=1, fault=fault)
    assert "RunError" in errors[0]
    assert "model of the reply" in errors[0] or "records of arrays" in errors[0]


INTEGERS = {"index": np.arange(9), "flags": np.array([True, False]), "seed": np.array([7], "u4")}


def _with_integers(message, context, call_next):
    """Stand for an app whose model has entries of integers, too; in another order than before."""
    requested = to_arrays(message.content["arrays"])
    for name, array in INTEGERS.items():
        assert np.allclose(requested.pop(name), array), name
    weights = {name: Array(array) for name, array in requested.items()}
    message.content["arrays"] = ArrayRecord(weights)
    reply = call_next(message, context)
    integers = {name: Array(array) for name, array in INTEGERS.items()}
    reply.content["arrays"] = ArrayRecord(integers | dict(reply.content["arrays"]))
    return reply


def test_a_model_with_integers_and_flags_is_sent_in_every_round():
    """The server's mean of them is of floating point, yet they are no weights."""
    integers = {name: Array(array) for name, array in INTEGERS.items()}
    nodes = grid(client_app(CompressionMod(Compression("20x")), _with_integers))
    strategy = DecodingStrategy(FedAvg(1, 0, 1, 1, 1))
    arrays = ArrayRecord(dict(initial_arrays()) | integers)
    result = strategy.start(nodes, arrays, num_rounds=3, train_config=CONFIG)
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    residual = nodes.contexts[101].state[ARRAYS]["residual"].numpy()
    assert residual.size == sum(p.numel() for p in network().parameters())
    for name, array in INTEGERS.items():
        np.testing.assert_allclose(result.arrays[name].numpy(), array)
        assert result.arrays[name].numpy().dtype == np.float64


def test_another_model_in_the_same_run_is_named():
    nodes = grid(client_app(CompressionMod(Compression("20x"))), nodes=1)
    strategy = DecodingStrategy(FedAvg(1, 0, 1, 1, 1))
    strategy.start(nodes, initial_arrays(), num_rounds=1, train_config=CONFIG)

    def answer(message, context, call_next):
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"n": 1})}
        return Message(RecordDict(content), reply_to=message)

    content = {
        "arrays": ArrayRecord({"x": torch.zeros(99, 99)}),
        "rsdgc": ConfigRecord({"accepted": 1}),
    }
    message = Message(RecordDict(content), 101, "train")
    with pytest.raises(RunError, match="train one model in a run"):
        client_app(CompressionMod(Compression("20x")), answer)(message, nodes.contexts[101])
