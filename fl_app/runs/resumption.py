"""Which run a folder holds, and with which settings it can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_app.runs.records import CONFIG_FILE, MODEL_FILE, SUMMARY_FILE, RunConfig
from fl_app.settings import Scalar, Settings, parse_overrides
from rsdgc.errors import RunFolderError, SettingError

FOLDERS = frozenset({"data-dir", "out", "state-dir", "code-dir"})
"""Settings that name a folder, which may be elsewhere on another day or another machine."""

MAY_CHANGE = FOLDERS | {
    *("resume", "device", "sites-per-gpu", "gpu-share", "threads"),
    *("min-sites", "join-timeout-s", "round-timeout-s", "checkpoint-every", "checkpoint-keep"),
    *("site-names", "tracking"),
}
"""Settings that a resumed run may change: they do not enter its result."""

OF_THE_COMMAND = ("out", "resume", "site-names")
"""Settings that the command decides by which a run is resumed."""

WEIGHTS = "init-weights"
"""Names a file that may be elsewhere, too; its content is compared when the model is built."""

BEFORE_THE_SETTING = {
    "step-ahead": 0.0,
    "transform": "none",
    "max-site-share": 1.0,
    "suspend-after": 0,
}
"""What runs did before there was a setting, where that is not the setting's default."""


def read_settings(folder: Path) -> tuple[Settings, int]:
    """Return the settings that a run was started with, and its number."""
    if not (folder / CONFIG_FILE).exists():
        raise RunFolderError(f"{folder} holds no run to resume: {_what_it_is(folder)}")
    config = RunConfig.read(folder)
    keys = set(Settings.keys())
    try:
        # Settings that this version no longer has are left out.
        known = {key: value for key, value in config.settings.items() if key in keys}
        return Settings.from_mapping(BEFORE_THE_SETTING | known), config.run_id
    except SettingError as error:
        raise RunFolderError(
            f"{folder / CONFIG_FILE} is damaged ({error}): the run cannot be resumed"
        ) from None


def settings_to_resume(folder: Path, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings with which the run in a folder is resumed: its own, and ``key=value``.

    Raises
    ------
    RunFolderError
        The folder holds no run that can be resumed.
    SettingError
        A word names no setting, or one that the result depends on.
    """
    first, _ = read_settings(folder)
    changes = parse_overrides(list(overrides))
    for key, value in changes.items():
        if key in OF_THE_COMMAND:
            reason = f"{key} is decided by the command that resumes the run"
        elif not _may_change(key, first.to_mapping()[key], value):
            reason = f"{key} enters the run's result, so it stays as it was"
        else:
            continue
        free = ", ".join(sorted(MAY_CHANGE - FOLDERS - set(OF_THE_COMMAND)))
        raise SettingError(
            f"{reason}: leave it out. A run that is resumed may change {free}, and the paths of "
            f"its folders but out, and of {WEIGHTS}"
        )
    values = {**first.to_mapping(), **changes, "out": str(folder), "resume": True}
    settings = Settings.from_mapping(values).with_absolute_paths()
    check_resumable(settings)
    return settings


def check_resumable(settings: Settings) -> tuple[Path, int]:
    """Check that the run in ``settings.out`` can be resumed, and return its folder and number.

    Raises RunFolderError if there is none or it is finished, and SettingError if a setting that the
    result depends on differs from the run's.
    """
    if not settings.out:
        raise SettingError("resume=true needs out: name the folder of the run to resume")
    folder = Path(settings.out).absolute()
    first, run_id = read_settings(folder)
    if (folder / SUMMARY_FILE).exists():
        raise RunFolderError(
            f"the run in {folder} is finished: there is nothing to resume. To train its model "
            f"further, start a new run with {WEIGHTS}={folder / MODEL_FILE}"
        )
    old, new = first.to_mapping(), settings.to_mapping()
    for key in old:
        if old[key] != new[key] and not _may_change(key, old[key], new[key]):
            raise SettingError(
                f"{key} was {old[key]!r} when the run in {folder} was started and is "
                f"{new[key]!r} now: resume with the same settings"
            )
    return folder, run_id


def _may_change(key: str, before: Scalar, now: Scalar) -> bool:
    """Return whether a resumed run may have another value of a setting."""
    return key in MAY_CHANGE or (key == WEIGHTS and bool(before) and bool(now))


def _what_it_is(folder: Path) -> str:
    """Say why a path is not the folder of a run, and which one may be meant."""
    if not folder.is_dir():
        return "it is not a folder; name one that rsdgc simulate or server run has written"
    runs = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
    if runs:
        return f"it holds folders of runs, such as {runs[0]}; name one, or start the compare again"
    return f"it has no {CONFIG_FILE}; name a folder that rsdgc simulate or server run has written"
