"""Every command, option, setting, link and snippet of the documentation exists.

Commands are parsed and not executed; :mod:`tests.documentation.test_documented_runs` executes.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import re
import runpy
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from fl_app.cli import app
from fl_app.compare.trials import trials_of
from fl_app.settings import Settings, parse_overrides
from tests.documentation.pages import DOCS, PAGES, ROOT, Block, all_blocks, inline_code

RSDGC = typer.main.get_command(app)
UNSET = inspect.signature(click.Parameter.__init__).parameters["default"].default
SETTINGS = set(Settings.keys())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLACEHOLDER = re.compile(r"…|^[A-Z_]+$|[A-Z]{2,}$|\||^\[|\]$")
"""Words that stand for others: ``…``, ``SEED``, ``a|b``, ``[OPTIONS]``."""


def program(words: list[str]) -> list[str]:
    """Leave out ``sudo``, variables before a command, and the folder of a program."""
    rest = [word for word in words if word not in ("[", "]", "|")]
    while rest and (rest[0] == "sudo" or re.fullmatch(r"[A-Z_]+=\S*", rest[0])):
        rest = rest[1:]
    if rest and rest[0].startswith((".venv/bin/", "/opt/rsdgc/bin/")):
        rest[0] = rest[0].rpartition("/")[2]
    return rest


def documented(*names: str) -> Iterator[tuple[Block, list[str]]]:
    for block in all_blocks():
        for command in block.commands():
            words = program(command)
            if words and words[0] in names:
                yield block, words


def find(group: click.Command, words: list[str], name: str) -> tuple[click.Context, list[str]]:
    """Return the command that words begin with, and the words that follow."""
    context = click.Context(group, info_name=name)
    while isinstance(context.command, click.Group) and words:
        member = context.command.get_command(context, words[0])
        if member is None:
            break
        context = click.Context(member, info_name=words[0], parent=context)
        words = words[1:]
    return context, words


def check(group: click.Command, words: list[str], name: str) -> None:
    """Parse a command without running it; raise what the command line would raise."""
    context, rest = find(group, words, name)
    if isinstance(context.command, click.Group):
        context.command.make_context(name, list(rest) or ["--help"], resilient_parsing=True)
        if rest and not rest[0].startswith("-"):
            raise click.UsageError(f"no command {rest[0]}")
        return
    values, _, _ = context.command.make_parser(context).parse_args(args=rest)
    for parameter in context.command.get_params(context):
        value = values.get(parameter.name or "")
        if value is None or value is UNSET:
            if parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
            continue
        given = list(value) if isinstance(value, list | tuple) else [value]
        if parameter.name == "overrides":
            check_settings([word for word in given if word not in ("…", "|")])
        elif not any(PLACEHOLDER.search(str(each)) for each in given):
            parameter.type_cast_value(context, value)
    if context.command_path == "rsdgc compare":
        methods = values.get("methods")
        check_variants(methods if isinstance(methods, str) else "fedavg")


def check_settings(words: list[str]) -> None:
    for word in (word.strip("[]") for word in words):
        key, separator, value = word.partition("=")
        if PLACEHOLDER.search(key):
            continue
        assert separator, f"{word} is not a setting"
        assert key in SETTINGS, f"{key} is not a setting"
        if not PLACEHOLDER.search(value):
            parse_overrides([word])


def check_variants(methods: str) -> None:
    if not PLACEHOLDER.search(methods):
        words = [word for word in methods.split(",") if word]
        for trial in trials_of(words, ["100x"], [0]):
            Settings.from_mapping(trial.settings)


def test_there_are_pages_and_commands() -> None:
    assert len(PAGES) > 20
    assert sum(1 for _ in documented("rsdgc")) > 60


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(*each, id=f"{each[0].place} {' '.join(each[1][:3])}")
        for each in documented("rsdgc")
    ],
)
def test_a_command_of_rsdgc_is_one(block: Block, words: list[str]) -> None:
    check(RSDGC, words[1:], "rsdgc")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_are_commands(page: str) -> None:
    for code in inline_code(page):
        words = code.split()
        if words[0] != "rsdgc" or len(words) == 1:
            continue
        context, rest = find(RSDGC, words[1:], "rsdgc")
        known = {
            option
            for parameter in context.command.get_params(context)
            for option in (*parameter.opts, *parameter.secondary_opts)
        } | {"-h"}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in known, code
        if isinstance(context.command, click.Group):
            names = [word for word in rest if re.fullmatch(r"[a-z-]+", word) and word[0] != "-"]
            assert not names, code
        if any(parameter.name == "overrides" for parameter in context.command.params):
            check_settings([word for word in rest if re.match(r"[a-z-]+=", word)])


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(*each, id=f"{each[0].place} {' '.join(each[1][:3])}")
        for each in documented("flwr")
    ],
)
def test_a_command_of_flower_is_one(block: Block, words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Typer, about Flower's options
        from flwr.cli.app import app as flower_app  # noqa: PLC0415

        check(typer.main.get_command(flower_app), words[1:], "flwr")


class ParsedError(Exception):
    """Ends a program once it has parsed its arguments."""


MODULES = [
    (block, words)
    for block, words in documented("python")
    if words[1:2] == ["-m"] and words[2].split(".")[0] in ("benchmarks", "tests")
]


@pytest.mark.parametrize(
    ("block", "words"),
    [pytest.param(*each, id=f"{each[0].place} {each[1][2]}") for each in MODULES],
)
def test_a_program_takes_its_arguments(
    block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self: argparse.ArgumentParser, *args: object) -> None:
        parse(self)
        raise ParsedError

    given = ["0" if word in ("SEED", "N") else word for word in words[3:] if word not in "…[]|"]
    monkeypatch.setattr(sys, "argv", [words[2], *given])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    # Another test may have imported the module, of which Python warns.
    for name in (words[2], f"{words[2]}.__main__"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises((ParsedError, SystemExit)) as ended:
        runpy.run_module(words[2], run_name="__main__")
    assert ended.type is ParsedError or (given, ended.value.code) == (["--help"], 0)  # type: ignore[attr-defined]


def test_other_programs_and_files_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block, words in documented("make"):
        assert words[1] in targets, block.place
    for page in PAGES:
        for code in inline_code(page):
            if match := re.fullmatch(r"make ([a-z-]+)", code):
                assert match[1] in targets, (page, code)
            if match := re.fullmatch(r"(?:\w+=\S+ )?python -m pytest (.+)", code):
                paths = [word for word in match[1].split() if word.startswith("tests/")]
                assert all((ROOT / path.partition("::")[0]).exists() for path in paths), code
            if match := re.fullmatch(r"python -m ((?:benchmarks|tests)[\w.]*).*", code):
                assert importlib.util.find_spec(match[1]), (page, code)
    extras = PYPROJECT["project"]["optional-dependencies"]
    for page, text in PAGES.items():
        for extra in re.findall(r"rsdgc\[(\w+)\]", text):
            assert extra in extras, (page, extra)


PATH = re.compile(
    r"(?:rsdgc|rsdgc_flower|clients|strategies|data_prep|fl_app|benchmarks|tests|docs|deploy)/[\w./-]+"
)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    for code in inline_code(page):
        if PATH.fullmatch(code):
            assert (ROOT / code).exists(), code
    for name in re.findall(r"\(?(docs/[\w/-]+\.md)", PAGES[page]):
        assert (ROOT / name).exists(), name


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the site and code hosts make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", PAGES[page]):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        path = (folder / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize(
    "block", [pytest.param(each, id=each.place) for each in all_blocks() if each.language]
)
def test_a_snippet_is_well_formed(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        assert block.language == "text", "mark output as text, and commands with nothing"


def test_every_command_is_in_the_list() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name in RSDGC.commands:  # type: ignore[attr-defined]
        assert f"`{name}`" in page, name


def test_every_page_is_in_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in Path(DOCS).glob("*.md"):
        assert f": {path.name}\n" in menu, path.name


def test_help_is_of_commands_that_parse() -> None:
    """The examples at the end of each help are commands as well."""

    def walk(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            for member in command.commands.values():
                yield from walk(member)

    examples = [
        line.split()
        for command in walk(RSDGC)
        for line in (command.epilog or "").partition("Examples:\n")[2].splitlines()
    ]
    assert len(examples) > 30
    for words in examples:
        check(RSDGC, words[1:], "rsdgc")
