"""Images inside a file that holds many: a member of a tar archive, a value of an Arrow table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Inside", "Place"]


@dataclass(frozen=True, slots=True)
class Inside:
    """Where the bytes of an image are in a larger file; what decodes images asks it as it would ask a path.

    Attributes:
        file: path of the larger file.
        name: name of the image in it.
        offset: where its bytes begin.
        size: number of its bytes.
        source: what the larger file is a copy of, as messages name it; empty for no copy.
    """

    file: Path
    name: str
    offset: int
    size: int
    source: str = ""

    def __str__(self) -> str:
        return f"{self.source or self.file}: {self.name}"

    @property
    def parent(self) -> Path:
        """The larger file."""
        return self.file

    def absolute(self) -> Inside:
        """The same in a file with an absolute path."""
        return Inside(self.file.absolute(), self.name, self.offset, self.size, self.source)

    def stat(self) -> os.stat_result:
        """Status of the larger file, by which a change is noticed."""
        return self.file.stat()

    def read(self) -> bytes:
        """The bytes; fewer than ``size`` where the larger file ends before.

        Raises:
            OSError: the larger file cannot be read.
        """
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Place = Path | Inside
"""Where an image is: a file, or a part of one."""
