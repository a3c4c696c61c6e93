"""The formats that are fuzzed: their valid files, their mutants, and what reading must yield.

Each reader checks more than that nothing is raised: what is accepted must be usable as the program
uses it. Replies are the messages of a site as Flower's objects; all other formats are bytes or
files.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from flwr.app import Message
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import save, save_file

from clients.state import STATE_FILE, StateFolder
from data_prep.common_statistics import CommonStatistics
from data_prep.dataset import open_data
from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from fl_app.deploy.party_config import read_party
from fl_app.live.progress import ProgressReader
from fl_app.live.run_table import run_view
from fl_app.live.status_file import STATUS_FILE, StatusWriter
from fl_app.models.weight_file import WeightFile
from fl_app.report.page import write_report
from fl_app.runs.lock import lock_run
from fl_app.runs.records import read_run
from fl_app.settings import Settings
from rsdgc import Scheme, Stamp, decode, encode
from rsdgc.compression import Compression
from rsdgc.documents import DocumentError, parse_json
from rsdgc.errors import DataError, RunError, SettingError, WireError
from rsdgc.frozen_part import FrozenPart
from rsdgc.model_change import ChangeCompressor, apply_change
from rsdgc.patches import apply_patches, pack_patches, unpack_patches
from rsdgc.statistics_codec import decode_statistics, encode_statistics
from strategies.checkpoints import FOLDER, Checkpoints, _checksum
from strategies.ledger import RoundEntry
from strategies.reply_objects import SMALL_REPLY, listed_objects, open_reply
from tests.clients.test_state import SPEC as STATE_SPEC
from tests.clients.test_state import save as save_state
from tests.data_prep.archives import LEFT, noise, write_scene, write_tif
from tests.fl_app.report.fake_run import make_run
from tests.flower_link import Objects, identify
from tests.fuzz.fuzzer import Format
from tests.fuzz.mutations import (
    Rng,
    changed_bytes,
    changed_json,
    changed_table,
    json_mutant,
    lines_mutant,
    nasty,
    pick,
)
from tests.rsdgc.forge import KEPT, SPEC, sealed, update, valid
from tests.strategies.fake_sites import (
    SPEC as FAKE_SPEC,
)
from tests.strategies.fake_sites import (
    FakeSites,
    initial_weights,
    loopback,
    rs_dgc,
)
from tests.strategies.reply_mutants import mutant as reply_mutant
from tests.strategies.test_reply_objects import dense, reply

UPLOADS = [
    ("int8", "float16", "rice"),
    ("ternary", "int8", "rice"),
    ("float16", "float32", "rice"),
    ("float32", "float16", "int32"),
    ("deadzone", "float16", "rice"),
    ("deadzone", "int8", "int32"),
]
SITE_TOML = b"""name = "site-00"
server = "fl.example.org:9092"
data-dir = "data"
ca-certificate = "ca.crt"
private-key = "node.key"
state-dir = "state"
port = 9094
min-free-gb = 3.0
"""
SERVER_TOML = b"""names = ["fl.example.org", "10.0.0.1"]
public = "fl.example.org:9092"
listen = "127.0.0.1:9192"
certificate = "server.crt"
ca-certificate = "ca.crt"
private-key = "server.key"
keys = "sites"
state-dir = "state"
runs-dir = "runs"
"""


def make_formats(folder: Path) -> dict[str, Format]:
    """Return all formats by name; their files are made in a folder."""
    identify()
    store, divided, layered = _make_data(folder)
    makers: list[Format] = [
        _upload(),
        _patch(),
        _statistics(),
        _model_change(),
        _frozen_part(),
        _reply(),
        *_store(store),
        *_layered_store(layered),
        _partition(divided),
        _checkpoint(folder),
        _site_state(folder),
        _settings(),
        *_records(folder),
        _progress(folder),
        _weights(folder),
        _party(folder),
        _normalization(),
    ]
    return {each.name: each for each in makers}


NAMES = (
    *("upload", "patch", "statistics", "model-change", "frozen-part", "reply"),
    *(
        "meta",
        "manifest",
        "shard",
        "meta-3",
        "validity",
        "partition",
        "checkpoint",
        "site-state",
        "settings",
    ),
    *("config", "summary", "history", "ledger", "weights", "party", "normalization"),
    "progress",
)


# ---- what crosses the network -------------------------------------------------------------------


def _upload() -> Format:
    def mutate(rng: Rng, seed: bytes) -> bytes:
        data = changed_bytes(rng, seed)
        return data if rng.random() < 0.05 else sealed(data)

    def read(data: bytes) -> None:
        decoded = decode(data, SPEC)
        for part in decoded.layers:
            ids = np.arange(0) if part.ids is None else part.ids
            assert np.all(np.diff(ids) > 0)
            assert np.all((ids >= 0) & (ids < part.grid.count))
            assert part.values.size == part.grid.num_members(part.ids)
        assert np.isfinite(decoded.to_dense()).all()
        assert decoded.layer_bytes.sum() + decoded.header_bytes == len(data)

    return Format("upload", [valid(*kinds) for kinds in UPLOADS], read, (WireError,), mutate)


def _patch() -> Format:
    scheme = Scheme(values="deadzone")
    stamps = [Stamp(7, version + 1, version) for version in range(3)]
    patches = [encode(SPEC, scheme, stamp, update(), KEPT, 106).payload for stamp in stamps]

    def mutate(rng: Rng, seed: bytes) -> bytes:
        if rng.random() < 0.3:
            return changed_bytes(rng, seed)
        changed = unpack_patches(seed)
        at = int(rng.integers(len(changed)))
        changed[at] = sealed(changed_bytes(rng, changed[at]))
        return pack_patches(changed)

    def read(data: bytes) -> None:
        target = np.zeros(SPEC.size, np.float32)
        assert 0 <= apply_patches(target, 0, unpack_patches(data), SPEC, 7) <= len(stamps)

    seeds = [pack_patches(patches), pack_patches(patches[:1]), pack_patches([])]
    seeds = [seed for seed in seeds if unpack_patches(seed)]
    return Format("patch", seeds, read, (WireError,), mutate)


def _statistics() -> Format:
    rng = np.random.default_rng(0)
    reference = {
        f"{layer}.{name}": rng.random(size).astype(np.float32)
        for layer, size in (("a", 5), ("b", 1), ("c", 33))
        for name in ("running_mean", "running_var")
    }
    after = {name: array * np.float32(1.5) for name, array in reference.items()}
    some = reference | {name: after[name] for name in list(after)[::2]}

    def read(data: bytes) -> None:
        for name, array in decode_statistics(data, reference).items():
            assert array.shape == reference[name].shape
            assert np.isfinite(array).all()
            assert "var" not in name or (array >= 0).all()

    seeds = [encode_statistics(after, reference), encode_statistics(some, reference)]
    return Format("statistics", seeds, read, (WireError,))


def _model_change() -> Format:
    rng = np.random.default_rng(0)
    before = {
        "weight": rng.standard_normal((8, 6)).astype(np.float32),
        "half": rng.standard_normal(40).astype(np.float16),
        "norm.running_mean": rng.random(5).astype(np.float32),
        "count": np.array(7),
        "mask": np.array([True, False, True]),
    }
    moved = {
        name: array + array.dtype.type(1) if array.dtype != np.bool_ else ~array
        for name, array in before.items()
    }
    compressor = ChangeCompressor(before, Compression("2x"))

    def mutate(rng: Rng, seed: bytes) -> bytes:
        begin = 29 + len(before)
        end = begin + int.from_bytes(seed[21:25], "little")
        if rng.random() < 0.5:  # within the update, with a checksum that fits
            inner = sealed(changed_bytes(rng, seed[begin:end]))
            size = len(inner).to_bytes(4, "little")
            data = seed[:21] + size + seed[25:begin] + inner + seed[end:]
        else:
            data = changed_bytes(rng, seed)
        if len(data) < 9 or rng.random() < 0.05:
            return data
        return data[:5] + zlib.crc32(data[9:]).to_bytes(4, "little") + data[9:]

    def read(data: bytes) -> None:
        after = apply_change(before, data)
        assert list(after) == list(before)
        for name, array in after.items():
            assert (array.shape, array.dtype) == (before[name].shape, before[name].dtype)
            assert np.isfinite(array).all()

    seeds = [
        compressor.compress(before, after) for after in (moved, before | {"count": -moved["count"]})
    ]
    return Format("model-change", seeds, read, (WireError,), mutate)


def _frozen_part() -> Format:
    floats = {"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    part = FrozenPart({**floats, "order": np.arange(16, dtype=np.uint8)})

    def read(data: bytes) -> None:
        assert part.unpack(data, part.digest).pack() == part.pack()

    return Format("frozen-part", [part.pack()], read, (WireError,))


def _reply() -> Format:
    def read(objects: Objects) -> None:
        listed = listed_objects(objects.declared(), SMALL_REPLY)
        received = {each: objects.contents[each] for each in listed if each in objects.contents}
        assert isinstance(open_reply(objects.root, received, SMALL_REPLY), Message)

    seeds = [Objects.of(reply()), Objects.of(dense())]
    return Format("reply", seeds, read, (WireError,), reply_mutant)


# ---- stores and partitions ----------------------------------------------------------------------


def _make_data(folder: Path) -> tuple[Path, Path, Path]:
    """Make a store, a partition of it, and a store with a validity layer."""
    for seed in range(2):
        target = folder / "archive" / f"agency-{seed}" / "scene"
        write_scene(target, seed=seed, size=48, left=LEFT + 5000 * seed)
    store = ingest_scenes(folder / "archive", folder / "store", chip_px=8)
    divided = partition(store.path, folder / "divided", sites=2)
    # another nodata value than that of the other scene, which so takes a layer
    target = folder / "archive" / "agency-1" / "scene" / "optical.tif"
    write_tif(target, noise((4, 48, 48), 3), left=LEFT + 5000, nodata=5)
    layered = ingest_scenes(folder / "archive", folder / "layered", chip_px=8)
    return store.path, divided.path, layered.path


def _replacing(path: Path, use: Callable[[], object]) -> Callable[[bytes], None]:
    """Return a reader that puts a mutant in the place of a file, and restores the file."""
    original = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            use()
        finally:
            path.write_bytes(original)

    return read


def _use_data(path: Path) -> None:
    data = open_data(path)
    labels = len(data.store.classes)
    for site in data.sites:
        view = data.site(site)
        for split in ("train", "val", "test"):
            chips, reference = view.split(split)
            assert not len(reference) or 0 <= reference.min() <= reference.max() < labels
            arrays = view.store.take(chips)
            assert all(len(array) == len(chips) for array in arrays)
            masks = view.store.valid(chips, arrays)
            assert [mask.shape for mask in masks] == [array.shape for array in arrays]
        view.store.band_sums(view.split("train")[0])


def _shard_mutant(rng: Rng, seed: bytes) -> bytes:
    head = seed[:128]
    return (changed_bytes(rng, head) if rng.random() < 0.8 else head) + (
        seed[128:] if rng.random() < 0.7 else changed_bytes(rng, seed[128:])
    )


def _store(store: Path) -> list[Format]:
    def manifest_mutant(rng: Rng, seed: bytes) -> bytes:
        if rng.random() < 0.5:
            return changed_bytes(rng, seed)
        out = io.BytesIO()
        pq.write_table(changed_table(rng, pq.read_table(io.BytesIO(seed))), out)
        return out.getvalue()

    files = {
        "meta": ("meta.json", json_mutant),
        "manifest": ("manifest.parquet", manifest_mutant),
        "shard": ("optical-000.npy", _shard_mutant),
    }
    return _store_formats(store, files)


def _layered_store(store: Path) -> list[Format]:
    files = {
        "meta-3": ("meta.json", json_mutant),
        "validity": ("optical.valid-000.npy", _shard_mutant),
    }
    return _store_formats(store, files)


def _store_formats(
    store: Path, files: dict[str, tuple[str, Callable[[Rng, bytes], bytes]]]
) -> list[Format]:
    return [
        Format(
            name,
            [(store / file).read_bytes()],
            _replacing(store / file, lambda: _use_data(store)),
            (DataError,),
            mutate,
            few=40,
        )
        for name, (file, mutate) in files.items()
    ]


def _partition(divided: Path) -> Format:
    path = divided / "partition.json"
    read = _replacing(path, lambda: _use_data(divided))
    return Format("partition", [path.read_bytes()], read, (DataError,), json_mutant)


# ---- states of server and sites -----------------------------------------------------------------


def _checkpoint(folder: Path) -> Format:
    run = folder / "checkpointed"
    run.mkdir()
    strategy = rs_dgc(run_folder=run, server_momentum=0.5)
    strategy.initialize(_record())
    strategy.start(loopback(FakeSites()), _record(), num_rounds=3, timeout=5.0)
    (path,) = (run / FOLDER).glob("*.safetensors")
    (newest,) = Checkpoints(run, 2, 1).newest()
    original = path.read_bytes()
    with safe_open(path, "np") as file:
        metadata = dict(file.metadata())

    def mutate(rng: Rng, seed: bytes) -> bytes:
        if rng.random() < 0.3:
            return changed_bytes(rng, seed)
        arrays, values = dict(newest.state.arrays), newest.state.values
        if rng.random() < 0.5:
            values = changed_json(rng, values)
        else:
            name = pick(rng, sorted(arrays))
            arrays = _changed_arrays(rng, arrays, name)
        text = json.dumps(values)
        crc = _checksum(arrays, text)
        return bytes(save(arrays, metadata | {"values": text, "checksum": crc}))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for name, content in lines.items():
            (run / name).write_bytes(content)
        try:
            checkpoint = next(Checkpoints(run, 2, 1).newest(), None)
            if checkpoint is None:
                raise RunError("passed over")
            resumed = rs_dgc(run_folder=run, server_momentum=0.5)
            resumed.resume(checkpoint)
            restored = resumed.state()
            for name, array in strategy.state().arrays.items():
                assert "log" in name or restored.arrays[name].shape == array.shape
                assert "log" in name or np.isfinite(restored.arrays[name]).all()
        finally:
            path.write_bytes(original)

    lines = {name: (run / name).read_bytes() for name in ("rounds.jsonl", "history.jsonl")}
    return Format("checkpoint", [original], read, (RunError,), mutate, few=25)


def _record() -> Any:
    from strategies.model_record import to_record  # noqa: PLC0415

    return to_record(initial_weights(), FAKE_SPEC)


def _changed_arrays(rng: Rng, arrays: dict[str, Any], name: str) -> dict[str, Any]:
    array = arrays[name]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: array[:1],
        lambda: array.astype(np.float64),
        lambda: array.astype(np.int32),
        lambda: np.append(array, array[:1]),
        lambda: array.reshape(1, -1),
        lambda: np.full_like(array, -1 if array.dtype.kind != "u" else 255),
        lambda: np.where(rng.random(array.shape) < 0.1, array.max(initial=0), array).astype(
            array.dtype
        ),
        lambda: (array * np.float32("nan")).astype(np.float32),
    )
    others = {key: value for key, value in arrays.items() if key != name}
    return others if rng.random() < 0.1 else others | {name: pick(rng, changes)()}


def _site_state(folder: Path) -> Format:
    state = StateFolder(folder / "state", 7, "site-00", STATE_SPEC)
    save_state(state, 1, (1,))
    save_state(state, 2, (1,))

    def use() -> None:
        history = state.load()
        known = history.known_to(5, 2)
        for each in known:
            for part in (state.replica(each), state.residual(each)):
                assert part is None or part.shape == (STATE_SPEC.size,)
            state.upload(each)
            assert each.round >= 0

    path = state.path / STATE_FILE
    return Format(
        "site-state", [path.read_bytes()], _replacing(path, use), (RunError,), json_mutant
    )


# ---- settings and records -----------------------------------------------------------------------


def _settings() -> Format:
    seeds = [json.dumps(Settings().to_mapping()).encode(), b'{"rounds": 5, "budget": "200x"}']

    def read(data: bytes) -> None:
        try:
            values = parse_json(data.decode(errors="replace"))
        except DocumentError as error:
            raise SettingError(str(error)) from None
        if not isinstance(values, dict):
            raise SettingError("not an object")
        settings = Settings.from_mapping(values)
        assert Settings.from_mapping(settings.to_mapping()) == settings
        assert settings.learning_rate_at(1) > 0
        settings.scheme()

    return Format("settings", seeds, read, (SettingError,), json_mutant)


def _records(folder: Path) -> list[Format]:
    run = make_run(folder / "run", rounds=2)
    reports = iter(range(10**9))

    def use() -> None:
        read_run(run)
        if next(reports) % 20 == 19:  # half a second each
            write_report(run).read_text(encoding="utf-8")

    files = {
        "config": ("config.json", json_mutant),
        "summary": ("summary.json", json_mutant),
        "history": ("history.jsonl", lines_mutant),
        "ledger": ("rounds.jsonl", lines_mutant),
    }
    return [
        Format(
            name,
            [(run / file).read_bytes()],
            _replacing(run / file, use),
            (RunError,),
            mutate,
            few=20,
        )
        for name, (file, mutate) in files.items()
    ]


def _progress(folder: Path) -> Format:
    run = make_run(folder / "going-on", rounds=3)
    (run / "summary.json").unlink()
    writer = StatusWriter(run, 20)
    with lock_run(run, 8):
        latest = RoundEntry(4, 10**6, 10**6, 10**7, 10**7, 4, 4, seconds=2.5)
        writer.round_ended(latest, 20)
        writer.messages_sent("train", 5, ["site-00", "site-01"])
        writer.site_replied("site-01")
    path = run / STATUS_FILE

    def use() -> None:
        with lock_run(run, 8):
            progress = ProgressReader(run).read()
        assert progress.state == "running"
        assert 0 <= progress.share <= 1
        Console(width=80, file=io.StringIO()).print(run_view(progress, 80, 24))

    return Format(
        "progress", [path.read_bytes()], _replacing(path, use), (RunError,), json_mutant, few=20
    )


def _weights(folder: Path) -> Format:
    path = folder / "weights.safetensors"
    arrays = {"a": np.ones((3, 4), np.float32), "b.c": np.zeros(5, np.float16)}
    save_file(arrays, path, {"bands": '["red", "nir"]'})

    def mutate(rng: Rng, seed: bytes) -> bytes:
        length = int.from_bytes(seed[:8], "little")
        header, rest = seed[8 : 8 + length], seed[8 + length :]
        if rng.random() < 0.3:
            return changed_bytes(rng, seed)
        changed = json_mutant(rng, header)
        return len(changed).to_bytes(8, "little") + changed + rest

    def use() -> None:
        file = WeightFile(path)
        for name, tensor in file.read(list(file.entries)):
            assert tuple(tensor.shape) == file.entries[name].shape
            assert bool(np.isfinite(tensor.numpy()).all())

    return Format("weights", [path.read_bytes()], _replacing(path, use), (SettingError,), mutate)


def _party(folder: Path) -> Format:
    path = folder / "site.toml"
    path.write_bytes(SITE_TOML)

    def mutate(rng: Rng, seed: bytes) -> bytes:
        if rng.random() < 0.5:
            return changed_bytes(rng, seed)
        lines = seed.splitlines()
        at = int(rng.integers(len(lines)))
        key = lines[at].partition(b" = ")[0]
        lines[at] = key + b" = " + json.dumps(nasty(rng)).encode()
        return b"\n".join(lines)

    def use() -> None:
        config = read_party(path)
        assert all(value.is_absolute() for _, value in config if isinstance(value, Path))

    read = _replacing(path, use)
    return Format("party", [SITE_TOML, SERVER_TOML], read, (SettingError,), mutate)


def _normalization() -> Format:
    values = {
        "optical": {"bands": ["red", "nir"], "mean": [0.5, 1.5], "std": [0.25, 2.0]},
        "dem": {"bands": ["elevation"], "mean": [100.0], "std": [30.0]},
    }

    def read(data: bytes) -> None:
        common = CommonStatistics.from_json(data.decode(errors="replace"))
        assert common.finite
        assert CommonStatistics.from_json(common.to_json()).pack() == common.pack()

    seeds = [json.dumps(values).encode()]
    return Format("normalization", seeds, read, (DataError,), json_mutant)
