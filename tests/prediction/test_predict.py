"""Predictions: the numbers of ``load_model`` for any batch, in order, with reasons, and decoded only a little ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import refusal
from tests.prediction.models import save

import largedrop as ld
from largedrop.data.images import decode
from largedrop.data.views.host import resize
from largedrop.prediction import predict as module
from largedrop.prediction.images import Fetched
from largedrop.prediction.predict import predict
from largedrop.runs.checkpoint import load_model, save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "one.safetensors", 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven images of several sizes and kinds."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(11):
        shape = (20 + 7 * number, 90 - 5 * number, 3)
        kind = "png" if number % 2 else "jpg"
        Image.fromarray(rng.integers(0, 25 * number + 6, shape, dtype=np.uint8)).save(folder / f"{number:02}.{kind}")
    return folder


def expected(model: Path, path: str) -> dict[str, float]:
    """The probabilities of the network from ``load_model``, as its users compute them."""
    network = load_model(model)
    with torch.inference_mode():
        logits = network(network.transform(path)[None])
        values = (logits / (network.temperature or 1)).softmax(1)[0]
    return dict(zip(network.classes, values.tolist(), strict=True))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_the_numbers_are_those_of_load_model_for_any_batch(model: Path, photos: Path, batch: int) -> None:
    found = predict(model, photos, top=3, batch=batch, device="cpu")
    assert [each.path for each in found] == sorted(str(path) for path in photos.iterdir())
    for each in found:
        assert dict(each.top) == pytest.approx(expected(model, each.path), abs=1e-5)
        assert [probability for _, probability in each.top] == sorted(dict(each.top).values(), reverse=True)
        assert (each.label, each.error, each.unsure) == (each.top[0][0], None, False)
    red = [dict(each.top)["red"] for each in found]
    assert max(red) - min(red) > 1e-3  # a hundred times the tolerance


def test_large_photos_are_decoded_as_for_training(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduced, with the numbers of ``load_model``'s transform of a path and of a Pillow image."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (12, 15, 3), dtype=np.uint8))
    small.resize((1500, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(module, "resize", lambda pixels, size: shapes.append(pixels.shape) or resize(pixels, size))
    other = save(tmp_path / "big.safetensors", 1, size=288)
    (found,) = predict([model, other], tmp_path / "large.jpg", top=3, device="cpu")
    assert shapes == [(320, 400, 3), (360, 450, 3)]
    one, two = (expected(each, str(tmp_path / "large.jpg")) for each in (model, other))
    assert dict(found.top) == pytest.approx({name: (one[name] + two[name]) / 2 for name in one}, abs=1e-5)
    network = load_model(model)
    with Image.open(tmp_path / "large.jpg") as image:
        assert torch.equal(network.transform(image), network.transform(tmp_path / "large.jpg"))
    whole = np.asarray(Image.open(tmp_path / "large.jpg"))
    assert (network.transform(whole) - network.transform(tmp_path / "large.jpg")).abs().max() < 0.1


def test_an_ensemble_is_the_mean_of_probabilities_each_at_its_own_size(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    other = save(tmp_path / "two.safetensors", 1, 0.7, size=48, mean=(0.1, 0.2, 0.3), freeze_batchnorm=False)
    for each in predict([model, other], photos, top=3, device="cpu"):
        one, two = expected(model, each.path), expected(other, each.path)
        assert dict(each.top) == pytest.approx({name: (one[name] + two[name]) / 2 for name in one}, abs=1e-5)


def test_a_model_without_a_temperature_is_not_calibrated_and_says_so(photos: Path, tmp_path: Path) -> None:
    models = [save(tmp_path / f"{value}.safetensors", 0, value) for value in (1.0, 1.5, None)]
    plain, cooler = (predict(model, photos, top=3, device="cpu") for model in models[:2])
    with pytest.warns(UserWarning, match="^the model has no temperature") as said:
        assert predict(models[2], photos, top=3, device="cpu") == plain
    assert said[0].filename == __file__
    assert predict(models[1], photos, top=3, device="cpu", calibrated=False) == plain
    assert predict(models[2], photos, top=3, device="cpu", calibrated=False) == plain
    assert [each.label for each in cooler] == [each.label for each in plain]
    assert all(one.top[0][1] < other.top[0][1] for one, other in zip(cooler, plain, strict=True))
    with pytest.warns(UserWarning, match="^1 of the 2 models have no temperature"):
        predict([models[0], models[2]], photos, device="cpu")


def test_bfloat16_is_near(model: Path, photos: Path) -> None:
    exact, near = (
        [dict(each.top) for each in predict(model, photos, top=3, device="cpu", precision=precision)]
        for precision in ("float32", "bfloat16")
    )
    assert exact != near
    for one, other in zip(exact, near, strict=True):
        assert one == pytest.approx(other, abs=0.05)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_images_that_cannot_be_read_keep_their_place(model: Path, photos: Path, batch: int) -> None:
    whole = (photos / "10.jpg").read_bytes()
    (photos / "00a.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "00b.jpg").write_text("hello")
    (photos / "99.png").touch()
    found = predict(model, photos, batch=batch, device="cpu")
    reasons = {Path(each.path).name: each.error for each in found if each.error}
    assert reasons.keys() == {"00a.jpg", "00b.jpg", "99.png"}
    assert "truncated" in (reasons["00a.jpg"] or "")
    assert (reasons["00b.jpg"], reasons["99.png"]) == ("not an image of a known format", "the file is empty")
    assert [Path(each.path).name for each in found] == sorted(path.name for path in photos.iterdir())
    for each in found:
        assert (each.label is None, each.top == (), each.unsure) == (bool(each.error), bool(each.error), False)


def test_it_abstains_below_a_probability(model: Path, photos: Path) -> None:
    sure = [each.top[0][1] for each in predict(model, photos, device="cpu")]
    limit = sorted(sure)[5]
    found = predict(model, photos, device="cpu", unsure_below=limit)
    assert [each.unsure for each in found] == [value < limit for value in sure]
    assert [each.label is None for each in found] == [value < limit for value in sure]
    assert [each.top[0][1] for each in found] == sure
    assert sum(each.unsure for each in found) == 5


def test_images_are_decoded_only_two_batches_ahead(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(module, "decode", lambda *place: begun.append(1) or decode(*place))
    seen: list[tuple[int, float]] = []
    predict(model, photos, batch=2, device="cpu", progress=lambda work: seen.append((len(begun), work)))
    assert [work for _, work in seen] == [2, 2, 2, 2, 2, 1]
    assert all(count <= 2 * number + 2 * 2 + 1 for number, (count, _) in enumerate(seen, 1))


def test_full_memory_is_a_reason(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(path: Path, bound: int) -> Any:
        raise ld.UserError(f"{path}: there is not enough memory to decode it")

    monkeypatch.setattr(module, "decode", decode)
    assert {each.error for each in predict(model, photos, device="cpu")} == {"there is not enough memory to decode it"}


def test_mistakes(model: Path, photos: Path, tmp_path: Path) -> None:
    asked = {"device": "cpu"}
    said = refusal(predict, model, photos, top=4, **asked)
    assert said == "the model has 3 classes, so the 4 most probable cannot be given"
    for batch in (0, 10**20):
        told = f"batch must be a whole number from 1 to 10,000,000, not {batch}"
        assert refusal(predict, model, photos, batch=batch, **asked) == told
    assert refusal(predict, model, photos, unsure_below=2, **asked) == "unsure_below must be in [0, 1], not 2"
    assert "unknown precision 'float16'" in refusal(predict, model, photos, precision="float16", **asked)
    assert "unknown device 'tpu'" in refusal(predict, model, photos, device="tpu")
    network = load_model(model)
    torch.nn.init.constant_(network.head.bias, float("nan"))
    save_model(tmp_path / "broken.safetensors", network, {"temperature": 1})
    said = refusal(predict, tmp_path / "broken.safetensors", photos, **asked)
    assert said == f"the model gives no probabilities for {photos / '00.jpg'}: its weights or outputs overflow"


def test_it_is_public(model: Path, photos: Path) -> None:
    found = ld.predict(model, photos, device="cpu")
    assert isinstance(found[0], ld.Prediction)
    assert found == predict([str(model)], [str(photos / "*"), photos], device="cpu")


def test_a_prediction_for_each_image_that_is_named(model: Path, photos: Path) -> None:
    one, other, *_ = sorted(photos.glob("*.png"))
    named = [other, one, other]
    assert [each.path for each in predict(model, named, device="cpu")] == list(map(str, named))


def test_an_address_with_nothing_behind_it(tmp_path: Path) -> None:
    missing = Fetched("https://host/a.png", tmp_path / "a.png")
    assert module._views([32], 16, missing) == "there is nothing at this address, or it cannot be fetched"
