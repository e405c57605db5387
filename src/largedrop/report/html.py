"""Pages from the templates beside this file: everything is escaped, and a page loads nothing and runs no script."""

from __future__ import annotations

import base64
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .._version import __version__
from ..runs.estimate import listing
from .text import counts

__all__ = ["Cells", "dataset_line", "embedded", "filled", "plain", "prose", "versions"]

Cells = list[tuple[str, str]]
"""A row of a table: text and CSS classes of each cell."""

_PACKAGES = ("torch", "torchvision", "timm", "numpy")

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def filled(template: str, **values: Any) -> str:
    """The page that a template makes of ``values``."""
    environment = Environment(
        loader=PackageLoader("largedrop", "report"),
        autoescape=True,
        finalize=_visible,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["listing"] = lambda names: listing(list(names))
    return environment.get_template(template).render(version=__version__, **values)


def plain(*texts: str) -> Cells:
    """A row without CSS classes."""
    return [(text, "") for text in texts]


def dataset_line(dataset: Mapping[str, Any]) -> str:
    """A dataset in a line, from ``runs.record.describe``."""
    skipped = f"; skipped, as they cannot be decoded: {dataset['skipped']}" if dataset["skipped"] else ""
    return f"{counts(dataset)}, {dataset['images']:,} images{skipped}; fingerprint {dataset['fingerprint'][:16]}"


def prose(text: str) -> str:
    """``text`` with no-break spaces between numbers, errors and units."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def versions() -> str:
    """Versions of largedrop, Python and what computes."""
    packages = [f"{package} {metadata.version(package)}" for package in _PACKAGES]
    return ", ".join([f"largedrop {__version__}", f"Python {platform.python_version()}", *packages])


def embedded(png: bytes) -> str:
    """An image for a page's ``data:`` address."""
    return base64.b64encode(png).decode("ascii")


def _visible(value: Any) -> Any:
    """Text with control characters and lone surrogates as escapes, as ``\\x1b``; line breaks stay."""
    if not isinstance(value, str):
        return value
    # The type of markup is kept: the escapes contain no HTML.
    return type(value)(_UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value))
