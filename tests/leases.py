"""What tests of leases share."""

from __future__ import annotations

import json
import os
from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def foreign(folder: Path, number: int = 1) -> Path:
    """A lease of another machine."""
    path = folder / f".lease-{number}"
    path.write_text(json.dumps({"host": "node7", "system": "another", "process": 12, "started": "34"}))
    os.utime(path, (1e9, 1e9))  # its clock is decades behind
    return path
