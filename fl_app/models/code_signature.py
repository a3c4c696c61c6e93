"""Signatures of a model's code, by which the server sees that a site would build another model.

The signature of a model is one word of text and one of the code's state:

==========================  ======================================================================
model                       signature
==========================  ======================================================================
built in                    ``rsdgc`` and a digest of the sources of :mod:`fl_app.models`
``timm:NAME``               ``timm`` and its version
``package.module:function`` ``package``, a digest of its sources, and the versions of packages of
                            networks that they import; of torch and torchvision, whose sources
                            differ by platform, the version alone
==========================  ======================================================================

Digests are over all ``.py`` files of the top-level package, by relative name and content, or over
the single module, and over the modules beside it that it imports. With them go text files that
such code is configured by (:data:`CONFIGURATION`): those in a package, and those that a single
module names. Neither paths nor compiled files count, so that equal sources have one signature on
every machine. Files of arrays do not count, either: sites compare the network that is made of them
(:mod:`rsdgc.frozen_part`).

The versions of the packages that such code takes networks from (:data:`NETWORKS`) stand beside the
digest, because another version may build another network of the same layers. PyTorch's does not:
its layers compute the same in every version, and a site's GPU may need another than the server has.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Set
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fl_app.models import MODELS, find_builder, timm_models

OWN_PACKAGES = ("rsdgc", "clients", "strategies", "data_prep", "fl_app")
BY_VERSION = ("timm", "torch", "torchvision")
NETWORKS = ("monai", "segmentation_models_pytorch", "timm", "torchgeo", "torchvision")
"""Packages of networks, whose versions are compared where a user's code imports them."""
CONFIGURATION = (".cfg", ".csv", ".ini", ".json", ".toml", ".txt", ".yaml", ".yml")
"""Suffixes of text files that count."""
MOST_CONFIGURATION_BYTES = 1 << 20
"""Larger files are data, and do not count."""
MOST_NAME = 200
"""Characters of a path in a literal; longer texts are not taken for one."""
DIGEST_BYTES = 8


def model_signature(model: str) -> str:
    """Return the signature of a model, as the setting ``model`` names it.

    Raises
    ------
    SettingError
        There is no such model on this machine.
    """
    builder = find_builder(model)
    if model.startswith(timm_models.PREFIX):
        return code_signature("timm")
    module = _module_of(builder) if model in MODELS else model.partition(":")[0]
    package = module.partition(".")[0]
    if package not in OWN_PACKAGES:
        return code_signature(package)
    return f"rsdgc {_digest(dict(_sources(Path(__file__).parent, 'models')))}"


def code_signature(package: str) -> str:
    """Return the signature of a top-level package or module that Python can import."""
    if package in BY_VERSION:
        return f"{package} {_public_version(package)}"
    sources: dict[str, bytes] = {}
    networks: set[str] = set()
    pending = [package]
    while pending:
        name = pending.pop()
        new = dict(_sources_of(name))
        sources |= new
        code = [content for file, content in new.items() if file.endswith(".py")]
        imported = frozenset().union(*map(_imported_packages, code))
        networks |= imported & set(NETWORKS) - {name}
        beside = set(_beside(name, imported))
        known = {file.partition("/")[0].removesuffix(".py") for file in sources}
        pending += beside - known - set(pending)
    if not sources:  # such as a module compiled from C
        return f"{package} {_public_version(package)}"
    about = [f"{len(sources)} file{'s' * (len(sources) > 1)}"]
    about += [f"{each} {_public_version(each)}" for each in sorted(networks) if find_spec(each)]
    return f"{package} {_digest(sources)} ({', '.join(about)})"


def packages_in(folder: Path) -> list[str]:
    """Return the names of the top-level packages and modules in a folder."""
    modules = [path.stem for path in folder.glob("*.py")]
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted(name for name in modules + packages if name.isidentifier())


def packages_that_hide_ours(folder: Path) -> list[Path]:
    """Return packages and modules in a folder that are called as one of this project's.

    Python would import them instead, in processes that look in the folder first. This project's own
    packages do not count, nor do folders without an ``__init__.py``, which come last.
    """
    own = Path(__file__).resolve().parents[2]
    if folder.resolve() == own:
        return []
    places = [folder / name for name in OWN_PACKAGES]
    return [
        path
        for place in places
        for path in (place, place.with_suffix(".py"))
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.exists())
    ]


def _module_of(builder: object) -> str:
    function = builder.func if isinstance(builder, partial) else builder
    return str(getattr(function, "__module__", OWN_PACKAGES[0]))


def _sources_of(package: str) -> Iterator[tuple[str, bytes]]:
    """Yield relative names and contents of the files of an importable package or module."""
    spec = find_spec(package)
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        for folder in sorted(map(Path, spec.submodule_search_locations)):
            yield from _sources(folder, package)
    elif spec.origin is not None and Path(spec.origin).suffix == ".py":
        content = Path(spec.origin).read_bytes()
        yield f"{package}.py", content
        folder = Path(spec.origin).parent
        for name in sorted(_named_files(content)):
            if _is_configuration(folder / name):
                yield f"{package}.py/{name}", (folder / name).read_bytes()


def _sources(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        # Editors keep copies in hidden folders.
        if any(part.startswith(".") for part in relative.parts):
            continue
        if (path.suffix == ".py" and path.is_file()) or _is_configuration(path):
            yield f"{prefix}/{relative.as_posix()}", path.read_bytes()


def _is_configuration(path: Path) -> bool:
    if path.suffix not in CONFIGURATION or not path.is_file():
        return False
    return path.stat().st_size <= MOST_CONFIGURATION_BYTES


@lru_cache(maxsize=1024)
def _named_files(source: bytes) -> frozenset[str]:
    """Return the relative paths of text files that a module's code has as literals."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return frozenset()
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(
        text
        for text in texts
        if isinstance(text, str)
        if text.endswith(CONFIGURATION)
        if text.isprintable() and len(text) < MOST_NAME
        if not Path(text).is_absolute() and ".." not in Path(text).parts
    )


def _beside(package: str, names: Set[str]) -> Iterator[str]:
    """Yield those of the top-level names that are modules in the folder of a package.

    Not of an installed package: what it imports has a version, and may be all of Python's packages.
    """
    folder = _folder(package)
    if folder is None or folder in map(Path, sysconfig.get_paths().values()):
        return
    for name in sorted(names - {package, *OWN_PACKAGES}):
        beside = (folder / f"{name}.py", folder / name / "__init__.py")
        if any(path.exists() for path in beside) and _folder(name) == folder:
            yield name


@lru_cache(maxsize=1024)  # the server and every site of a simulation ask for the same files
def _imported_packages(source: bytes) -> frozenset[str]:
    """Return the top-level names that a file imports."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # of a module that is not imported now
        return frozenset()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        if node.module
        if node.level == 0
    }
    return frozenset(name.partition(".")[0] for name in names)


def _folder(package: str) -> Path | None:
    """Return the folder that an importable package or module is in."""
    spec = find_spec(package)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path.parent.parent if spec.submodule_search_locations is not None else path.parent


def _digest(sources: dict[str, bytes]) -> str:
    # Every length goes before what it measures, so different sources never hash equal bytes.
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name, content in sorted(sources.items()):
        for part in (name.encode(), content.replace(b"\r\n", b"\n")):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _public_version(package: str) -> str:
    """Return the version without the platform, such as ``+cpu`` of PyTorch's."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "of unknown version"
