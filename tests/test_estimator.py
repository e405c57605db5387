"""The scikit-learn classifier: scikit-learn's own checks, made of images, and what they cannot ask of paths."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data
from tests.helpers import TINY, refusal, without

import largedrop as ld
from largedrop.data.dataset import Dataset
from largedrop.estimator import ImageClassifier
from largedrop.runs.checkpoint import save_model
from largedrop.training.resolve import resolve
from largedrop.training.setup import create_network

OWN = {name: TINY[name] for name in ("model", "weights", "size", "batch", "lr")}
MORE = {"optimizer": "sgd", "precision": "float32", "eval_every": 1, "head": "random", "ema": 0.0}


def settings(**more: Any) -> dict[str, Any]:
    return {**OWN, "steps": 1, "device": "cpu", "settings": MORE, **more}


def quick(data: Dataset, *, output: Path, recipe: str, device: str, **given: Any) -> Any:
    """As ``finetune``, of no steps."""
    config = resolve(data, torch.device(device), recipe=recipe, **given)
    output.mkdir()
    save_model(output / "best.safetensors", create_network(config, data.classes), {})
    return SimpleNamespace(model=output / "best.safetensors", result={"config": config, "data": data})


class OfNumbers(ImageClassifier):
    """Draws an image for each row of a table of numbers, so that scikit-learn's checks can be made."""

    folder = Path()

    def fit(self, X: Any, y: Any, domains: Any = None, groups: Any = None) -> OfNumbers:  # noqa: N803
        if y is not None:
            X, y = validate_data(self, X, y, dtype=None, multi_output=True)  # noqa: N806
        super().fit(self._drawn(X), y, domains, groups)
        return self

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(self._drawn(validate_data(self, X, dtype=None, reset=False)))

    def _drawn(self, rows: Any) -> list[str]:
        paths = []
        for number, row in enumerate(rows):
            values = np.asarray(row, dtype=float)
            path = self.folder / f"{number}-{zlib.crc32(values.tobytes())}.png"
            if not path.is_file():
                Image.fromarray(np.resize(128 + 50 * np.tanh(values), (32, 32, 3)).astype(np.uint8)).save(path)
            paths.append(str(path))
        return paths

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags


EXPECTED = {
    "check_classifiers_train": "asks for an accuracy, and the networks of these checks are not trained",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@parametrize_with_checks([OfNumbers(**settings())], expected_failed_checks=lambda each: EXPECTED)  # type: ignore[untyped-decorator]
def test_the_checks_of_scikit_learn(estimator: Any, check: Any, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OfNumbers, "folder", drawn)
    monkeypatch.setattr("largedrop.estimator.finetune", quick)
    check(estimator)


Images = tuple[list[str], list[str], list[str]]


@pytest.fixture(scope="module")
def images(toy: Path) -> Images:
    """Paths, labels and domains."""
    paths = sorted(toy.rglob("*.png"))
    return [*map(str, paths)], [path.parts[-2] for path in paths], [path.parts[-3] for path in paths]


@pytest.fixture(scope="module")
def fitted(images: Images) -> ImageClassifier:
    paths, labels, domains = images
    return ImageClassifier(**settings(steps=6)).fit(paths, labels, domains)


def test_it_is_a_run_of_the_engine_and_predicts_as_predict_does(
    fitted: ImageClassifier, images: Images, tmp_path: Path
) -> None:
    paths, labels, _ = images
    assert [line["step"] for line in fitted.result_["log"]] == [0, 1, 2, 3, 4, 5, 6]
    assert fitted.result_["dataset"]["domains"] == {"ink": 18, "oil": 18, "photo": 18}
    assert fitted.classes_.tolist() == ["blue", "green", "red"]
    found = fitted.predict_proba(paths)
    (tmp_path / "model.safetensors").write_bytes(fitted.checkpoint_)
    wanted = ld.predict(tmp_path / "model.safetensors", paths, top=3, device="cpu")
    for row, each in zip(found, wanted, strict=True):
        assert {f"{number} {name}": row[number] for number, name in enumerate(fitted.classes_)} == dict(each.top)
    assert fitted.predict(np.array(paths)[:, None]).tolist() == fitted.classes_[found.argmax(1)].tolist()
    assert fitted.score(paths, labels) == np.mean(fitted.predict(paths) == labels)
    assert fitted.predict([Path(paths[0])] * 2).shape == (2,)


def test_a_pickle_needs_no_folder_and_predicts_the_same(fitted: ImageClassifier, images: Images) -> None:
    stored = pickle.dumps(fitted)
    assert b"/tmp/" not in stored.replace(fitted.checkpoint_, b"")
    again = pickle.loads(stored)  # noqa: S301  # our own
    assert np.array_equal(again.predict_proba(images[0]), fitted.predict_proba(images[0]))
    assert not hasattr(clone(again), "checkpoint_")


def test_domains_left_out_by_cross_validation_in_a_pipeline(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def noted(data: Dataset, **given: Any) -> Any:
        trained.append((data.domains, len(data)))
        return quick(data, **given)

    monkeypatch.setattr("largedrop.estimator.finetune", noted)
    paths, labels, domains = images
    pipeline = Pipeline([("images", ImageClassifier(**settings()))])
    left_out = {"groups": domains, "cv": LeaveOneGroupOut()}
    scores = cross_val_score(pipeline, paths, labels, **left_out, params={"images__domains": domains})
    assert trained == [(("oil", "photo"), 36), (("ink", "photo"), 36), (("ink", "oil"), 36)]
    assert scores.shape == (3,)


def test_a_search_over_rates_gives_each_its_own(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def noted(*arguments: Any, **given: Any) -> Any:
        rates.append(given["dropout"])
        return quick(*arguments, **given)

    monkeypatch.setattr("largedrop.estimator.finetune", noted)
    search = GridSearchCV(ImageClassifier(**settings()), {"dropout": [0.0, 0.9]}, cv=2)
    search.fit(images[0], images[1])
    assert rates[:4] == [0.0, 0.0, 0.9, 0.9]
    assert search.best_estimator_.result_["config"].dropout == search.best_params_["dropout"]


def test_what_is_given_reaches_the_engine(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("largedrop.estimator.finetune", quick)
    paths, labels, domains = images
    codes = np.array([{"red": 10, "green": 9, "blue": -1}[label] for label in labels])
    odd = ImageClassifier(**settings()).fit(
        paths, [{"red": "a/b", "green": "", "blue": "é\n"}[each] for each in labels]
    )
    assert odd.network_.classes == ("0", "1 a/b", "2 é\\n")
    assert odd.classes_.tolist() == ["", "a/b", "é\n"]
    groups = [f"{label}{Path(path).stem}" for path, label in zip(paths, labels, strict=True)]
    given = settings(random_state=np.random.RandomState(3), dropout=0.4, settings={**MORE, "weight_decay": 0.5})
    made = ImageClassifier(**given).fit(np.array(paths)[:, None], codes, domains=np.array(domains), groups=groups)
    config, data = made.result_["config"], made.result_["data"]
    drawn = np.random.RandomState(3).randint(2**31 - 1)
    assert (config.dropout, config.weight_decay, config.seed, config.test_domains) == (0.4, 0.5, drawn, ())
    assert (data.classes, data.domains) == (("0 -1", "1 9", "2 10"), ("ink", "oil", "photo"))
    assert len(np.unique(data.groups)) == 18
    assert made.classes_.tolist() == [-1, 9, 10]
    assert set(made.predict(paths)) <= {-1, 9, 10}
    alone = ImageClassifier(**settings(recipe="short")).fit(paths, labels)
    assert (alone.result_["data"].domains, alone.result_["config"].seed) == (("all",), 0)


def test_input_that_cannot_be(fitted: ImageClassifier, images: Images, tmp_path: Path) -> None:
    paths, labels, domains = images

    def said(X: Any = paths, y: Any = labels, more: Any = None, **given: Any) -> str:  # noqa: N803
        return refusal(ImageClassifier(**settings(**given)).fit, X, y, **(more or {}))

    assert said(paths[0]) == f"X is an array of paths, not one path ({paths[0]})"
    assert said([]) == "X has no images"
    assert said(np.zeros((4, 2))) == "X is an array of paths, (n,) or (n, 1), not of the shape (4, 2)"
    assert said([0.5] * 54) == "X holds paths of images; row 0 is a float (0.5)"
    assert said([*paths[:-1], "no.png"]) == "X: row 53: there is no file no.png"
    assert said([*paths[:-1], paths[0]]).startswith("X: row 53 lists ")
    assert said(y=["red"] * 54) == "y has only one class, 'red'; at least two are needed"
    assert said(y=[*labels[:-1], None]).startswith("the labels in y cannot be sorted")
    for none in ("", float("nan"), None):
        assert said(more={"domains": [*domains[:-1], none]}) == "X: row 53 has no domain"
    assert said(settings=[1]) == "settings are a dictionary, not a list"
    assert said(dropout=1.5).startswith("dropout must be ")
    assert said(settings={"lr": 1.0}) == "'lr' is a parameter of ImageClassifier: leave it out of settings"
    assert said(settings={"fit": "probe"}).startswith("a linear fit keeps no network")
    assert said(settings={"weight_deacy": 1.0}).startswith(
        "unknown setting 'weight_deacy'; did you mean 'weight_decay'"
    )
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ImageClassifier(**settings()).fit(paths, labels, domains[:3])
    (tmp_path / "text.png").write_text("text")
    unread = refusal(fitted.predict, [paths[0], str(tmp_path / "text.png"), str(tmp_path / "none.png")])
    assert unread.startswith(f"an image cannot be read: {tmp_path / 'text.png'}: ")
    assert unread.endswith("(and 1 more)")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    said = without(monkeypatch, "sklearn.base", "largedrop.estimator")
    assert said == 'ImageClassifier needs scikit-learn 1.6 or later: pip install "largedrop[sklearn]"'
