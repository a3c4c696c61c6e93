"""What MkDocs cannot do by itself: pages made from code and from the repository's own files.

- ``command-reference.md`` is made from the commands themselves, ``api-reference.md`` from the
  ``__all__`` of the packages.
- CONTRIBUTING.md, CHANGELOG.md and SECURITY.md are pages, too; links between them and the pages of
  ``docs/`` work in the repository and on the site.
- A site that requests anything from elsewhere (a font, a script, a picture) is an error.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from fl_app.cli import app

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
}
"""Files of the repository that are pages of the site."""

PACKAGES = ("rsdgc", "rsdgc.torch", "rsdgc_flower")

_REQUESTED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=[\"'](?:https?:)?//[^\"']+"
    r"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*?\bhref=[\"'](?:https?:)?//[^\"']+"
    r"|url\([\"']?(?:https?:)?//[^)]+"
    r"|@import\s+[\"'](?:https?:)?//[^\"']+"
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of ``docs/``."""
    made = {
        "command-reference.md": "\n".join(command_reference()),
        "api-reference.md": "\n".join(api_reference()),
    }
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        made[page] = text.replace("](docs/", "](")
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to files of the repository at their pages; those without one become texts."""
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}").replace(f"]({name}", f"]({page}")
    return re.sub(r"\[([^\]]+)\]\((?:\.\./|LICENSE|CITATION)[^)]*\)", r"\1", markdown)


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Refuse a page that requests something from elsewhere."""
    _check(output, page.file.src_uri)
    return output


def on_post_build(*, config: MkDocsConfig) -> None:
    """Refuse style sheets that request something from elsewhere."""
    for path in Path(config.site_dir).rglob("*.css"):
        _check(path.read_text(encoding="utf-8"), path.name)


def _check(text: str, name: str) -> None:
    if requested := _REQUESTED.search(text):
        raise PluginError(f"{name} requests something from elsewhere: {requested[0]}")


def command_reference() -> Iterator[str]:
    """Yield the lines of the page with all commands, from the commands themselves."""
    yield "# All commands"
    yield ""
    yield "This page is made from the commands; `-h` prints the same."
    yield "[The command line](commands.md) explains exit codes, `--json` and `--force`."
    yield ""
    root = typer.main.get_command(app)
    yield from _describe(root, click.Context(root, info_name="rsdgc"), "##")


def _describe(command: click.Command, context: click.Context, heading: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            inner = click.Context(member, info_name=name, parent=context)
            if isinstance(member, click.Group):
                yield from (f"{heading} `{inner.command_path}`", "", member.help or "", "")
                yield from _describe(member, inner, f"{heading}#")
            else:
                yield from (f"{heading} `{inner.command_path}`", "")
                yield from _describe(member, inner, heading)
        return
    yield from ("```text", " ".join(context.command.get_usage(context).split()[1:]), "```", "")
    yield from (command.help or "", "")
    records = [
        record
        for parameter in command.get_params(context)
        if "--help" not in parameter.opts and (record := _record(parameter, context))
    ]
    if records:
        yield from ("| option or argument | meaning |", "|---|---|")
        yield from (f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in records)
        yield ""
    examples = (command.epilog or "").partition("Examples:\n")[2]
    if examples:
        yield from ("```", *(line.strip() for line in examples.splitlines()), "```", "")


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = record
    return name, text.replace("<", "&lt;").strip()


def api_reference() -> Iterator[str]:
    """Yield the lines of the page with what the packages export, for mkdocstrings."""
    yield "# Classes and functions"
    yield ""
    yield "This page is made from the docstrings of what each package exports (`__all__`)."
    yield "[Python packages](api.md) introduces them."
    listed: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        yield from ("", f"## `{package}`", "")
        for name in module.__all__:
            # What two packages export, such as Compression, is described at the first.
            if id(getattr(module, name)) not in listed:
                yield from (f"::: {package}.{name}", "")
        listed |= {id(getattr(module, name)) for name in module.__all__}
