import pytest

from fl_app.flower.log_filter import LogFilter

PREFIX = "\x1b[92mINFO \x1b[0m:      "


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (PREFIX + "round 1/3 | accuracy 0.1\n", "round 1/3 | accuracy 0.1"),
        ("\x1b[93mWARNING \x1b[0m:   site-01 refused\n", "warning: site-01 refused"),
        (PREFIX + "\n", None),
        (PREFIX + "2026-11-26T13:50:02Z \n", None),
        ("\n", None),
        (PREFIX + "Starting logstream for run_id `1`\n", None),
        (PREFIX + "Start `flwr-serverapp` process\n", None),
        ("Successfully installed rsdgc to /somewhere\n", None),
        ("(ClientAppActor pid=7) WARNING :   Manually terminating ClientAppActor\n", None),
        (
            "\x1b[93mWARNING \x1b[0m:   a \x1b]0;title\x07 \u202eb\n",
            r"warning: a \x1b]0;title\x07 \u202eb",
        ),
        ("a line without a level\n", "a line without a level"),
    ],
)
def test_lines_lose_their_colors_and_flowers_own_are_left_out(raw: str, shown: str | None) -> None:
    assert LogFilter().show(raw) == shown


def test_an_error_is_kept_and_its_traceback_is_not_shown() -> None:
    view = LogFilter()
    assert view.show("\x1b[91mERROR \x1b[0m:   error: no site joined\n") is None
    assert view.show("Traceback (most recent call last):\n") is None
    assert view.show("\x1b[91mERROR \x1b[0m:   ServerApp thread raised\n") is None
    assert view.error == "no site joined"


@pytest.mark.parametrize(
    "begin", ["Exception: ", "\x1b[91mERROR \x1b[0m:   An exception occured!! "]
)
def test_a_machine_too_busy_for_ray_is_an_error_that_says_so(begin: str) -> None:
    view = LogFilter()
    line = "The current node timed out during startup. This could happen because "
    assert view.show(begin + line + "some of the raylet failed to startup.") is None
    assert view.show("\x1b[91mERROR \x1b[0m:   Traceback (most recent call last):") is None
    assert view.show("RuntimeError: Simulation Runtime crashed.") is None
    assert "this machine is busy" in view.error


def test_the_headline_is_kept_for_the_end() -> None:
    view = LogFilter()
    assert view.show(PREFIX + "report: /runs/a/report.html | accuracy 0.9\n") is None
    assert view.headline == "report: /runs/a/report.html | accuracy 0.9"


def test_times_are_shown_on_request() -> None:
    raw = "\x1b[93mWARNING \x1b[0m:   2026-11-26T13:50:02Z oslo: gone\n"
    assert LogFilter().show(raw) == "warning: oslo: gone"
    assert LogFilter(times=True).show(raw) == "2026-11-26T13:50:02Z warning: oslo: gone"
    folder = LogFilter(times=True)
    folder.show(PREFIX + "2026-11-26T13:50:02Z run folder: /runs/a\n")
    assert folder.folder == "/runs/a"
