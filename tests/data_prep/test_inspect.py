from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from data_prep.inspect import describe, print_description
from data_prep.partition import partition
from data_prep.store import Store


def test_tables_and_dict_agree(scenes_store: Store, tmp_path: Path) -> None:
    partition(scenes_store.path, tmp_path / "data", scheme="folder")
    text = io.StringIO()
    facts = describe(tmp_path / "data")
    print_description(facts, Console(file=text, width=160))
    assert set(facts["sites"]) == {"agency-0", "agency-1"}
    assert facts["classes"] == ["class 1", "class 2", "class 3"]
    assert sum(map(sum, facts["sites"]["agency-0"].values())) == 288
    assert [band["band"] for band in facts["bands"]] == ["band1", "band2", "band3", "band4"]
    for words in (
        "agency-1",
        "class 3",
        "split by blocks",
        "2 sites by folder",
        "buffer",
        "modality",
    ):
        assert words in text.getvalue()
    assert "buffer" in text.getvalue()


def test_brackets_in_names_are_not_markup(images_store: Store) -> None:
    facts = describe(images_store.path)
    facts |= {"name": "[red]", "source": "a [bold]b[/]", "classes": ["[/]", "[i]c[/i]", "d"]}
    facts["bands"][0] |= {"modality": "[/x]", "band": "[b]red"}
    facts["sites"] = {"[link]site": facts["sites"]["site-00"], "b": facts["sites"]["site-00"]}
    facts["splits"]["notes"].append("[/]")
    text = io.StringIO()
    print_description(facts, Console(file=text, width=160))
    for words in ("[red]: a [bold]b[/]", "[/]", "[i]c[/i]", "[/x]", "[b]red", "[link]site"):
        assert words in text.getvalue()


def test_pixels_and_images_are_described_too(images_store: Store, pixels_store: Store) -> None:
    assert describe(images_store.path)["kind"] == "chips"
    text = io.StringIO()
    facts = describe(pixels_store.path)
    print_description(facts, Console(file=text, width=160))
    assert facts["kind"] == "pixels"
    assert "split by fields" in text.getvalue()
