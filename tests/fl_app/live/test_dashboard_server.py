"""The dashboard: what it serves, to whom, and what it shows as a run goes on."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_app.live.dashboard_page import SCRIPT, DashboardPage
from fl_app.live.dashboard_server import DashboardServer
from fl_app.live.status_file import StatusWriter
from fl_app.runs.lock import lock_run
from rsdgc.errors import RunFolderError, SettingError
from tests.command import rsdgc

ROOT = Path(__file__).parents[3]
SITES = [f"site-{number:02}" for number in range(4)]


@pytest.fixture
def server(run_folder: Path) -> Iterator[DashboardServer]:
    with DashboardServer(run_folder) as dashboard:
        thread = threading.Thread(target=dashboard.serve_forever, args=(0.02,))
        thread.start()
        yield dashboard
        dashboard.shutdown()
        thread.join()


def ask(
    server: DashboardServer, path: str, method: str = "GET", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{server.server_port}"} | headers).items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def test_the_page_its_script_and_the_report_are_served(server: DashboardServer) -> None:
    (server.folder / "report.html").write_text("<p>the report</p>")
    page = ask(server, "/")
    text = page.read().decode()
    assert page.status == 200
    assert "20 of 20 rounds" in text
    assert "<h1" in text
    assert text.count("<svg") == 3
    assert ask(server, "/dashboard.js").read().decode() == SCRIPT
    assert ask(server, "/report.html").read() == b"<p>the report</p>"
    assert ask(server, "/", "HEAD").read() == b""


def test_every_answer_has_the_headers_that_keep_it_here(server: DashboardServer) -> None:
    for path in ("/", "/dashboard.js", "/report.html", "/nothing"):
        headers = ask(server, path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    "path",
    [
        *("/config.json", "/rounds.jsonl", "/run.lock", "/state/", "/?x=1", "/index.html"),
        *("/../config.json", "/report.html/../config.json", "/%2e%2e/config.json", "http://a/"),
        "/model.safetensors",
    ],
)
def test_nothing_else_is_served(server: DashboardServer, path: str) -> None:
    (server.folder / "report.html").write_text("<p>the report</p>")
    answer = ask(server, path)
    assert answer.status == 404
    assert answer.read() == b"the dashboard has no such page\n"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost", 200), ("127.0.0.1:9", 200), ("LOCALHOST:8080", 200), ("[::1]:80", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("192.168.1.7", 421)),
        *(("evil.example:127.0.0.1", 421), ("localhost@evil.example", 421), ("", 421)),
    ],
)
def test_only_names_of_this_machine_are_answered(
    server: DashboardServer, host: str, status: int
) -> None:
    assert ask(server, "/dashboard.js", Host=host).status == status


def test_it_listens_on_the_loopback_alone(server: DashboardServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(server: DashboardServer, method: str) -> None:
    assert ask(server, "/", method).status == 501


def test_a_port_that_is_taken_is_one_line(server: DashboardServer, run_folder: Path) -> None:
    with pytest.raises(SettingError, match=rf"^port {server.server_port} .* --port"):
        DashboardServer(run_folder, server.server_port)


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.txt").write_text("")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        DashboardServer(tmp_path)
    assert rsdgc(monkeypatch, "dashboard", tmp_path / "gone") == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_the_page_follows_the_run(run_folder: Path) -> None:
    (run_folder / "summary.json").unlink()
    lines = {}
    for name in ("history.jsonl", "rounds.jsonl"):
        lines[name] = (run_folder / name).read_text().splitlines(keepends=True)

    def go_to(last: int) -> None:
        for name, all_lines in lines.items():
            kept = [line for line in all_lines if json.loads(line)["round"] <= last]
            (run_folder / name).write_text("".join(kept))

    page, writer = DashboardPage(run_folder), StatusWriter(run_folder, 20)
    go_to(-1)
    with lock_run(run_folder, 8):
        assert "Preparing round 1 of 20" in page.html()
        assert "The curves begin when" in page.html()
        go_to(8)
        writer.messages_sent("train", 9, SITES)
        writer.site_replied("site-01")
        text = page.html()
        assert 'data-state="running"' in text
        assert "Round 9 of 20" in text
        assert "1 of 4 sites have replied" in text
        assert text.count("<td>at work</td>") == 3
        curves = re.search(r'id="curves".*?</section>', text, re.S)[0]
        writer.site_replied("site-02")
        text = page.html()
        assert "2 of 4 sites have replied" in text
        assert curves in text  # not drawn again
        go_to(9)
        assert curves not in page.html()
    assert "Ended after round 9 of 20, not complete" in page.html()


def test_a_damaged_file_is_named_on_the_page(run_folder: Path) -> None:
    (run_folder / "summary.json").unlink()
    (run_folder / "history.jsonl").write_text("<script>\n")
    text = DashboardPage(run_folder).html()
    assert "history.jsonl line 1 is damaged" in text


def test_a_run_that_was_deleted_or_moved_is_said_to_be_gone(run_folder: Path) -> None:
    page = DashboardPage(run_folder)
    assert "20 of 20 rounds" in page.html()
    elsewhere = run_folder.rename(run_folder.with_name("elsewhere"))
    text = page.html()
    assert f"{run_folder} is not a run folder" in text
    assert "20 of 20 rounds" not in text
    elsewhere.rename(run_folder)
    assert "20 of 20 rounds" in page.html()


def test_names_from_the_data_are_escaped(run_folder: Path) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    config["data"]["sites"] = ["<script>alert(1)</script>"]
    config["data"]["name"] = "<img src=x>"
    (run_folder / "config.json").write_text(json.dumps(config))
    text = DashboardPage(run_folder).html()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.slow
def test_ctrl_c_is_its_ordinary_end(run_folder: Path) -> None:
    # A shell ignores SIGINT for what it runs in the background: these tests, for instance.
    command = ["env", "--default-signal=INT", sys.executable]
    command += ["-m", "fl_app.cli", "dashboard", str(run_folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert b"20 of 20 rounds" in answer.read()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # nothing, where it has ended
    assert (process.returncode, err) == (0, "")
    assert out.endswith("the dashboard has ended\n")
