"""The codec under another Flower app in a deployment: bytes and accuracy without and with it.

The app is that of the notebook ``docs/notebooks/own_flower_app.ipynb``, as a folder for ``flwr
run``. A real SuperLink and two real SuperNodes run it on the loopback, without TLS, first as it is
and then with one line at each side.

    python -m benchmarks.other_flower_app --rounds 10
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.netns import terminated
from fl_app.flower.command import FlowerCli, FlowerRun
from fl_app.flower.processes import managed_process
from fl_app.flower.superlink import CONNECTION, free_ports, superlink, tool
from rsdgc.errors import RunError

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "own_flower_app.ipynb"
NODES = 2
TIMEOUT_S = 1800.0
RESULT = "result.json"
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "quickstart"
version = "1.0.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "nobody"

[tool.flwr.app.components]
serverapp = "quickstart.server_app:app"
clientapp = "quickstart.client_app:app"

[tool.flwr.app.config]
rounds = {rounds}
result = {result}
"""
CLIENT = """
from quickstart.task import add_functions
from flwr.clientapp import ClientApp
from rsdgc_flower import Compression, CompressionMod

app = add_functions(ClientApp({mods}))
"""
SERVER = """
import json
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from quickstart.task import network
from rsdgc_flower import DecodingStrategy

app = ServerApp()


@app.main()
def main(grid, context):
    rounds = context.run_config["rounds"]
    strategy = DecodingStrategy(FedAvg())  # without uploads of the mod it only counts
    arrays, config = ArrayRecord(network().state_dict()), ConfigRecord({"lr": 0.03})
    history = strategy.start(
        grid=grid, initial_arrays=arrays, num_rounds=rounds, train_config=config
    )
    accuracy = history.evaluate_metrics_clientapp[rounds]["eval_acc"]
    result = {"bytes": strategy.bytes_up, "accuracy": accuracy}
    Path(context.run_config["result"]).write_text(json.dumps(result))
"""


def write_app(folder: Path, rounds: int, mods: str) -> Path:
    """Write the notebook's app, with these arguments of its ClientApp, for ``flwr run``."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    package = folder / "quickstart"
    package.mkdir(parents=True)
    task = code[0] + "\n\n" + code[1].partition("\nplain_client")[0]
    for name, text in (
        ("__init__", ""),
        ("task", task),
        ("client_app", CLIENT.format(mods=mods)),
        ("server_app", SERVER),
    ):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    project = PROJECT.format(rounds=rounds, result=json.dumps(str(folder / RESULT)))
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    return folder


def run(cli: FlowerCli, app: Path) -> tuple[FlowerRun, dict[str, float]]:
    """Run an app to its end; return Flower's record of it, and what its server wrote."""
    answer = cli.query("run", str(app), CONNECTION)
    run_id = str(answer.get("run-id"))
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        record = cli.run(run_id)
        if record.over:
            break
        time.sleep(1.0)
    if not record.complete:
        raise RunError(f"run {run_id} did not complete: {record.description}")
    return record, json.loads((app / RESULT).read_text(encoding="utf-8"))


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", default="100x", help="of the mod")
    args = parser.parse_args()
    with ExitStack() as stack:
        stack.enter_context(terminated())
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="rsdgc-other-app-"))
        work = Path(name)
        home = work / "flower"
        home.mkdir()
        environment, port = stack.enter_context(superlink(home, simulation=False))
        for number, node_port in enumerate(free_ports(NODES)):
            node = f"partition-id={number} num-partitions={NODES}"
            command = [tool("flower-supernode"), "--insecure", "--port", str(node_port)]
            command += ["--superlink", f"127.0.0.1:{port}"]
            log = work / f"node-{number}.log"
            stack.enter_context(
                managed_process([*command, "--node-config", node], environment, log)
            )
        print("| app | content of the replies | from the sites, by Flower's count | accuracy |")
        print("|---|---|---|---|", flush=True)
        cli = FlowerCli(environment)
        mod = f'mods=[CompressionMod(Compression("{args.budget}"))]'
        for title, mods in (("as it is", ""), (f"with the mod, {args.budget}", mod)):
            app = write_app(work / title.replace(" ", "-"), args.rounds, mods)
            record, result = run(cli, app)
            print(
                f"| {title} | {result['bytes']:,} | {record.bytes_up:,} | "
                f"{result['accuracy']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
