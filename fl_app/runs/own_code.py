"""The user's own code that a run uses: its signatures, and whether it has changed since.

A run that goes on with another network, indicator, or rule than it began with is not one run.
Settings that name code of this project are left out: what another version of it may change is
checked by the layers of the model, and by each checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from fl_app.models.code_signature import OWN_PACKAGES, code_signature, model_signature
from fl_app.runs.records import RunConfig
from fl_app.settings import Settings, hyphenated
from rsdgc.errors import SettingError

SETTINGS = ("model", "method", "indicator", "values", "dense_values", "aggregation")
"""Fields of :class:`Settings` that may name code as ``package.module:name``."""


def code_signatures(settings: Settings) -> dict[str, str]:
    """Return the signature of the code behind each setting that names some, by hyphenated key.

    Raises :class:`SettingError` if a model cannot be built on this machine.
    """
    signatures = {}
    for name in SETTINGS:
        path = str(getattr(settings, name))
        package = path.partition(":")[0].partition(".")[0]
        if ":" in path and package not in OWN_PACKAGES:
            signature = model_signature(path) if name == "model" else code_signature(package)
            signatures[hyphenated(name)] = signature
    return signatures


def check_code(folder: Path, settings: Settings) -> None:
    """Raise :class:`SettingError` if code of the run in a folder has changed since it was started.

    Runs of earlier versions have recorded nothing of it.
    """
    before = RunConfig.read(folder).code
    for key, signature in code_signatures(settings).items():
        if before.get(key, signature) != signature:
            path = settings.to_mapping()[key]
            raise SettingError(
                f"the code of {key}={path} has changed since the run in {folder} was started: it "
                f"is {signature} instead of {before[key]}; restore it, or start a new run with "
                "another out"
            )
