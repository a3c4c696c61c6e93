"""An app of somebody else: written as Flower's examples are, and knowing nothing of rsdgc."""

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from tests.loopback import LoopbackGrid


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


def data(node):
    generator = torch.Generator().manual_seed(node)
    labels = torch.randint(0, 4, (64,), generator=generator)
    images = torch.randn(64, 3, 8, 8, generator=generator) * 0.5
    images += labels[:, None, None, None] - 1.5
    return images, labels


def add_functions(app):
    @app.train()
    def train(message, context):
        model = network()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), message.content["config"]["lr"], 0.9)
        images, labels = data(context.node_id)
        for start in range(0, 64, 16):
            optimizer.zero_grad()
            part = slice(start, start + 16)
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            loss.backward()
            optimizer.step()
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"train_loss": loss.item(), "num-examples": 64}),
        }
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        model = network().eval()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        images, labels = data(1000 + context.node_id)
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).float().mean().item()
        metrics = MetricRecord({"accuracy": right, "num-examples": 64})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def client_app(*mods):
    return add_functions(ClientApp(mods=list(mods)))


def grid(app, nodes=3, **options):
    return LoopbackGrid(app, [{}] * nodes, {}, **options)


def initial_arrays():
    return ArrayRecord(network().state_dict())
