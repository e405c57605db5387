"""The store of features: what it holds, when it computes, and what it survives."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.helpers import Watch, refusal

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews
from largedrop.errors import UserError
from largedrop.linear import features as module
from largedrop.linear.features import Features, FeatureStore, split_model_name
from largedrop.models.network import Network
from largedrop.models.pretrained import find_weights
from largedrop.models.taps import Taps
from largedrop.training import evaluation
from largedrop.training.evaluation import representations
from largedrop.training.setup import create_network

SIDE_BY_SIDE: dict[str, Any] = {"size": 160, "fit": "linear", "head": "random"}
VIT = Taps(("blocks.3", "blocks.4", "representation"), (64, 64, 64), "blocks.5")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 16 images, of two batches: the toy dataset's 54 images are three and a half."""
    monkeypatch.setattr(module, "_PIECE", 16)
    monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(evaluation, "BATCH", 8)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configs whose networks are made."""
    configs: list[Config] = []

    def make(config: Config, classes: tuple[str, ...]) -> Network:
        configs.append(config)
        return create_network(config, classes)

    monkeypatch.setattr(module, "create_network", make)
    return configs


def opened(data: ld.Dataset, folder: Path, **settings: Any) -> FeatureStore:
    return FeatureStore(data, HostViews(data), folder, **settings)


def entry(folder: Path) -> Path:
    (found,) = [path for path in (folder / "features").iterdir() if not path.name.startswith(".")]
    return found


def reference(config: Config, data: ld.Dataset, view: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    network = create_network(config, data.classes)
    indices = np.arange(len(data), dtype=np.int64)
    return representations(network, HostViews(data), indices, config.precision, view=view).numpy()


def check_close(found: Any, expected: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """To float16's precision, against the largest value: convolutions and sums add up in another order when folded."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("view", [0, 1, 5])
def test_the_representation_in_a_view(data: ld.Dataset, config: Config, tmp_path: Path, view: int) -> None:
    found = opened(data, tmp_path).features(config, view=view)
    assert found.taps == Taps(("representation",), (256,))
    assert isinstance(found.values, np.memmap)
    assert found.values.dtype == np.float16
    check_close(found.values, reference(config, data, view))
    largest = np.abs(found.values).max()
    torch.from_numpy(found.values)[:] = 0  # no warning; and what is on disk stays
    assert np.abs(opened(data, tmp_path).features(config, view=view).values).max() == largest


def test_views_are_distinct(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    store = opened(data, tmp_path)
    views = [store.features(config, view=view).values for view in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(views[one].astype(float) - views[other]).mean() > 1e-3


def test_taps_lie_side_by_side(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    config = replace(config, model="test_vit", size=160)
    found = opened(data, tmp_path).features(config)
    assert found.taps == VIT
    assert found.values.shape == (54, 192)
    check_close(found.representation, reference(config, data))
    single = opened(data, tmp_path).features(config, count=1)
    assert single.taps.names == ("representation",)
    np.testing.assert_array_equal(single.values, found.representation)


def test_bfloat16(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    plain = opened(data, tmp_path).features(config).values.astype(float)
    mixed = opened(data, tmp_path).features(replace(config, precision="bfloat16")).values.astype(float)
    error = np.linalg.norm(plain - mixed) / np.linalg.norm(plain)
    assert 0 < error < 0.05


def test_computed_once(data: ld.Dataset, config: Config, tmp_path: Path, asked: list[Config]) -> None:
    done: list[float] = []
    store = opened(data, tmp_path, reporter=Watch(advance=done.append))
    first = store.features(config)
    assert sum(done) == 54
    assert store.features(config) is first
    again = opened(data, tmp_path, reporter=Watch(advance=done.append)).features(config)
    assert len(asked) == 1
    assert sum(done) == 54
    assert again.taps == first.taps
    np.testing.assert_array_equal(again.values, first.values)


def test_the_users_cache(data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "chosen"))
    FeatureStore(data, HostViews(data)).features(config)
    assert (entry(tmp_path / "chosen") / "features.bin").stat().st_size == 54 * 256 * 2


def test_what_features_depend_on(data: ld.Dataset, config: Config, tmp_path: Path, asked: list[Config]) -> None:
    lines: list[str] = []
    store = opened(data, tmp_path, reporter=Watch(note=lines.append))
    store.features(config)
    same = replace(config, dropout=0.1, test_domain="ink", lr=1.0, held_out=0.3, block_dropout=0.2, steps=1)
    store.features(same)
    assert len(asked) == 1
    others: list[dict[str, Any]] = [{"size": 40}, {"seed": 1}, {"model": "test_resnet"}, {"precision": "bfloat16"}]
    for number, other in enumerate(others):
        store.features(replace(config, **other))
        assert len(asked) == number + 2
    assert lines == []


def save_weights(path: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        import timm

        save_file(timm.create_model("test_efficientnet").state_dict(), path)


def test_other_weights_and_images_are_said(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    lines = list[str]()
    file = tmp_path / "weights.safetensors"
    save_weights(file, 1)
    config = replace(config, weights=str(file), weights_digest="")
    first = opened(data, tmp_path, reporter=Watch(note=lines.append)).features(config)
    same = opened(data, tmp_path, reporter=Watch(note=lines.append)).features(replace(config, seed=9))
    np.testing.assert_array_equal(first.values, same.values)
    assert lines == []
    save_weights(file, 2)
    second = opened(data, tmp_path, reporter=Watch(note=lines.append)).features(config)
    message = "the stored features of test_efficientnet for toy0 are of other {}; computing them again"
    assert lines == [message.format("weights")]
    check_close(second.values, reference(replace(config, weights_digest=""), data))
    assert np.abs(first.values - second.values).max() > 0.3 * np.abs(second.values).max()
    other = replace(data, fingerprint="other")
    opened(other, tmp_path, reporter=Watch(note=lines.append)).features(config)
    assert lines[1:] == [message.format("images")]


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "cut": ("features.bin", lambda content: content[:-2]),
    "a bit flipped": ("features.bin", lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]),
    "another header": ("entry.json", lambda content: b"[]"),
    "half a header": ("entry.json", lambda content: content[: len(content) // 2]),
    "another width": ("entry.json", lambda content: json.dumps({**json.loads(content), "widths": [255]}).encode()),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_damage_is_said_and_mended(
    data: ld.Dataset, config: Config, tmp_path: Path, asked: list[Config], damage: str
) -> None:
    before = opened(data, tmp_path).features(config).values.copy()
    if damage == "gone":
        (entry(tmp_path) / "features.bin").unlink()
    else:
        name, change = DAMAGE[damage]
        file = entry(tmp_path) / name
        file.write_bytes(change(file.read_bytes()))
    lines: list[str] = []
    after = opened(data, tmp_path, reporter=Watch(note=lines.append)).features(config)
    assert lines == [f"the stored features in {entry(tmp_path)} are damaged; they are computed again"]
    assert len(asked) == 2
    np.testing.assert_array_equal(after.values, before)
    opened(data, tmp_path, reporter=Watch(note=lines.append)).features(config)
    assert (len(lines), len(asked)) == (1, 2)


class Breaking(HostViews):
    """Stops after some batches."""

    def __init__(self, data: ld.Dataset, batches: int) -> None:
        super().__init__(data)
        self.batches = batches
        self.seen: list[int] = []

    def evaluation(self, indices: Any, spec: Any) -> torch.Tensor:
        if len(self.seen) == self.batches:
            raise KeyboardInterrupt
        self.seen.append(int(indices[0]))
        return super().evaluation(indices, spec)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("cut", ["", "short", "changed", "other"])
def test_interrupted_work_is_taken_up(data: ld.Dataset, config: Config, tmp_path: Path, cut: str) -> None:
    whole = opened(data, tmp_path / "whole").features(config)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(data, Breaking(data, 5), tmp_path).features(config)  # two pieces of two batches, and a half
    (pieces,) = (tmp_path / "features").glob(".pieces-*")
    assert sorted(path.name for path in pieces.iterdir()) == ["000000000.safetensors", "000000016.safetensors"]
    assert not list((tmp_path / "features").glob("[!.]*"))
    if cut:
        piece = pieces / "000000016.safetensors"
        first = (pieces / "000000000.safetensors").read_bytes()
        content = piece.read_bytes()
        changed = content[:-1] + bytes([content[-1] ^ 1])
        piece.write_bytes({"short": content[:-1], "changed": changed, "other": first}[cut])
    done, views = list[int](), Breaking(data, 99)
    found = FeatureStore(data, views, tmp_path, reporter=Watch(advance=done.append)).features(config)
    assert views.seen == [*([16, 24] if cut else []), 32, 40, 48]
    assert sum(done) == 54
    np.testing.assert_array_equal(found.values, whole.values)
    assert sorted(path.name for path in entry(tmp_path).iterdir()) == ["entry.json", "features.bin"]
    assert not list((tmp_path / "features").glob(".pieces-*"))


def test_a_full_disk_is_one_line(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, call in ((module, "write_tensors"), (module, "write_stored")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, full)
            assert refusal(opened(data, tmp_path).features, config) == (
                f"cannot write the features in {tmp_path / 'features'}: No space left on device; "
                "set LARGEDROP_CACHE to a folder that can be written and has room"
            )
    assert opened(data, tmp_path).features(config).values.shape == (54, 256)


def test_a_cache_that_is_a_file(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the features in .*file/features: Not a directory"):
        opened(data, tmp_path / "file").features(config)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e8, r"^the features of test_efficientnet at representation must be at most 65504 \(float16\), not"),
        (
            float("nan"),
            "^the features of test_efficientnet at representation contain NaN or infinity; try --precision float32$",
        ),
    ],
)
def test_features_that_float16_cannot_hold(
    data: ld.Dataset, config: Config, tmp_path: Path, scale: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(config: Config, classes: tuple[str, ...]) -> Network:
        network = create_network(config, classes)
        with torch.no_grad():
            network.get_parameter("backbone.bn2.weight").mul_(scale)
        return network

    monkeypatch.setattr(module, "create_network", scaled)
    with pytest.raises(UserError, match=message):
        opened(data, tmp_path).features(config)
    assert not list((tmp_path / "features").glob("[!.]*"))


def test_a_second_process_waits_and_uses_the_result(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, waiting, lines = threading.Event(), threading.Event(), list[str]()
    found: list[Features] = []

    def slowly(config: Config, classes: tuple[str, ...]) -> Network:
        assert not inside.is_set()
        inside.set()
        assert waiting.wait(60)
        return create_network(config, classes)

    def note(line: str) -> None:
        lines.append(line)
        waiting.set()

    monkeypatch.setattr(module, "create_network", slowly)
    first = threading.Thread(target=lambda: found.append(opened(data, tmp_path).features(config)))
    first.start()
    assert inside.wait(60)
    second = opened(data, tmp_path, reporter=Watch(note=note)).features(config)
    first.join()
    assert lines == ["another process is computing these features; waiting for it"]
    np.testing.assert_array_equal(second.values, found[0].values)


@pytest.mark.usefixtures("small_pieces")
def test_networks_side_by_side(data: ld.Dataset, config: Config, tmp_path: Path, asked: list[Config]) -> None:
    store = opened(data, tmp_path)
    both = replace(config, model="test_vit+test_efficientnet", weights_digest="random+random", **SIDE_BY_SIDE)
    found = store.features(both)
    vit, net = (store.features(replace(both, model=m, weights_digest="random")) for m in both.model.split("+"))
    assert [config.model for config in asked] == ["test_vit", "test_efficientnet"]
    assert found.taps.names == ("test_vit/blocks.3", "test_vit/blocks.4", "representation")
    assert found.taps.widths == (64, 64, 64 + 256)
    np.testing.assert_array_equal(found.values, np.concatenate([vit.values, net.values], axis=1))
    np.testing.assert_array_equal(found.representation[:, 64:], net.representation)
    assert isinstance(found.values, np.memmap)
    again = opened(data, tmp_path).features(replace(both, weights_digest=""))
    assert len(asked) == 2
    np.testing.assert_array_equal(again.values, found.values)


def test_equal_taps_join_tap_by_tap(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    """Side by side, two networks of three taps are one network of three taps, as wide as both."""
    store = opened(data, tmp_path)
    both = replace(config, model="test_vit+test_vit2", weights_digest="random+random", **SIDE_BY_SIDE)
    vits = [store.features(replace(both, model=name, weights_digest="random")) for name in both.model.split("+")]
    found = store.features(both)
    assert found.taps.widths == tuple(64 + width for width in vits[1].taps.widths)
    for tap, columns in enumerate(found.taps.slices):
        parts = [one.values[:, one.taps.slices[tap]] for one in vits]
        np.testing.assert_array_equal(found.values[:, columns], np.concatenate(parts, axis=1))
    assert found.taps.names[0] == "+".join(
        f"{name}/{one.taps.names[0]}" for name, one in zip(both.model.split("+"), vits, strict=True)
    )


def test_split_model_name() -> None:
    assert split_model_name("resnet50.tv2_in1k") == ("resnet50.tv2_in1k",)
    assert split_model_name("b + a+c") == ("b", "a", "c")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("a+", "model 'a+': a name is missing; several networks are written as 'a+b'"),
        ("", "model '': a name is missing; several networks are written as 'a+b'"),
        ("a+b+a", "model 'a+b+a' names 'a' twice, which would repeat its features"),
    ],
)
def test_bad_model_names(model: str, message: str) -> None:
    assert refusal(split_model_name, model) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weights": "file.safetensors"},
            r"^--weights file\.safetensors: one file cannot contain 2 networks",
        ),
        ({"weights_digest": "random"}, r"^test_vit\+test_resnet are 2 networks, but the config has 1 weights$"),
        ({"model": "test_vit+test_resnt"}, "^unknown model 'test_resnt'; did you mean 'test_resnet'"),
    ],
)
def test_bad_configs(data: ld.Dataset, config: Config, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    config = replace(
        config, fit="probe", head="random", **{"model": "test_vit+test_resnet", "weights_digest": "", **settings}
    )
    with pytest.raises(UserError, match=message):
        opened(data, tmp_path).features(config)


def test_weights_that_have_changed_since(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    assert find_weights("test_efficientnet", "random").digest == "random"
    with pytest.raises(UserError, match="no longer those that this run began with"):
        opened(data, tmp_path).features(replace(config, weights_digest="other"))
