import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg

from rsdgc_flower import Compression, CompressionMod, DecodingStrategy
from rsdgc_flower.client_mod import ARRAYS
from rsdgc_flower.records import to_arrays
from tests.rsdgc_flower.app import client_app, grid, initial_arrays

CONFIG = ConfigRecord({"lr": 0.05})
MOD = CompressionMod(Compression("20x"))


class OwnStart(FedAvg):
    """As some of Flower's examples, which save the best model in their own loop."""

    def start(self, grid, initial_arrays, num_rounds=3, **options):
        arrays = initial_arrays
        for number in range(1, num_rounds + 1):
            messages = self.configure_train(number, arrays, CONFIG, grid)
            arrays, self.metrics = self.aggregate_train(number, grid.send_and_receive(messages))
        self.best = arrays
        return arrays


def changed(arrays):
    start = initial_arrays()["4.weight"].numpy()
    return bool(np.any(arrays["4.weight"].numpy() != start))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: DecodingStrategy(FedAdam()),
        lambda: DecodingStrategy(DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 3)),
    ],
)
def test_it_goes_around_other_strategies(wrap):
    result = wrap().start(grid(client_app(MOD)), initial_arrays(), 2, train_config=CONFIG)
    assert changed(result.arrays)
    assert result.train_metrics_clientapp[2]["train_loss"] > 0


def test_a_strategy_with_a_start_of_its_own_sees_decoded_models():
    inner = OwnStart()
    strategy = DecodingStrategy(inner)
    assert changed(strategy.start(grid(client_app(MOD)), initial_arrays(), num_rounds=2))
    assert changed(inner.best)
    assert strategy.bytes_up < strategy.dense_bytes_up / 4
    assert "configure_train" not in vars(inner)


def test_clients_without_the_mod_may_take_part():
    compressed, plain = client_app(MOD), client_app()

    def either(message, context):
        return (plain if context.node_id == 101 else compressed)(message, context)

    strategy = DecodingStrategy(FedAvg())
    result = strategy.start(grid(either), initial_arrays(), 2, train_config=CONFIG)
    assert changed(result.arrays)
    assert strategy.bytes_up < strategy.dense_bytes_up


def _residual(nodes):
    return nodes.contexts[101].state[ARRAYS]["residual"].numpy().copy()


def test_a_second_strategy_in_a_run_knows_what_the_first_has_decoded():
    """Otherwise a node would take it for lost, and send it again."""
    nodes = grid(client_app(MOD), nodes=1)
    first, second = (DecodingStrategy(FedAvg(1, 0, 1, 1, 1)) for _ in range(2))
    arrays = first.start(nodes, initial_arrays(), 2, train_config=CONFIG).arrays
    left = _residual(nodes)
    # Without a step of training nothing is sent that could change what is left.
    second.start(nodes, arrays, 1, train_config=ConfigRecord({"lr": 0.0}))
    assert np.array_equal(_residual(nodes), left)


def test_the_model_that_was_sent_is_read_once_a_round(monkeypatch):
    sizes = []

    def read(record):
        sizes.append(len(record))
        return to_arrays(record)

    monkeypatch.setattr("rsdgc_flower.decoding_strategy.to_arrays", read)
    strategy = DecodingStrategy(FedAvg(1, 0, 1, 1, 1))
    strategy.start(grid(client_app(MOD)), initial_arrays(), 2, train_config=CONFIG)
    assert len(sizes) == 2


def _damage(record, kind):
    payload = record["rsdgc"].numpy().copy()
    if kind == "bits":
        payload[40] ^= 1
    if kind == "short":
        payload = payload[:30]
    if kind == "type":
        payload = payload.astype(np.float32)
    return ArrayRecord({"rsdgc" if kind != "name" else "x": Array(payload)})


@pytest.mark.parametrize("kind", ["bits", "short", "type", "name", "number"])
def test_an_upload_that_is_not_valid_is_left_out(kind, caplog):
    def fault(message, reply):
        is_train = message.metadata.message_type == "train"
        if is_train and message.metadata.dst_node_id == 102:
            if kind == "number":
                reply.content["rsdgc"] = ConfigRecord({"upload": "many"})
            else:
                reply.content["arrays"] = _damage(reply.content["arrays"], kind)
        return reply

    strategy = DecodingStrategy(FedAvg())
    result = strategy.start(
        grid(client_app(MOD), fault=fault), initial_arrays(), 2, train_config=CONFIG
    )
    assert changed(result.arrays)
    assert "the upload of node 102 is left out" in caplog.text
    assert strategy._accepted == {101: 2, 103: 2}
