"""studies/peers.py: which trainings are missing, and the table, on made-up records."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def peers() -> Any:
    sys.path.insert(0, str(STUDIES))  # as when it is run as a script
    spec = importlib.util.spec_from_file_location("peers_study", STUDIES / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(STUDIES))
    return module


def entry(iid: float, ood: float) -> dict[str, Any]:
    return {"iid_accuracy": iid, "ood_accuracy": ood, "processor_seconds": 100.0}


def tried(peers: Any, name: str, accuracies: tuple[float, float, float]) -> dict[str, dict[str, Any]]:
    """A record of a peer's learning rates on the first test domain, in the order in which they are tried."""
    rates = peers.rates(peers.PEERS[name])
    return {peers.key(name, lr, "sketch"): entry(iid, 0.5) for lr, iid in zip(rates, accuracies, strict=True)}


def test_rates_come_first_and_then_the_other_domains_with_the_chosen_one(peers: Any) -> None:
    found: dict[str, dict[str, Any]] = {}
    seen = []
    for name, lr, domain in peers.pending(["fastai", "default"], found):
        seen.append((name, f"{lr:.2g}", domain))
        found[peers.key(name, lr, domain)] = entry(0.9 if f"{lr:.2g}" == "0.006" else 0.8, 0.5)
    first = [("fastai", lr, "sketch") for lr in ("0.002", "0.00067", "0.006")]
    others = ("art_painting", "cartoon", "photo")
    ours = [("default", "0.0003", domain) for domain in others]
    assert seen == [*first, ("default", "0.0003", "sketch"), *(("fastai", "0.006", each) for each in others), *ours]
    assert list(peers.pending(["fastai", "default"], found)) == []


def test_in_a_tie_the_documented_rate_is_chosen_and_a_failed_one_never(peers: Any) -> None:
    found = tried(peers, "script", (0.8, 0.8, 0.8))
    assert peers.chosen("script", found) == (1e-3, [])
    found[peers.key("script", 1e-3, "sketch")] = {"failed": "it collapsed"}
    assert peers.chosen("script", found) == (1e-3 / 3, [])
    del found[peers.key("script", 3e-3, "sketch")]
    assert peers.chosen("script", found) == (None, [3e-3])


def test_the_table_has_a_mean_only_where_all_domains_are_there(peers: Any) -> None:
    found = tried(peers, "script", (0.8, 0.7, 0.9))
    row = "| plain timm/torch script | 0.003 | – | – | 50.0 | – | – | – | 100 s |"
    assert list(peers.table(found))[2:] == [row]
    for domain, ood in (("art_painting", 0.6), ("cartoon", 0.7), ("photo", 0.9)):
        found[peers.key("script", 3e-3, domain)] = entry(0.8, ood)
    row = "| plain timm/torch script | 0.003 | 82.5 | 67.5 | 50.0 | 60.0 | 70.0 | 90.0 | 100 s |"
    assert list(peers.table(found))[2:] == [row]
    found[peers.key("script", 3e-3, "photo")] = {"failed": "it collapsed", "processor_seconds": 10.0}
    assert "| – | – | 50.0 | 60.0 | 70.0 | failed |" in list(peers.table(found))[2]


def test_a_training_is_added_to_those_on_record(peers: Any, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    peers.add(path, "one", entry(0.5, 0.6))
    assert peers.add(path, "two", entry(0.7, 0.8)) == peers.read(path)
    assert peers.read(path) == {"one": entry(0.5, 0.6), "two": entry(0.7, 0.8)}
