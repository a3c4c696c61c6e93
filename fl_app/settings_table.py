"""The settings as tables: for the documentation, and for ``rsdgc settings``."""

from __future__ import annotations

import json
from typing import Any

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from fl_app.setting_values import NameIn
from fl_app.settings import Settings, hyphenated

GROUPS = {
    "data_dir": "Data and folders",
    "method": "Method and compression",
    "aggregation": "Aggregation",
    "dp_noise_multiplier": "Differential privacy",
    "normalization": "Inputs",
    "model": "Model",
    "rounds": "Training",
    "fraction": "Sites",
    "evaluate_every": "Scores and checkpoints",
    "device": "Device",
}
"""Groups of the settings in tables, by the first setting of each."""


def settings_table() -> list[dict[str, Any]]:
    """Return group, key, default and meaning of all settings, in their order."""
    rows = []
    group = ""
    for name, field in Settings.model_fields.items():
        group = GROUPS.get(name, group)
        meaning = f"{field.description} {_allowed(field)}".strip()
        key = hyphenated(name)
        rows.append({"group": group, "key": key, "default": field.default, "meaning": meaning})
    return rows


def settings_by_group() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of :func:`settings_table` by group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in settings_table():
        groups.setdefault(row["group"], []).append(row)
    return groups


def markdown_table() -> str:
    """Return the tables of all settings for the documentation, one a group."""
    tables = []
    for group, rows in settings_by_group().items():
        lines = [f"### {group}", "", "| key | default | meaning |", "|---|---|---|"]
        for row in rows:
            text = row["meaning"].replace("|", "\\|")
            lines.append(f"| `{row['key']}` | `{json.dumps(row['default'])}` | {text} |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _allowed(field: FieldInfo) -> str:
    """Return the names that a setting accepts, in parentheses; empty for numbers and texts."""
    options = list(getattr(field.annotation, "__args__", ()))
    for rule in field.metadata:
        if isinstance(rule, AfterValidator) and isinstance(rule.func, NameIn):
            options = rule.func.names
    if not options or not all(isinstance(option, str) for option in options):
        return ""
    return "(" + ", ".join(f"`{option}`" for option in options) + ")"
