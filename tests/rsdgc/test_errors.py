"""Every deliberate error is one line, whatever stands in it."""

from __future__ import annotations

import errno

import pytest

from rsdgc.errors import DataError, RsdgcError, RunFolderError, SettingError, describe_os_error


@pytest.mark.parametrize("kind", [RsdgcError, SettingError, DataError, RunFolderError])
def test_an_error_is_one_line_of_printable_characters(kind: type[RsdgcError]) -> None:
    assert str(kind()) == ""
    path = "/data/a\nerror: forged\x1b[2J/two  spaces/\udcff"
    text = f"{path} is no store: {'x' * 3000}"
    shown = str(kind(text))
    assert shown.isprintable()
    assert shown.startswith("/data/a error: forged\\x1b[2J/two  spaces/\\udcff is no store: xxx")
    assert shown.endswith("x" * 3000)


def test_an_error_of_the_system_is_one_line() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/a\nb")
    assert describe_os_error(error) == "/data/a b: no such file or directory: check the path"
