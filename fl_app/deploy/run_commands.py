"""The operator's commands for runs: start one, watch it, stop it, resume it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl_app.deploy.party_config import ServerConfig
from fl_app.deploy.server_link import connect
from fl_app.deploy.site_registration import read_registered, site_states
from fl_app.flower.command import FlowerCli, FlowerRun
from fl_app.runs.folder import check_resumable, in_use, read_settings
from fl_app.runs.lock import lock_holder
from fl_app.settings import Settings, parse_overrides
from rsdgc.durable import replace_text
from rsdgc.errors import RunError, SettingError
from strategies.round_log import human_bytes

END_TIMEOUT_S = 30.0
"""A run's processes end within some seconds after their server was killed; several times that."""
_POLL_S = 0.2


def run(config: ServerConfig, out: str, overrides: list[str], options: Mapping[str, Any]) -> Path:
    """Start a run and follow it to its end.

    Parameters
    ----------
    config : ServerConfig
        The server.
    out : str
        Name of the run's folder in ``runs-dir``, or an absolute path.
    overrides : list of str
        Settings as ``key=value``.
    options : mapping
        Settings by key; ``min-sites`` is by default the number of registered sites.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    SettingError
        A setting is wrong, or the folder is not empty.
    RunError
        The server does not answer, no site is registered, or the run did not complete.
    """
    folder = config.runs_dir / out
    given = {**parse_overrides(overrides), **options, "out": str(folder)}
    settings = Settings.from_mapping(given)
    if in_use(folder):
        raise SettingError(
            f"run folder {folder} is not empty: choose another --out, or continue that run with "
            f"rsdgc server resume {out}"
        )
    flower = connect(config)
    sites = read_registered(config)
    if not sites:
        raise RunError("no site is registered: run rsdgc server register")
    if "min-sites" not in given:
        settings = settings.model_copy(update={"min_sites": len(sites)})
    return _submit_and_follow(flower, settings, folder)


def resume(config: ServerConfig, out: str, min_sites: int | None = None) -> Path:
    """Continue an unfinished run from its last checkpoint and follow it to its end.

    Parameters
    ----------
    config : ServerConfig
        The server.
    out : str
        Name of the run's folder in ``runs-dir``, or its absolute path.
    min_sites : int, optional
        Sites to wait for; by default as many as when the run was started.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    RunError
        The run does not exist, is finished or still at work, or did not complete.
    """
    folder = config.runs_dir / out
    original, _ = read_settings(folder)
    changes: dict[str, Any] = {"out": str(folder), "resume": True}
    if min_sites is not None:
        changes["min_sites"] = min_sites
    settings = original.model_copy(update=changes)
    check_resumable(settings)
    flower = connect(config)
    _end_previous_attempt(flower, folder)
    return _submit_and_follow(flower, settings, folder)


def watch(config: ServerConfig, run_id: str | None = None) -> None:
    """Print the state of sites and runs, then follow a run, by default the newest, to its end.

    Raises
    ------
    RunError
        The server does not answer, or the run did not complete.
    """
    flower = connect(config)
    runs = flower.runs()
    for line in _describe(config, flower, runs):
        print(line, flush=True)
    if run_id is not None or runs:
        _follow(flower, run_id or runs[0].run_id)


def stop(config: ServerConfig, run_id: str | None = None) -> FlowerRun:
    """Stop a run, by default the active one; it can be resumed.

    Raises
    ------
    RunError
        The server does not answer, no run or several are active, or Flower refuses.
    """
    flower = connect(config)
    if run_id is None:
        active = flower.active_run_ids()
        if not active:
            raise RunError("no run is active")
        if len(active) > 1:
            raise RunError(
                f"{len(active)} runs are active ({', '.join(active)}): name the one to stop"
            )
        run_id = active[0]
    _stop(flower, run_id)
    return flower.outcome(run_id)


def _describe(config: ServerConfig, flower: FlowerCli, runs: list[FlowerRun]) -> Iterator[str]:
    for site, state in site_states(config, flower).items():
        yield f"{site}: {state}"
    for flower_run in runs:
        yield f"run {flower_run.run_id}: {flower_run.description}"


def _end_previous_attempt(flower: FlowerCli, folder: Path) -> None:
    """Wait until the run's previous attempt has left its folder, and stop it in Flower's database.

    A run's processes end some seconds after their server was killed. Flower itself lists the run
    as running until a minute after its last sign of life, and there is no need to wait for that.
    """
    holder = lock_holder(folder)
    if holder is not None and holder.at_work:
        print(
            f"run {holder.run_id} is still at work: waiting up to {END_TIMEOUT_S:g} s for its end",
            flush=True,
        )
    deadline = time.monotonic() + END_TIMEOUT_S
    while holder is not None and holder.at_work:
        if time.monotonic() > deadline:
            raise RunError(
                f"run {holder.run_id} is at work in {folder}: follow it with rsdgc server watch, "
                "or end it with rsdgc server stop"
            )
        time.sleep(_POLL_S)
        holder = lock_holder(folder)
    if holder is not None and holder.run_id in flower.active_run_ids():
        _stop(flower, holder.run_id)


def _stop(flower: FlowerCli, run_id: str) -> None:
    try:
        flower.request("stop", run_id, flower.connection)
    except RunError:
        # Flower refuses to stop a run that has just ended by itself, which is what is wanted.
        if not flower.run(run_id).over:
            raise


def _submit_and_follow(flower: FlowerCli, settings: Settings, folder: Path) -> Path:
    run_id = flower.submit(settings)
    print(f"run {run_id}: started; it continues if you leave this command", flush=True)
    _follow(flower, run_id)
    return folder


def _follow(flower: FlowerCli, run_id: str) -> None:
    """Print a run's log to its end, and raise :class:`RunError` if it did not complete."""
    log = flower.follow(run_id)
    how_to_resume = f"; continue it with rsdgc server resume {Path(log.folder).name}"
    if not log.folder:  # it ended before it had a folder
        how_to_resume = ""
    try:
        ended = flower.outcome(run_id)
    except RunError as error:
        raise RunError(
            f"the server no longer answers ({error}): start it with rsdgc server start"
            f"{how_to_resume}"
        ) from None
    if not ended.over:
        raise RunError(
            f"run {run_id} is still running, but its log has ended: follow it again with rsdgc "
            "server watch"
        )
    if not ended.complete:
        raise RunError(
            f"run {run_id}: {log.error or f'it ended as {ended.description}'}{how_to_resume}"
        )
    if log.folder and (traffic := _compare_traffic(Path(log.folder), ended)) is not None:
        print(traffic.line(), flush=True)
    print(log.headline, flush=True)  # names the report, so it comes last


@dataclass(frozen=True)
class Traffic:
    """Bytes of a run by the byte ledger and by Flower's count, as ``traffic.json`` has them.

    Flower counts the calls by which sites fetch messages and send replies. They carry the contents
    that the ledger counts, and beside them lists of objects, acknowledgements, and the messages of
    the join phase.

    Attributes
    ----------
    ledger_up, ledger_down : int
        Contents of the messages, as in ``summary.json``.
    wire_up, wire_down : int
        Flower's count.
    """

    ledger_up: int
    ledger_down: int
    wire_up: int
    wire_down: int

    def line(self) -> str:
        """Return Flower's count, and its excess over the ledger, for a person."""
        up, down = (
            f"{human_bytes(wire)} ({wire / ledger - 1.0:+.2%}"
            for wire, ledger in (
                (self.wire_up, self.ledger_up),
                (self.wire_down, self.ledger_down),
            )
        )
        return f"on the wire, as Flower counts it: up {up} of the ledger), down {down})"


def _compare_traffic(folder: Path, run: FlowerRun) -> Traffic | None:
    """Write ``traffic.json`` into a run's folder and return its content.

    Returns None for a resumed run: its ledger covers all attempts since the first, but Flower's
    count only this one.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if str(config["run_id"]) != run.run_id:
        return None
    traffic = Traffic(summary["bytes_up"], summary["bytes_down"], run.bytes_up, run.bytes_down)
    replace_text(folder / "traffic.json", json.dumps(asdict(traffic), indent=1))
    return traffic
