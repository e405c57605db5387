"""The classes in the modules of a package, so that a new objective or average is one new file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

__all__ = ["classes_in"]


def classes_in(package: str) -> Iterator[type]:
    """The concrete classes that the modules of a package define, in the order of the files' names.

    Args:
        package: full name of the package, whose modules are imported.
    """
    for file in pkgutil.iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and not inspect.isabstract(value):
                yield value
