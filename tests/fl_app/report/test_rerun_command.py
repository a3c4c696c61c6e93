import shlex
from pathlib import Path

from fl_app.report.rerun_command import command_text
from fl_app.runs.records import read_run
from tests.fl_app.report.fake_run import make_run


def test_the_command_is_made_of_the_settings(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "mine", data_path="my data"))
    words = shlex.split(command_text(run))
    assert words[:4] == ["rsdgc", "simulate", "--data", "my data"]
    assert words[words.index("--budget") + 1] == "100x"
    assert words[words.index("--out") + 1] == "runs/mine"
    assert "learning-rate=0.03" in words
    assert not any(word.startswith("augment") for word in words)  # the default
