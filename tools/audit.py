"""Say what pip-audit has found, or in a line that it could not ask: ``python tools/audit.py audit.json audit.log``.

Ends with 1 where a package that is installed has a known vulnerability.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(report: Path, log: Path) -> int:
    """Print what was found."""
    packages = json.loads(report.read_text("utf-8"))["dependencies"] if report.is_file() else []
    known = [each for each in packages if "skip_reason" not in each]
    if not known:
        said = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
        last = next((line.strip() for line in reversed(said) if line.strip()), "it is not installed, or took too long")
        why = f"none of {len(packages)} packages is known there" if packages else last[:160]
        print(f"not audited: pip-audit could not ask its service ({why})")
        return 0
    found = {each["name"]: [vulnerability["id"] for vulnerability in each["vulns"]] for each in known if each["vulns"]}
    print(*(f"{name}: {', '.join(each)}" for name, each in found.items()), sep="\n")
    print(f"{len(known)} of {len(packages)} packages audited, {len(found)} with known vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
