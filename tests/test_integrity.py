"""Whatever is done to a stored file, its reader gives what was written or says in a line what is wrong: never another
number, never a traceback, never a wait.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers import TINY, stopped_at

import largedrop as ld
from largedrop.config import PROTOCOL, Config
from largedrop.data.cache import CachedImages
from largedrop.data.digests import _remembered
from largedrop.data.views.batches import HostViews
from largedrop.errors import Interrupted, UserError
from largedrop.files import parse_json, write_bytes, write_stored
from largedrop.linear.features import FeatureStore, _load
from largedrop.models.network import Spec
from largedrop.runs.across import Across
from largedrop.runs.checkpoint import load_model, open_tensors, read_tensors
from largedrop.runs.content import check_content
from largedrop.runs.folder import claim, owned
from largedrop.runs.interpolation import Interpolation
from largedrop.runs.logits import logits_file, read_logits
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run
from largedrop.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_heads")


class Stored(NamedTuple):
    """A stored file, another of its kind, and what reads it: ``read`` gives something that can be compared."""

    path: Path
    other: Path
    read: Callable[[], Any]


def bits(tensors: dict[str, torch.Tensor]) -> list[tuple[str, bytes]]:
    return [(name, tensor.numpy().tobytes()) for name, tensor in sorted(tensors.items())]


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def kinds(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """Each kind of file that is read again, of two runs and two datasets."""
    root = tmp_path_factory.mktemp("stored")
    shutil.copytree(toy, root / "toy0" / "toy")
    shutil.copytree(toy, root / "toy1" / "toy", ignore=shutil.ignore_patterns("5.png"))
    datasets, runs, begun, features = [], [], [], []
    for number in range(2):
        cache = root / f"cache{number}"
        for path in (root / f"toy{number}").rglob("*.png"):
            os.utime(path, (1, 1))
        data = ld.open_dataset(root / f"toy{number}" / "toy", cache=cache)
        given = {**TINY, "steps": 2, "eval_every": 1, "seed": number, "weights_digest": "random"}
        own = Config(data.name, data.fingerprint, "photo", **given)
        runs.append(train(own, data, root / f"run{number}"))
        with pytest.raises(Interrupted):
            train(own, data, root / f"begun{number}", reporter=stopped_at(1))
        begun.append(root / f"begun{number}")
        FeatureStore(data, HostViews(data), cache).features(own)
        features.append(one(cache, "features/[!.]*"))
        datasets.append(data)
        points = tuple((0.5 + 0.1 * number, 0.25) for _ in range(2))
        found = Interpolation("final", (0.0, 1.0), points, points)
        write_stored(root / f"run{number}" / "interpolation.json", {**found.to_json(), "run": own.digest()})
        claim(root / f"comparison{number}", "comparison.json", "comparison", own.to_json())
    run, digest = runs[0], runs[0].digest
    split = run.config.split_of(datasets[0])
    shapes = {"iid": (len(split.iid), 3), "ood": (len(split.ood), 3)}
    images, digests = (one(root / "cache0", pattern) for pattern in ("images/*", "digests/*"))
    key = json.loads((features[0] / "entry.json").read_text())["key"]

    def pixels() -> list[bytes]:
        found = CachedImages(images)
        return [found[index].tobytes() for index in range(len(found))]

    def model(name: str) -> Callable[[], Any]:
        return lambda: bits(load_model(run.folder / name, run=digest).state_dict())

    def content() -> Any:
        opened = Run.open(run.folder)
        assert read_runs(run.folder).runs[0].records == tuple(opened.records)
        return opened.config, opened.result

    def table() -> list[bytes]:
        return [row.tobytes() for row in _load(features[0], len(datasets[0]), key).values]

    readers: dict[str, tuple[Path, Path, Callable[[], Any]]] = {
        "config": (run.folder / "config.json", runs[1].folder / "config.json", content),
        "result": (run.folder / "result.json", runs[1].folder / "result.json", content),
        "best": (run.best, runs[1].best, model("best.safetensors")),
        "best of its own run": (run.best, run.final, model("best.safetensors")),
        "average": (run.average, runs[1].average, model("average.safetensors")),
        "logits": (
            logits_file(run.folder, 1),
            logits_file(runs[1].folder, 1),
            lambda: [values.tobytes() for values in read_logits(run.folder, 1, digest, shapes).values()],
        ),
        "logits of another step": (
            logits_file(run.folder, 2),
            logits_file(run.folder, 1),
            lambda: [values.tobytes() for values in read_logits(run.folder, 2, digest, shapes).values()],
        ),
        "state": (
            begun[0] / "resume.safetensors",
            begun[1] / "resume.safetensors",
            lambda: bits(read_tensors(begun[0] / "resume.safetensors", "state", digest)[0]),
        ),
        "interpolation": (
            run.folder / "interpolation.json",
            runs[1].folder / "interpolation.json",
            lambda: Interpolation.read(run.folder / "interpolation.json", digest),
        ),
        "comparison": (
            root / "comparison0" / "comparison.json",
            root / "comparison1" / "comparison.json",
            lambda: owned(root / "comparison0", "comparison.json", "comparison", run.config.to_json()),
        ),
        "digests": (digests, one(root / "cache1", "digests/*"), lambda: _remembered(digests)),
        "features": (features[0] / "features.bin", features[1] / "features.bin", table),
        "features' header": (features[0] / "entry.json", features[1] / "entry.json", table),
    }
    for name in ("pixels.bin", "index.npy", "checks.npy", "entry.json"):
        readers[f"images' {name}"] = images / name, one(root / "cache1", "images/*") / name, pixels
    return {kind: Stored(*entry) for kind, entry in readers.items()}


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mutations(stored: Stored, content: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    path = stored.path
    for place in np.linspace(0, len(content) - 1, 9).astype(int):
        for change in (1, 0x40):
            changed = content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
            yield f"byte {place} ^ {change}", lambda changed=changed: path.write_bytes(changed)  # type: ignore[misc]
    for length in (0, 1, len(content) // 2, len(content) - 1):
        yield f"{length} bytes", lambda length=length: path.write_bytes(content[:length])  # type: ignore[misc]
    for more in (b"\0", b" ", b"{}", content):
        yield "longer", lambda more=more: path.write_bytes(content + more)  # type: ignore[misc]
    yield "another's", lambda: shutil.copy(stored.other, path)
    yield "a folder", path.mkdir
    yield "a pipe", lambda: os.mkfifo(path)
    yield "a looping link", lambda: path.symlink_to(path)
    yield "a device", lambda: path.symlink_to("/dev/zero")
    for text in ("[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": 1' + "0" * 5000 + "}", "{}", "null"):
        yield text[:8], lambda text=text: path.write_text(text)  # type: ignore[misc]
    if path.suffix == ".json":
        for value in ("NaN", "1e400", "-1", '"x"', "{}", "null"):
            first = content.index(b":") + 1
            changed = content[:first] + value.encode() + content[content.index(b",", first) :]
            yield f"first value {value}", lambda changed=changed: path.write_bytes(changed)  # type: ignore[misc]


def test_no_mutation_is_taken_for_the_truth(kinds: dict[str, Stored], tmp_path: Path) -> None:
    count, silent = 0, []
    for kind, stored in kinds.items():
        content, written, kept = stored.path.read_bytes(), stored.read(), tmp_path / "kept"
        remove(kept)
        shutil.copytree(stored.path.parent, kept)
        for name, mutate in mutations(stored, content):
            remove(stored.path)
            mutate()
            count += 1
            try:
                found = stored.read()
            except (UserError, OSError, ValueError) as error:
                # Readers of caches raise the latter two, and their callers build anew.
                if "\n" in str(error) or not (isinstance(error, UserError) or "cache" in str(stored.path)):
                    silent.append(f"{kind}, {name}: {error!r}")
            else:
                # Digests are of files that their paths and stamps name: none, or those of others, are no wrong ones.
                if found != written and not (kind == "digests" and (found == {} or name == "another's")):
                    silent.append(f"{kind}, {name}")
            if not stored.path.parent.exists():  # removed, to be made again
                shutil.copytree(kept, stored.path.parent)
            remove(stored.path)
            write_bytes(stored.path, content)
    assert silent == []
    assert count > 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fails_in_a_line(function: Callable[..., object], *arguments: Any) -> None:
    said = ""
    try:
        function(*arguments)
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def changed(draw: st.DataObject, content: Any) -> Any:
    """``content`` with one value, at any depth, replaced or removed."""
    if isinstance(content, (dict, list)) and content and draw.draw(st.integers(0, 4)):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = draw.draw(st.sampled_from(keys))
        pairs = dict(content) if isinstance(content, dict) else dict(enumerate(content))
        if draw.draw(st.integers(0, 5)) == 0:
            del pairs[key]
        else:
            pairs[key] = changed(draw, pairs[key])
        return pairs if isinstance(content, dict) else list(pairs.values())
    return draw.draw(JSON)


@FUZZ
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_a_line(content: bytes) -> None:
    fails_in_a_line(parse_json, content, "file")


@FUZZ
@given(st.data())
def test_any_config_and_result_are_a_run_or_a_line(kinds: dict[str, Stored], draw: st.DataObject) -> None:
    names = ("config", "result")
    contents = [json.loads(kinds[name].path.read_text()) for name in names]
    for content in contents:
        del content["checksum"]
    which = draw.draw(st.integers(0, 1))
    contents[which] = changed(draw, contents[which])
    files: dict[str, bytes | OSError] = {
        f"{name}.json": json.dumps(content).encode() for name, content in zip(names, contents, strict=True)
    }
    folder = kinds["result"].path.parent
    fails_in_a_line(check_content, folder, folder.name, files)


@FUZZ
@given(st.data())
def test_any_interpolation_or_result_across_is_one_or_a_line(kinds: dict[str, Stored], draw: st.DataObject) -> None:
    content = json.loads(kinds["interpolation"].path.read_text())
    found = changed(draw, content)
    if isinstance(found, dict):
        fails_in_a_line(Interpolation.from_json, found, "file")
    across = {
        **{"format": 1, "method": "greedy-soup", "test_domain": "ink", "seed": 0, "dropout": 0.5, "settings": {}},
        **{"members": [{"run": "a", "iid_accuracy": 0.5, "ood_accuracy": 0.5}], "iid_accuracy": 0.5},
        **{"ood_accuracy": 0.5, "log": [], "steps": 2, "seconds": 1.0},
    }
    found = changed(draw, across)
    if isinstance(found, dict):
        fails_in_a_line(Across.from_json, found, "file")


@FUZZ
@given(st.data())
def test_any_claim_is_owned_or_a_line(tmp_path: Path, draw: st.DataObject) -> None:
    content = changed(draw, {"protocol": PROTOCOL, "data": "x", "fingerprint": "f00d"})
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    fails_in_a_line(owned, tmp_path, "sweep.json", "sweep", {"fingerprint": "f00d"})


@FUZZ
@given(st.data())
def test_any_header_is_a_checkpoint_or_a_line(kinds: dict[str, Stored], tmp_path: Path, draw: st.DataObject) -> None:
    content = kinds["logits"].path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = changed(draw, json.loads(content[8 : 8 + size]))
    encoded = json.dumps(header).encode()
    path = tmp_path / "file"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :])
    fails_in_a_line(open_tensors, path, "outputs")
    path.write_bytes(draw.draw(st.binary(max_size=200)))
    fails_in_a_line(open_tensors, path, "outputs")


@FUZZ
@given(st.data())
def test_any_spec_is_one_or_refused(draw: st.DataObject) -> None:
    spec = Spec("test_resnet", "random", ("a", "b"), 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.5).to_json()
    found = changed(draw, json.loads(json.dumps(spec)))
    with suppress(KeyError, TypeError, ValueError):
        Spec.from_json(found)
