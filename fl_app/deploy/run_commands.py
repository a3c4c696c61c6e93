"""The operator's commands on runs: start one, watch it, stop it, go on with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fl_app.deploy.party_config import ServerConfig
from fl_app.deploy.server_link import connect
from fl_app.deploy.site_registration import presence, registered
from fl_app.deploy.traffic import reconcile
from fl_app.flower.command import FlowerCli, FlowerRun
from fl_app.runs.folder import in_use, read_settings, reopen
from fl_app.runs.lock import lock_holder
from fl_app.settings import Settings, parse_overrides
from rsdgc.errors import RunError, SettingError

END_TIMEOUT_S = 30.0
"""For the end of a run whose server was killed: Flower ends its processes within some seconds."""


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
        The server does not answer, no site is registered, or the run ended in any way but well.
    """
    folder = config.runs_dir / out
    given = {**parse_overrides(overrides), **options, "out": str(folder)}
    settings = Settings.from_mapping(given)
    if in_use(folder):
        raise SettingError(
            f"run folder {folder} is not empty: choose another --out, or go on with "
            f"rsdgc server resume {out}"
        )
    flower = connect(config)
    sites = registered(config)
    if not sites:
        raise RunError("no site is registered: rsdgc server register")
    if "min-sites" not in given:
        settings = settings.model_copy(update={"min_sites": len(sites)})
    return _submit(flower, settings, folder)


def resume(config: ServerConfig, out: str, min_sites: int | None = None) -> Path:
    """Go on with a run that did not finish, from its last checkpoint, and follow it to its end.

    Parameters
    ----------
    config : ServerConfig
        The server.
    out : str
        Name of the run's folder in ``runs-dir``, or its absolute path.
    min_sites : int, optional
        Sites to wait for; as at the start if left out.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    RunError
        There is no such run, it is finished or still at work, or it ended in any way but well.
    """
    folder = config.runs_dir / out
    before, _ = read_settings(folder)
    changes = {"out": str(folder), "resume": True}
    settings = before.model_copy(
        update=changes if min_sites is None else {**changes, "min_sites": min_sites}
    )
    reopen(settings)
    flower = connect(config)
    _end_the_last(flower, folder)
    return _submit(flower, settings, folder)


def watch(config: ServerConfig, run_id: str | None = None) -> Path | None:
    """Say which sites are there and follow a run, by default the newest, to its end.

    Returns
    -------
    Path or None
        The run folder; None where there has been no run.

    Raises
    ------
    RunError
        The server does not answer, or the run ended in any way but well.
    """
    flower = connect(config)
    for line in status(config, flower):
        print(line, flush=True)
    runs = flower.runs()
    if run_id is None and not runs:
        return None
    return _follow(flower, run_id or runs[0].run_id)


def status(config: ServerConfig, flower: FlowerCli) -> Iterator[str]:
    """Say which sites are there, and what became of the runs.

    Raises
    ------
    RunError
        The server does not answer.
    """
    for site, state in presence(config, flower).items():
        yield f"{site}: {state}"
    for one in flower.runs():
        yield f"run {one.run_id}: {one.told}"


def stop(config: ServerConfig, run_id: str | None = None) -> FlowerRun:
    """Stop a run, by default the one that goes on; it can be resumed.

    Raises
    ------
    RunError
        The server does not answer, there is none, or Flower refuses.
    """
    flower = connect(config)
    if run_id is None:
        going_on = flower.going_on()
        if len(going_on) != 1:
            which = f"several runs go on ({', '.join(going_on)}): name one"
            raise RunError(which if going_on else "no run is going on")
        run_id = going_on[0]
    _stop(flower, run_id)
    return flower.outcome(run_id)


def _end_the_last(flower: FlowerCli, folder: Path) -> None:
    """See to it that a run's last start is over, in its folder and for Flower.

    The processes of a run end in a moment once their server is killed. Flower takes the run for one
    that goes on until a minute after its last sign of life.
    """
    last = lock_holder(folder)
    if last is not None and last.at_work:
        print(f"run {last.run_id} is at work: waiting {END_TIMEOUT_S:g} s for its end", flush=True)
    deadline = time.monotonic() + END_TIMEOUT_S
    while last is not None and last.at_work:
        if time.monotonic() > deadline:
            raise RunError(
                f"run {last.run_id} is at work in {folder}: rsdgc server watch, or rsdgc server "
                "stop, first"
            )
        time.sleep(0.2)
        last = lock_holder(folder)
    if last is not None and last.run_id in flower.going_on():
        _stop(flower, last.run_id)


def _stop(flower: FlowerCli, run_id: str) -> None:
    try:
        flower.order("stop", run_id, flower.connection)
    except RunError:
        if not flower.run(run_id).over:  # it may have ended just before
            raise


def _submit(flower: FlowerCli, settings: Settings, folder: Path) -> Path:
    run_id = flower.submit(settings)
    print(f"run {run_id}: started; it goes on when this command is left", flush=True)
    _follow(flower, run_id)
    return folder


def _follow(flower: FlowerCli, run_id: str) -> Path | None:
    log = flower.follow(run_id)
    again = f"; to go on: rsdgc server resume {Path(log.folder).name}" if log.folder else ""
    try:
        ended = flower.outcome(run_id)
    except RunError as error:
        raise RunError(f"the server answers no more ({error}); start it{again}") from None
    if not ended.over:
        raise RunError(f"run {run_id} goes on, but its log has ended: rsdgc server watch")
    if not ended.complete:
        reason = log.error or f"it ended as {ended.told}"
        raise RunError(f"run {run_id}: {reason}{again}")
    if log.folder and (traffic := reconcile(Path(log.folder), ended)) is not None:
        print(traffic.line(), flush=True)
    print(log.headline, flush=True)  # the command's last line
    return Path(log.folder) if log.folder else None
