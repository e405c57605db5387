"""The model card: what a model was trained on, how it was scored, and what it should not be trusted with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import timm

from .._version import __version__
from ..catalog.facts import named_like
from ..errors import UserError
from ..measures.calibration import COLDEST, HOTTEST
from ..measures.intervals import Interval, wilson
from ..models.network import Network, weights_crc
from ..names import names_in

__all__ = ["card_of"]

_USE = """\
```python
import timm, torch{needs}
from PIL import Image, ImageOps

model = timm.create_model("{address}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
with torch.inference_mode():
    image = ImageOps.exif_transpose(Image.open("photo.jpg"))  # upright, as in training
    logits = model(transform(image.convert("RGB"))[None])
probabilities = torch.softmax(logits / {temperature}, dim=1)[0]
classes = model.pretrained_cfg["label_names"]
```"""


def card_of(
    network: Network,
    *,
    name: str,
    test_images: int | None = None,
    evaluation: Mapping[str, Any] | None = None,
    licence: str = "other",
    address: str = "local-dir:FOLDER",
) -> str:
    """The text of README.md.

    Args:
        network: the network, with what its checkpoint says of itself.
        name: title of the card.
        test_images: number of images of the domain that the run was tested on; None where it is not known.
        evaluation: content of evaluation.json of ``largedrop evaluate``, with scores on further images.
        licence: identifier of the licence for the hub.
        address: what ``timm.create_model`` loads.

    Raises:
        UserError: ``evaluation`` is of another model, or no evaluation.
    """
    spec, about = network.spec, network.about
    config: Mapping[str, Any] = about["config"] if isinstance(about.get("config"), dict) else {}
    parts = [
        _front_matter(licence),
        f"# {_line(name)}",
        f"{spec.model}, fine-tuned by largedrop {__version__} to tell {len(spec.classes)} classes apart: "
        f"{_line(_listed(spec.classes))}.",
        "## Use\n\n"
        + _USE.format(
            address=address,
            needs="  # timm 1.0.16 or newer loads folders" if address.startswith("local-dir:") else "",
            temperature=f"{network.temperature or 1.0:g}",
        ),
        "## Training\n\n" + "\n".join(_training(network, config, about)),
        "## Scores\n\n" + "\n\n".join(_scores(config, about, test_images)),
    ]
    if evaluation is not None:
        parts.append(_evaluated(network, evaluation))
    parts += ["## Calibration\n\n" + _calibration(network), "## Limits\n\n" + _limits(config, network.spec.bits)]
    parts.append("## Licences\n\n" + _licences(network, config))
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: str) -> str:
    """What the hub reads."""
    tags = ("timm", "image-classification", "largedrop")
    lines = [f"license: {json.dumps(licence)}", "library_name: timm", "pipeline_tag: image-classification", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _training(network: Network, config: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    spec = network.spec
    rows = [
        ("weights at the start", spec.weights),
        ("size", f"{spec.size} × {spec.size} pixels, the whole image squashed"),
    ]
    if config:
        unseen = _unseen(config)
        domains = [each for each in about.get("domains", []) if each not in (*unseen, config.get("left_out"))]
        rows += [
            ("data", f"{config['data']} (fingerprint {config['fingerprint'][:16]})"),
            ("trained on the domains", _listed(domains)),
            ("never trained on", _listed(unseen) or "none of its domains"),
            ("dropout on the representation", f"{config['dropout']:g}, {config.get('masks', 1)} masks an image"),
            (
                "steps",
                f"{config['steps']} of {config['batch']} images a domain, {config['optimizer']}, lr {config['lr']:g}",
            ),
            ("seed", str(config["seed"])),
        ]
    return ["| | |", "| --- | --- |", *(f"| {_line(head)} | {_line(text)} |" for head, text in rows)]


def _unseen(config: Mapping[str, Any]) -> list[str]:
    """Names of the domains that the run was tested on."""
    return [*filter(None, (config.get("test_domain"), *names_in(str(config.get("also_tested", "")))))]


def _scores(config: Mapping[str, Any], about: Mapping[str, Any], test_images: int | None) -> list[str]:
    iid, ood = about.get("iid_accuracy"), about.get("ood_accuracy")
    if not isinstance(iid, float) or not config:
        return ["The checkpoint says none."]
    rows = [f"| on held-out images of the training domains (mean of the domains) | {100 * iid:.1f} |"]
    said = "It was tested on no domain that it had not seen: how it does there is not known."
    if isinstance(ood, float):
        cell, several = f"{100 * ood:.1f}", ""
        if test_images:
            cell = _interval(ood, *wilson(ood * test_images, test_images))
            several = f", n = {test_images:,}, 95 % interval over images"
        rows.insert(0, f"| on what it had never seen, {_line(_listed(_unseen(config)))}{several} | {cell} |")
        said = (
            "Checkpoints and settings were chosen by the held-out images, never by what it had not seen. An interval "
            "says how much the number depends on these images; other domains can be much better or worse."
        )
    return ["\n".join(["| accuracy in % | |", "| --- | --- |", *rows]), said]


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _shares(found: Mapping[str, Any]) -> Interval:
    """An accuracy with its interval.

    Raises:
        ValueError: it is not of fractions and a number of images.
    """
    one = Interval(**found)
    if not (all(map(_is_share, (one.low, one.value, one.high))) and type(one.n) is int and one.n >= 0):
        raise ValueError("an accuracy is no fraction of a number of images")
    return one


def _evaluated(network: Network, evaluation: Mapping[str, Any]) -> str:
    try:
        models, data = evaluation["models"], evaluation["dataset"]["name"]
        if tuple(models[0]["classes"]) != network.classes:
            raise UserError("the evaluation is of a model with other classes")
        own = weights_crc(network)
        model = next((each for each in models if [*each.get("weights", ())] == [own]), None)
        if model is None:
            theirs = " and ".join("+".join(each.get("weights", ["unknown weights"])) for each in models)
            raise UserError(f"the evaluation is of another model: of {theirs}, and this is {own}; evaluate this one")
        rows = []
        for domain, scores in model["domains"].items():
            accuracy, macro = (_shares(scores[each]) for each in ("accuracy", "macro"))
            after = model["after"][domain]
            cells = [
                f"{100 * each.value:.1f} [{100 * each.low:.1f}, {100 * each.high:.1f}]" for each in (accuracy, macro)
            ]
            if not (_is_share(after["confidence"]) and _is_share(after["ece"])):
                raise ValueError("a confidence or calibration error is no fraction")
            sure = f"{100 * after['confidence']:.1f} | {100 * after['ece']:.1f}"
            rows.append(f"| {_line(domain)} | {accuracy.n:,} | {' | '.join(cells)} | {sure} |")
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"this is no evaluation.json of largedrop evaluate ({error})") from error
    return "\n".join(
        [
            f"## Evaluated on {_line(str(data))}\n",
            "In %, with 95 % intervals; confidence and calibration error (ECE) at the temperature.\n",
            "| domain | images | accuracy | macro accuracy | confidence | ECE |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            *(f"\n{_line(note)}." for note in evaluation.get("notes", [])),
        ]
    )


def _interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _calibration(network: Network) -> str:
    if network.temperature is None:
        return "None was fitted: the probabilities are those of the softmax, and mostly too sure."
    if network.temperature in (COLDEST, HOTTEST):
        end = "smallest" if network.temperature == COLDEST else "largest"
        return (
            f"Logits are divided by the temperature {network.temperature:g}, the {end} that is fitted: the held-out "
            "images ask for one beyond it, as of a network that was hardly trained. Check how sure it is with labelled "
            "images."
        )
    return (
        f"Logits are divided by the temperature {network.temperature:g}, fitted on held-out images of the training "
        "domains. On other domains it is less often right and still too sure: check with labelled images from there."
    )


def _limits(config: Mapping[str, Any], bits: int) -> str:
    lines = [
        "- In training images were upright by their EXIF orientation, and white where they are transparent; values of "
        f"16-bit greyscale, taken as {bits} bits, were scaled to 8. What is read otherwise is another image to it.",
        "- It always answers with one of its classes, also for an image of none of them.",
        "- The whole image is squashed to a square: long or wide images are distorted as they were in training.",
        f"- It was tested on {unseen}, which it had not seen; a new site, camera or style is another."
        if (unseen := _line(_listed(_unseen(config))))
        else "- It was tested on no domain that it had not seen.",
    ]
    if not config:
        lines[-1] = "- The checkpoint does not say what it was tested on."
    return "\n".join(lines)


def _licences(network: Network, config: Mapping[str, Any]) -> str:
    spec = network.spec
    weights = getattr(timm.models.get_pretrained_cfg(spec.model, allow_unregistered=True), "license", None)
    weights = f"licence by timm's record: {weights}" if weights else "see their source for the licence"
    lines = [f"- Pretrained weights: {_line(spec.weights)}; {_line(weights)}."] if spec.weights != "random" else []
    if config:
        facts = named_like(str(config["data"]))
        said = f"licence: {facts.licence} ({facts.home})" if facts else "licence: its author's to say here"
        lines.append(f"- Training images: {_line(config['data'])}; {said}. They are not in this repository.")
    return "\n".join(
        [*lines, "- Whether these licences allow a use of this model is for who publishes it to say here."]
    )


def _listed(names: Sequence[Any], most: int = 20) -> str:
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _line(text: str) -> str:
    """``text`` in one line of a table, without mark-up."""
    plain = " ".join(str(text).split())
    for character in "\\|*_<>`[]":
        plain = plain.replace(character, f"\\{character}")
    return plain
