from __future__ import annotations

import tomllib
from pathlib import Path

from benchmarks import other_flower_app


def test_the_app_of_the_notebook_becomes_a_folder_that_flower_can_run(tmp_path: Path) -> None:
    mod = 'mods=[CompressionMod(Compression("50x"))]'
    app = other_flower_app.write_app(tmp_path / "app", 3, mod)
    with (app / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)["tool"]["flwr"]["app"]
    assert config["config"] == {"rounds": 3, "result": str(app / "result.json")}
    names: dict[str, object] = {}
    for path in sorted((app / "quickstart").glob("*.py")):
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        if path.stem == "task":
            exec(code, names)
    assert {"network", "load_data", "add_functions"} <= names.keys()
    assert "plain_client" not in names
    assert f"ClientApp({mod})" in (app / "quickstart" / "client_app.py").read_text()
