"""The whole page: what it shows, what it must not do."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fl_app.report import imagery, write_report
from fl_app.report.page import command_text
from fl_app.runs.records import read_run
from rsdgc.errors import RunError
from tests.data_prep.pictures.fake_store import FakeData, FakeStore, folder_store, scene_store
from tests.fl_app.report.fake_run import make_run

VOID = {"meta", "link", "img", "br", "hr", "input"}
SECTIONS = ["accuracy", "map", "classes", "site-scores", "sites", "ratios", "time", "refused"]
SECTIONS += ["each-round", "settings"]


class Page(HTMLParser):
    """Checks nesting while it collects tags, ids, text and everything that loads something."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        for name in ("src", "href", "xlink:href", "data", "poster", "srcset", "action"):
            if found.get(name) and tag != "a":
                self.loads.append(str(found[name]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def use(monkeypatch: pytest.MonkeyPatch, store: FakeStore) -> None:
    labels = store.manifest.column("label").to_numpy()

    def predict(_run, _store, chips: np.ndarray) -> np.ndarray:
        return np.where(chips % 7 == 0, (labels[chips] + 1) % 10, labels[chips])

    monkeypatch.setattr(imagery, "open_data", lambda _path: FakeData(store))
    monkeypatch.setattr(imagery, "predict", predict)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 rounds with its report, for tests that change neither."""
    folder = make_run(tmp_path_factory.mktemp("reported") / "demo")
    write_report(folder)
    return folder


def test_the_page_is_whole_and_fetches_nothing(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scene_store(chip_px=32))
    path = write_report(run_folder, tmp_path)
    assert path == run_folder / "report.html"
    page = Page(path)
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("data:", "#")) for link in page.loads)
    assert not re.search(r"https?://|@import|//cdn", page.source)
    assert "script" not in page.tags
    assert path.stat().st_size < 2_000_000
    assert page.tags.count("image") >= 4
    for link in re.findall(r'href="#([^"]+)"', page.source):
        assert link in page.ids


def test_the_numbers_are_those_of_the_run(reported: Path) -> None:
    summary = read_run(reported).summary
    page = Page(reported / "report.html")
    assert summary.accuracy is not None
    assert f"{100 * summary.accuracy:.1f} %" in page.text
    assert "84.2 %" in page.text
    assert "0.853" in page.text
    assert f"{summary.bytes_up / 1e6:.2f} MB" in page.text
    assert f"{(summary.bytes_up + summary.bytes_down) / 1e6:.0f} MB" in page.text
    assert "in total 2.0×" in page.text
    assert "up 100×" in page.text
    assert "down 1.0×" in page.text
    assert "4 sites trained small-resnet (1.18 M values) together for 20 rounds" in page.text
    assert "1/100 of the dense model" in page.text
    assert "rsdgc simulate --data data-elsewhere" in page.text
    assert "learning-rate" in page.text
    assert "1.41.0" in page.text


def test_refused_and_missing_uploads_are_named(reported: Path) -> None:
    page = Page(reported / "report.html")
    assert "site-02 (no reply)" in page.text
    assert "not a valid upload" in page.text


def test_synthetic_data_is_called_so_in_every_section_of_results(reported: Path) -> None:
    source = (reported / "report.html").read_text()
    for section in ("accuracy", "map", "classes", "sites", "each-round"):
        heading = source.split(f'<section id="{section}">')[1].split("</h2>")[0]
        assert "synthetic data" in heading
    assert "say nothing about real land cover" in source


def test_real_data_is_not_called_synthetic(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", synthetic=False, dataset="ucmerced64")
    source = write_report(folder).read_text()
    assert "synthetic imagery" not in source
    assert "synthetic data" not in source
    assert "Synthetic" not in source


def test_dense_fedavg_has_a_page_without_ratios(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", method="fedavg", ratios=False)
    page = Page(write_report(folder))
    assert "Dense FedAvg has no ratios" in page.text
    assert "The whole float32 model was sent both ways." in page.text


@pytest.mark.parametrize("rounds", [0, 1])
def test_the_shortest_runs_have_a_page(tmp_path: Path, rounds: int) -> None:
    folder = make_run(tmp_path / "run", rounds=rounds, absent={})
    page = Page(write_report(folder))
    assert "None. Every site that was asked sent an upload in every round." in page.text


def test_a_round_without_any_site_has_a_page(tmp_path: Path) -> None:
    absent = {(2, f"site-{at:02d}"): "no reply" for at in range(4)}
    page = Page(write_report(make_run(tmp_path / "run", rounds=3, absent=absent)))
    assert page.text.count("no reply") >= 4


def test_a_site_that_was_not_asked_in_a_round_has_a_page(run_folder: Path) -> None:
    path = run_folder / "rounds.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"site-03"' not in line]
    path.write_text("\n".join(lines))
    assert "site-03" in Page(write_report(run_folder)).text


def test_names_from_the_data_cannot_inject_anything(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    quotes = "\"onload=alert(1) x='&amp;$a_b$"
    folder = make_run(
        tmp_path / "run",
        classes=[evil, quotes, "{{ 7*7 }}", "water"],
        sites=[evil, quotes],
        dataset=evil,
        absent={(2, evil): f"reason {evil}"},
        data_path=evil,
    )
    page = Page(write_report(folder))
    assert "script" not in page.tags
    assert "<script" not in page.source
    assert "{{ 7*7 }}" in page.text
    assert evil in page.text
    assert quotes in page.text


@pytest.mark.slow
def test_images_without_scenes_are_shown_as_a_gallery(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, folder_store(chip_px=16))
    page = Page(write_report(run_folder, tmp_path))
    assert page.tags.count("img") > 8
    assert "their numbers are not in proportion" in page.text


def test_without_the_data_the_page_says_so(reported: Path) -> None:
    page = Page(reported / "report.html")
    assert "data-elsewhere is not on this machine" in page.text


def test_a_run_without_a_final_score_has_a_page(run_folder: Path) -> None:
    path = run_folder / "summary.json"
    text = re.sub(r'"accuracy": [\d.]+', '"accuracy": null', path.read_text())
    text = re.sub(r'"confusion": \[\[.*\]\]', '"confusion": []', text)
    path.write_text(text)
    assert "recorded no confusion matrix" in Page(write_report(run_folder)).text


def test_the_report_is_replaced_as_a_whole(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (reported / "report.html").read_text()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="cannot be written"):
        write_report(reported)
    assert (reported / "report.html").read_text() == old
    assert not [path for path in reported.iterdir() if path.name.startswith(".")]


def test_where_nothing_can_be_written_the_remedy_is_one(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report.html cannot be .* a copy of the run folder"):
        write_report(run_folder)
    (run_folder / "report.html").rmdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file cannot be written .* another folder for --figures"):
        write_report(run_folder, figures=tmp_path / "file")


def test_losses_of_a_run_that_diverges_have_few_digits(run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    lines = [json.loads(line) | {"loss": 2.4e38} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert "2.4e+38" in Page(write_report(run_folder)).text


def test_the_same_run_gives_the_same_page(reported: Path) -> None:
    before = (reported / "report.html").read_bytes()
    assert write_report(reported).read_bytes() == before


def test_the_command_is_made_of_the_settings(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "mine", data_path="my data"))
    words = shlex.split(command_text(run))
    assert words[:4] == ["rsdgc", "simulate", "--data", "my data"]
    assert words[words.index("--budget") + 1] == "100x"
    assert words[words.index("--out") + 1] == "runs/mine"
    assert "learning-rate=0.03" in words
    assert not any(word.startswith("augment") for word in words)  # the default
    assert not any(word.startswith("min-sites") for word in words)  # that of the data


@pytest.mark.parametrize(
    ("model", "told"), [("resnet18", False), ("mynet:build", True), ("timm:resnet10t", False)]
)
def test_the_command_names_the_folder_of_code_where_it_is_needed(
    tmp_path: Path, model: str, told: bool
) -> None:
    folder = make_run(tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model": model, "code-dir": "/home/me/code"}
    (folder / "config.json").write_text(json.dumps(config))
    assert ("code-dir=/home/me/code" in shlex.split(command_text(read_run(folder)))) is told


@pytest.mark.slow
def test_the_title_names_the_sites_where_each_has_data_of_its_own(tmp_path: Path) -> None:
    """In a deployment the summary has the name of the first site's store."""
    few = make_run(tmp_path / "few", data_path="", sites=["oslo", "porto", "quito"], dataset="oslo")
    many = make_run(tmp_path / "many", data_path="", sites=[f"s{i}" for i in range(9)])
    assert "<h1>RS-DGC on the archives of 3 sites (oslo, porto, quito)</h1>" in (
        write_report(few).read_text()
    )
    assert "on the archives of 9 sites</h1>" in write_report(many).read_text()
