"""The operator's commands for runs: start one, watch it, stop it, resume it."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl_app.deploy.model_check import check_model
from fl_app.deploy.party_config import ServerConfig
from fl_app.deploy.server_link import connect, read_registered, site_states
from fl_app.flower.command import FlowerCli, FlowerRun
from fl_app.flower.superlink import CONNECTION
from fl_app.live.terminal_view import run_display
from fl_app.runs.lock import lock_holder
from fl_app.runs.records import TRAFFIC_FILE, RunConfig, RunSummary
from fl_app.runs.replacement import in_use
from fl_app.runs.resumption import settings_to_resume
from fl_app.settings import Settings, merge_options, parse_overrides
from fl_app.tracking import check_installed
from rsdgc.durable import replace_text
from rsdgc.errors import RunError, SettingError
from strategies.round_log import human_bytes

END_TIMEOUT_S = 60.0
"""A run's processes end within some seconds after their server was killed; several times that."""
_POLL_S = 0.2


def run(config: ServerConfig, out: str, overrides: list[str], options: Mapping[str, Any]) -> None:
    """Start a run and follow it to its end.

    ``out`` is the name of the run's folder in ``runs-dir``, or an absolute path. The settings are
    ``options`` and, as ``key=value``, ``overrides``; ``min-sites`` is by default the number of
    registered sites.
    """
    folder = run_folder(config, out)
    own = {"code-dir": str(config.code_dir), "site-names": "registered"}
    given = {**own, **merge_options(overrides, {**options, "out": str(folder)})}
    settings = Settings.from_mapping(given)
    _refuse_state_dir(settings.state_dir)
    check_installed(settings.trackers)
    settings = settings.with_absolute_paths()
    check_model(settings.model, settings.code_dir, settings.initial_weights())
    if in_use(folder):
        raise SettingError(
            f"run folder {folder} is not empty: choose another --out, or continue that run with "
            f"rsdgc server resume {shlex.quote(out)}"
        )
    flower = connect(config)
    sites = read_registered(config)
    if not sites:
        raise RunError("no site is registered: run rsdgc server register")
    if "min-sites" not in given:
        settings = settings.model_copy(update={"min_sites": len(sites)})
    _say_who_is_busy(flower, config)
    _submit_and_follow(flower, config, settings)


def run_folder(config: ServerConfig, out: str) -> Path:
    """Return the run folder of a name, or of a path; :class:`SettingError` if it can be no run's.

    A run in a folder that holds ``runs-dir``, or is it, would be beside the folders of all others.
    """
    folder = Path(os.path.normpath(config.runs_dir / out))
    if Path(os.path.normpath(config.runs_dir)).is_relative_to(folder):
        raise SettingError(
            f"--out {shlex.quote(out)} is {folder}, which holds the folders of all runs: give a "
            "name of its own"
        )
    return folder


def run_name(config: ServerConfig, folder: Path) -> str:
    """Return the word by which a command finds a run: its name in ``runs-dir``, or its path."""
    runs_dir = os.path.normpath(config.runs_dir)
    return str(folder.relative_to(runs_dir) if folder.is_relative_to(runs_dir) else folder)


def _refuse_state_dir(state_dir: object) -> None:
    if state_dir:
        raise SettingError(
            f"state-dir={state_dir} changes nothing: each site keeps its state where its own "
            "site.toml says; leave it out"
        )


def resume(
    config: ServerConfig, out: str, overrides: list[str], min_sites: int | None = None
) -> None:
    """Continue an unfinished run from its last checkpoint and follow it to its end.

    ``out`` is the name of the run's folder in ``runs-dir``, its absolute path, or Flower's number
    of the run. It waits for ``min_sites`` sites, by default for as many as when it was started.
    ``overrides`` are ``key=value`` for what :func:`~fl_app.runs.resumption.settings_to_resume`
    allows.
    """
    folder = config.runs_dir / folders_by_run(config.runs_dir).get(out, out)
    settings = settings_to_resume(folder, overrides)
    _refuse_state_dir(parse_overrides(overrides).get("state-dir"))
    check_installed(settings.trackers)
    check_model(settings.model, settings.code_dir, settings.initial_weights())
    changes: dict[str, Any] = {"site_names": "registered"}
    if min_sites is not None:
        changes["min_sites"] = min_sites
    settings = settings.model_copy(update=changes)
    flower = connect(config)
    _end_previous_attempt(flower, folder)
    _say_who_is_busy(flower, config)
    _submit_and_follow(flower, config, settings)


def overview(config: ServerConfig) -> dict[str, Any]:
    """Return the state of all sites and runs, the newest run first, for ``watch --json``."""
    flower = connect(config)
    folders = folders_by_run(config.runs_dir)
    runs = [{**asdict(run), "folder": folders.get(run.run_id)} for run in flower.runs()]
    return {"sites": site_states(config, flower), "runs": runs}


def watch(config: ServerConfig, wanted: str | None = None) -> None:
    """Print the state of sites and runs, then follow a run to its end.

    ``wanted`` is Flower's number of the run or the name of its folder; by default, what
    :func:`choose_run` prefers.
    """
    flower = connect(config)
    runs, folders = flower.runs(), folders_by_run(config.runs_dir)
    chosen = choose_run(runs, folders, wanted) if wanted or runs else None
    for site, state in site_states(config, flower).items():
        print(f"{site}: {state}", flush=True)
    for flower_run in runs:
        print(f"run {label(flower_run.run_id, folders)}: {flower_run.description}", flush=True)
    if chosen is not None:
        print(f"following run {label(chosen, folders)}", flush=True)
        _follow(flower, config, chosen)


def stop(config: ServerConfig, wanted: str | None = None) -> FlowerRun:
    """Stop a run, by default the active one; it can be resumed.

    ``wanted`` is Flower's number of the run or the name of its folder.
    """
    flower, folders = connect(config), folders_by_run(config.runs_dir)
    if wanted is None:
        active = flower.active_run_ids()
        if not active:
            raise RunError("no run is active")
        if len(active) > 1:
            listed = ", ".join(label(each, folders) for each in active)
            raise RunError(f"{len(active)} runs are active: {listed}. Name the one to stop")
        wanted = active[0]
    chosen = choose_run(flower.runs(), folders, wanted)
    _stop(flower, chosen)
    return flower.outcome(chosen)


def folders_by_run(runs_dir: Path) -> dict[str, str]:
    """Return the name of the run folder by Flower's number of the last run that worked in it."""
    folders = sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []
    holders = {folder.name: lock_holder(folder) for folder in folders if folder.is_dir()}
    return {holder.run_id: name for name, holder in holders.items() if holder is not None}


def label(run_id: str, folders: Mapping[str, str]) -> str:
    """Return a run's number, and its folder if it has one."""
    return f"{run_id} ({folders[run_id]})" if run_id in folders else run_id


def choose_run(runs: Sequence[FlowerRun], folders: Mapping[str, str], wanted: str | None) -> str:
    """Return Flower's number of the run that is meant.

    Parameters
    ----------
    runs : sequence of FlowerRun
        All runs, the newest first.
    folders : mapping of str to str
        Folders by run, as :func:`folders_by_run` returns them.
    wanted : str or None
        A number or the name of a folder. By default the newest run that goes on; else the newest
        that has a folder, for one without did not even begin; else the newest.

    Raises
    ------
    RunError
        No run has this number or folder.
    """
    if wanted is None:
        active = [run for run in runs if not run.over]
        begun = [run for run in runs if run.run_id in folders]
        return (active or begun or list(runs))[0].run_id
    numbers = [run.run_id for run in runs]
    by_name = [number for number in numbers if folders.get(number) == wanted]
    if wanted in numbers or by_name:
        return (by_name or [wanted])[0]
    listed = ", ".join(label(number, folders) for number in numbers[:10]) or "none"
    raise RunError(f"run {wanted!r} is not known. Runs of this server: {listed}")


def _say_who_is_busy(flower: FlowerCli, config: ServerConfig) -> None:
    """Say which runs the sites already work for."""
    folders = folders_by_run(config.runs_dir)
    active = [label(run_id, folders) for run_id in flower.active_run_ids()]
    if active:
        print(
            f"run {', '.join(active)} is active: the sites share their time, so rounds take "
            "longer; rsdgc server stop ends one",
            flush=True,
        )


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
        flower.request("stop", run_id, CONNECTION)
    except RunError:
        # Flower refuses to stop a run that has just ended by itself, which is what is wanted.
        if not flower.run(run_id).over:
            raise


def _submit_and_follow(flower: FlowerCli, config: ServerConfig, settings: Settings) -> None:
    run_id = flower.submit(settings)
    print(f"run {run_id}: started; it continues if you leave this command", flush=True)
    _follow(flower, config, run_id)


def _follow(flower: FlowerCli, config: ServerConfig, run_id: str) -> None:
    """Print a run's log to its end, and raise :class:`RunError` if it did not complete."""
    with run_display() as display:
        display.stage(f"following run {run_id}")
        log = flower.follow(run_id, times=True, show=display.show)
    # A run that ends early has no folder, and so nothing to continue.
    name = shlex.quote(run_name(config, Path(log.folder)))
    how_to_resume = f"; continue it with rsdgc server resume {name}" if log.folder else ""
    try:
        ended = flower.outcome(run_id)
    except RunError as error:
        remedy = f"start it with rsdgc server start{how_to_resume}"
        raise RunError(f"the server no longer answers ({error}): {remedy}") from None
    if not ended.over:
        raise RunError(
            f"run {run_id} is still running, but its log has ended: follow it again with rsdgc "
            "server watch"
        )
    if not ended.complete:
        reason = log.error or f"it ended as {ended.description}"
        raise RunError(f"run {run_id}: {reason}{how_to_resume}")
    if log.folder:
        _compare_traffic(Path(log.folder), ended)
    print(log.headline, flush=True)  # names the report, so it comes last


def _compare_traffic(folder: Path, run: FlowerRun) -> None:
    """Write ``traffic.json`` and print a line: bytes by the byte ledger, and by Flower's count.

    Flower counts the calls by which sites fetch messages and send replies. They carry the contents
    that the ledger counts, and beside them lists of objects, acknowledgements, and the messages of
    the join phase.
    """
    if str(RunConfig.read(folder).run_id) != run.run_id:
        # Resumed: the ledger covers all attempts since the first, but Flower's count only this one.
        return
    summary = RunSummary.read(folder)
    traffic = {
        "ledger_up": summary.bytes_up,
        "ledger_down": summary.bytes_down,
        "wire_up": run.bytes_up,
        "wire_down": run.bytes_down,
    }
    replace_text(folder / TRAFFIC_FILE, json.dumps(traffic, indent=1))
    up, down = (
        f"{human_bytes(wire)} ({wire / ledger - 1.0:+.2%}"
        for wire, ledger in ((run.bytes_up, summary.bytes_up), (run.bytes_down, summary.bytes_down))
    )
    print(f"on the wire, as Flower counts it: up {up} of the ledger), down {down})", flush=True)
