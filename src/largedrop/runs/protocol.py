"""The protocol (``config.PROTOCOL``) of a stored run, and how its result is read.

3   i.i.d. accuracy is the mean over the training domains; the network before the first step is evaluated too
2   i.i.d. accuracy is pooled over the images of all training domains
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import product
from operator import is_
from pathlib import Path
from statistics import fmean
from typing import Any

from .._version import __version__
from ..config import ABOUT, PROTOCOL, VARIED, Config, digest_of
from ..errors import RunError, UserError
from .record import ALPHA, Record

__all__ = ["UnusableError", "digest_in", "iid_accuracy_of", "methods_of", "read_config", "records_of", "refuse_older"]

OLDEST = 2
"""The oldest protocol whose runs can be read."""

_NAMED = re.compile(r"-d[0-9.e+-]+-s[0-9]+-([0-9a-f]{12})$")


class UnusableError(RunError):
    """A run that is unusable; ``kind`` is one of ``runs.stored.UNUSABLE_KINDS``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(" ".join(reason.split()))  # one line, whatever names a file has in it
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        # A process sends it to another.
        return UnusableError, (self.kind, str(self))


def digest_in(name: str) -> str:
    """The digest of the config in the name of a run's folder; empty where it has none."""
    found = _NAMED.search(name)
    return found[1] if found else ""


def read_config(content: Mapping[str, Any], name: str) -> tuple[Config, int, str]:
    """A run's config and protocol, and the digest of both.

    Up to protocol 2 a config.json does not contain its protocol, which then follows from the digest in the folder's
    name; a folder that a person named is taken for protocol 2.

    Args:
        content: content of config.json.

    Raises:
        UnusableError: the config is damaged, of a newer version or a protocol before ``OLDEST``, or its digest is not
            the one in ``name``.
    """
    stored = {field: value for field, value in content.items() if field != "protocol"}
    stated = content.get("protocol")
    if "protocol" in content and (not isinstance(stated, int) or isinstance(stated, bool)):
        raise UnusableError("damaged", f"config.json: protocol must be a whole number, not {stated!r}")
    if stated is not None and stated > PROTOCOL:
        raise UnusableError(
            "newer version", f"of protocol {stated}, and largedrop {__version__} knows {PROTOCOL}; update it"
        )
    candidates = range(OLDEST, -1, -1) if stated is None else [stated]
    named = _NAMED.search(name)
    # An older version may have had fewer fields, so the name is the digest of the stored fields.
    fitting = [number for number in candidates if not named or digest_of(stored, number) == named[1]]
    unknown = sorted(set(stored) - set(ABOUT))
    if named and fitting and unknown:
        raise UnusableError(
            "newer version", f"its config has '{unknown[0]}', which largedrop {__version__} lacks; update it"
        )
    try:
        config = Config.from_json(stored)
    except (UserError, TypeError) as error:
        raise UnusableError("damaged" if fitting else "edited by hand", f"config.json: {error}") from error
    if named and not fitting:
        reason = f"its config hashes to {digest_of(stored, candidates[0])}, not to the {named[1]} of its folder's name"
        raise UnusableError("edited by hand", reason)
    if fitting[0] < OLDEST:
        raise UnusableError(
            "older protocol", f"of protocol {fitting[0]}, and now the same config trains differently; run it again"
        )
    # Where the config has the stored values themselves, and no others, the digest in the name is that of both.
    own = vars(config)
    same = len(stored) == len(own) and all(map(is_, map(own.get, stored), stored.values()))
    return config, fitting[0], named[1] if named and same else digest_of(own, fitting[0])


def refuse_older(content: Mapping[str, Any], folder: Path) -> None:
    """Check that the runs in a folder are of this version's protocol.

    Args:
        content: content of config.json, comparison.json or sweep.json.

    Raises:
        UserError: the protocol is another.
    """
    theirs = content.get("protocol", f"{OLDEST} or older")
    if theirs != PROTOCOL:
        raise UserError(
            f"{folder} was begun by protocol {theirs}, and this version trains by protocol {PROTOCOL}; "
            "name another --output"
        )


def iid_accuracy_of(line: Mapping[str, Any]) -> float:
    """I.i.d. accuracy in a line of a log of protocol 2 or later: the mean over the training domains.

    Rounded as in ``training.evaluation.mean_over_domains``, so that ties are the same.
    """
    return round(fmean(line["iid_by_domain"].values()), 12)


def methods_of(result: Mapping[str, Any], protocol: int) -> dict[str, Any]:
    """The methods of a result.json by name, each with ``iid_accuracy``, ``ood_accuracy``, ``steps`` and ``seconds``.

    In a result of protocol 2 the checkpoint of fine-tuning is selected again from the log, by the mean over the
    training domains (in a tie, the earliest). The i.i.d. accuracies of the other methods stay pooled over images, since
    those by domain were not stored.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the log is damaged.
    """
    methods: dict[str, Any] = dict(result["methods"])
    if protocol == PROTOCOL or "fine-tuning" not in methods:
        return methods
    best = max(result["log"], key=lambda line: (iid_accuracy_of(line), -line["step"]))
    chosen = {"iid_accuracy": iid_accuracy_of(best), "ood_accuracy": best["ood_accuracy"]}
    return {**methods, "fine-tuning": {**methods["fine-tuning"], **chosen}}


def records_of(config: Config, result: Mapping[str, Any], protocol: int, settings: dict[str, Any]) -> list[Record]:
    """One record for each method of a result.json and each test domain; of a method with shares α, one for each.

    Args:
        result: content of result.json.
        settings: the config's settings; all records without α share this object.

    Raises:
        UnusableError: the result is damaged; the message lists all errors.
    """
    if not isinstance(result.get("methods"), dict) or not result["methods"]:
        raise UnusableError("damaged", "result.json has no 'methods'")
    try:
        methods = methods_of(result, protocol)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = "result.json: its log has no i.i.d. accuracy by domain"
        raise UnusableError("damaged", reason) from error
    common = {name: getattr(config, name) for name in VARIED}
    several = len(config.test_domains) > 1
    wrong = [
        f"result.json, {method}: must have one entry for each {ALPHA}"
        for method, found in methods.items()
        if isinstance(found, list) and len(_shares(found)) != max(1, len(found))
    ]
    entries = [
        (method, entry)
        for method, found in methods.items()
        for entry in (found if isinstance(found, list) else [found])
    ]
    records = []
    for (method, entry), tested in product(entries, config.test_domains or ("",)):
        content = entry
        if isinstance(entry, dict):
            own = {**settings, ALPHA: entry[ALPHA]} if ALPHA in entry else settings
            content = {**entry, **common, "test_domain": tested, "settings": own, "method": sys.intern(method)}
            content.pop(ALPHA, None)
            for name, by_domain in (("ood_accuracy", "ood_by_domain"), ("ood_macro_accuracy", "ood_macro_by_domain")):
                found = content.pop(by_domain, None)
                if several:
                    content[name] = found.get(tested) if isinstance(found, dict) else None
        try:
            records.append(Record.from_json(content, f"result.json, {method}"))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UnusableError("damaged", "; ".join(wrong))
    return records


def _shares(entries: list[Any]) -> set[str]:
    return {str(entry.get(ALPHA) if isinstance(entry, dict) else entry) for entry in entries}
