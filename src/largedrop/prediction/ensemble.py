"""Which networks predict: runs and checkpoints are opened, and several of them are an ensemble."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from ..errors import UserError, check_type
from ..files import read_bytes
from ..models.network import Network
from ..runs.checkpoint import kept_by, load_model, read_tensors
from ..runs.logits import logits_file
from ..runs.run import SPLIT_FILE, Run

__all__ = ["Model", "not_calibrated", "open_networks", "seen_keys", "test_images_of"]

Model: TypeAlias = "str | Path | Run"
"""A run, its folder (of which its ``Run.model`` is taken), or a checkpoint file."""


def open_networks(models: Model | Sequence[Model]) -> list[Network]:
    """Load one model, or the members of an ensemble, on the processor.

    Raises:
        UserError: a model cannot be loaded, or does not have the classes of the first, in the same order.
    """
    check_type(models, (str, Path, Run, Iterable), "a model must be a run, its folder or a checkpoint file, or several")
    members = [models] if isinstance(models, (str, Path, Run)) else list(models)
    if not members:
        raise UserError("no model is named")
    networks: list[Network] = []
    for member in members:
        path, run, step = _file(member)
        network = load_model(path, run=run, step=step)
        networks.append(network)
        _check_classes(networks[0], network, f"{_name(member)} and {_name(members[0])}")
    return networks


def not_calibrated(networks: Sequence[Network]) -> str:
    """A line about the networks without a temperature; empty where each has one."""
    lacking = sum(network.temperature is None for network in networks)
    which = "the model has" if len(networks) == 1 else f"{lacking} of the {len(networks)} models have"
    return f"{which} no temperature (of an earlier version?), so probabilities are not calibrated" if lacking else ""


def seen_keys(models: Model | Sequence[Model]) -> dict[str, bool]:
    """Whether models were trained on or chosen by each image of their runs, by its key, as far as the tables of these
    runs are there.
    """
    seen: dict[str, bool] = {}
    for member in [models] if isinstance(models, (str, Path, Run)) else models:
        with suppress(OSError, UserError, ValueError, KeyError, csv.Error):  # it only serves a note
            table = read_bytes(_file(member)[0].parent / SPLIT_FILE).decode("utf-8")
            for row in csv.DictReader(io.StringIO(table)):
                seen[row["key"]] = seen.get(row["key"], False) or row.get("used") in ("train", "iid")
    return seen


def test_images_of(model: Model) -> int | None:
    """Number of images that a run was tested on; None where the model is no run, or has no or several test domains."""
    path = model.folder if isinstance(model, Run) else Path(model)
    if not path.is_dir():
        return None
    run = model if isinstance(model, Run) else Run.open(_folder(path))
    logits = logits_file(run.folder, run.config.steps)
    if len(run.config.test_domains) != 1 or not logits.is_file():
        return None
    with kept_by(run.folder):
        return len(read_tensors(logits, "outputs", run.digest)[0]["ood"])


def _name(model: Model) -> str:
    return str(model.folder if isinstance(model, Run) else model)


def _file(model: Model) -> tuple[Path, str, int | None]:
    """The checkpoint of a model, and the digest of the run and the step that it must be of; of any where empty or None.

    Raises:
        UserError: it is a folder without a finished run, or with several; or of a run that keeps no network.
    """
    if not isinstance(model, (str, Path, Run)):
        raise UserError(f"a model is a run, its folder or a checkpoint file, not a {type(model).__name__}")
    if not isinstance(model, Run):
        path = Path(model)
        if not path.exists():
            raise UserError(f"there is no run or checkpoint {path}")
        if not path.is_dir():
            return path, "", None
        model = Run.open(_folder(path))
    if model.config.fit != "all":
        raise UserError(f"{model.folder} is a linear fit, which keeps no network to predict with")
    path = model.existing_model()
    return path, model.digest, model.step_of(path)


def _folder(path: Path) -> Path:
    """``path``, or the only finished run in it (the folder of a `train` holds its runs in ``runs/``)."""
    if (path / "config.json").is_file():
        return path
    runs = sorted(found.parent for pattern in ("*/result.json", "runs/*/result.json") for found in path.glob(pattern))
    if len(runs) > 1:
        raise UserError(f"{path} holds {len(runs)} runs: name one of them, such as {runs[0]}")
    return runs[0] if runs else path


def _check_classes(first: Network, other: Network, names: str) -> None:
    if other.classes == first.classes:
        return
    if sorted(other.classes) == sorted(first.classes):
        raise UserError(f"{names} have their classes in different orders, so they cannot predict together")
    apart = sorted({*first.classes} ^ {*other.classes}, key=[*first.classes, *other.classes].index)
    known = f"only one of them knows '{apart[0]}'" if apart else "one of them has a class twice"
    raise UserError(f"{names} have different classes, so they cannot predict together: {known}")
