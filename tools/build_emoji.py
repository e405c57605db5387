"""Build src/largedrop/data/embedded/emoji.bin: 831 emoji in five styles, from five pinned npm packages.

The same packages and the versions of tools/requirements.txt give the same bytes. The file is one line of JSON (what is
drawn and how it is laid out), then the WebP sheets one after the other, style by style; each sheet has 4 × 4 cells of
144 px with a drawing of 128 px in the middle of each. See tools/README.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

SIZE = 128  # px, side of one drawing
CELL = 144  # px, side of its cell: a multiple of WebP's 16 px blocks, so that no block holds two drawings
COLUMNS = ROWS = 4
QUALITY = 80

TOOLS = Path(__file__).resolve().parent
OUTPUT = TOOLS.parent / "src" / "largedrop" / "data" / "embedded" / "emoji.bin"

Drawing = str | bytes
"""An SVG document (str) or a raster file (bytes)."""

Picture = npt.NDArray[np.uint8]
"""RGB pixels (SIZE, SIZE, 3)."""


class BuildError(Exception):
    """The data cannot be built; the message says everything that is wrong."""


@dataclass(frozen=True)
class Package:
    """A release on npm.

    Attributes:
        integrity: base64 of its tarball's sha512, as npm publishes it.
    """

    name: str
    version: str
    integrity: str

    @property
    def tarball(self) -> str:
        """The file name that ``npm pack`` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def main() -> int:
    """Build the file, and say how large it is and what its digest is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="DIR", help="take the tarballs from DIR; without it: npm pack")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the file to write (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.packages or fetch(Path(scratch))
            check(folder)
            content = build(folder)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    temporary = arguments.output.with_name(f".{arguments.output.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(arguments.output)
    print(f"{arguments.output}: {len(content) / 1e6:.2f} MB\n_SHA256 in src/largedrop/data/emoji.py must be")
    print(hashlib.sha256(content).hexdigest())
    return 0


def fetch(folder: Path) -> Path:
    """Download the tarballs into ``folder`` and return it.

    Raises:
        BuildError: npm is not installed, or a download failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError("npm is not installed; install Node.js, or give a folder of tarballs with --packages")
    releases = [f"{package.name}@{package.version}" for package, _ in STYLES.values()]
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), *releases]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise BuildError(f"npm pack {' '.join(releases)} failed (npm's message is above)")
    return folder


def check(folder: Path) -> None:
    """Compare every tarball in ``folder`` with its pinned digest.

    Raises:
        BuildError: some are missing or differ; all of them are named.
    """
    wrong = []
    for package, _ in STYLES.values():
        path = folder / package.tarball
        if not path.is_file():
            wrong.append(f"{path} is missing (get it with: npm pack {package.name}@{package.version})")
            continue
        found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if found != package.integrity:
            wrong.append(f"{path} is not the pinned release: sha512-{found}, expected sha512-{package.integrity}")
    fail("of the packages", wrong)


def build(folder: Path) -> bytes:
    """The content of the data file.

    Raises:
        BuildError: an emoji is missing in a style, or a drawing looks wrong; all of them are named.
    """
    labels: list[dict[str, str]] = json.loads((TOOLS / "emoji-labels.json").read_text(encoding="utf-8"))["emoji"]
    wanted = {entry["hexcode"] for entry in labels}
    drawings = {style: read(folder / package.tarball, wanted) for style, (package, read) in STYLES.items()}
    fail(
        "of the drawings",
        [
            f"{style} has no {entry['hexcode']} ({entry['name']})"
            for style, drawn in drawings.items()
            for entry in labels
            if entry["hexcode"] not in drawn
        ],
    )
    wrong = []
    sheets: list[bytes] = []
    for style, drawn in drawings.items():
        print(f"drawing {style} ...", file=sys.stderr)
        pictures = [render(drawn[entry["hexcode"]]) for entry in labels]
        for entry, picture in zip(labels, pictures, strict=True):
            reason = oddity(style, picture)
            if reason:
                wrong.append(f"{style} {entry['hexcode']} ({entry['name']}): {reason}")
        step = COLUMNS * ROWS
        sheets += [sheet(pictures[start : start + step]) for start in range(0, len(pictures), step)]
    fail("of the pictures", wrong)
    header = {
        "format": "largedrop emoji 1",
        "size": SIZE,
        "cell": CELL,
        "columns": COLUMNS,
        "rows": ROWS,
        "styles": list(STYLES),
        "emoji": [{key: entry[key] for key in ("hexcode", "name", "class")} for entry in labels],
        "sheets": [len(content) for content in sheets],
    }
    line = json.dumps(header, ensure_ascii=False, separators=(",", ":")) + "\n"
    return line.encode("utf-8") + b"".join(sheets)


def fail(what: str, wrong: list[str]) -> None:
    """Raise BuildError with all of ``wrong``, if there is any."""
    if wrong:
        raise BuildError(f"{len(wrong)} {what} cannot be used:\n  " + "\n  ".join(wrong))


def oddity(style: str, picture: Picture) -> str | None:
    """What is wrong with a picture at first sight, or None."""
    ink = float((picture < 250).any(axis=-1).mean())
    if ink < 0.02:
        return f"it is empty ({ink:.1%} of the pixels are not white)"
    if style == "fluent-high-contrast" and (np.ptp(picture, axis=-1).any() or picture.min() > 0):
        return "it is not black on white"
    return None


def iconify(tarball: Path, wanted: set[str]) -> dict[str, Drawing]:
    """The SVG of every wanted hexcode in an Iconify package, which names icons by words and lists their hexcodes."""
    files = members(tarball, ("package/icons.json", "package/chars.json"))
    icons: dict[str, Any] = json.loads(files["package/icons.json"])
    chars: dict[str, str] = json.loads(files["package/chars.json"])
    found: dict[str, Drawing] = {}
    for hexcode, name in chars.items():
        if plain(hexcode) in wanted and name in icons["icons"]:
            icon = {"left": 0, "top": 0, "width": icons["width"], "height": icons["height"], **icons["icons"][name]}
            box = " ".join(str(icon[key]) for key in ("left", "top", "width", "height"))
            # A square outside and the icon's own box inside: what is not square is centred, not stretched.
            found[plain(hexcode)] = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
                f'width="{SIZE}" height="{SIZE}" viewBox="{box}">{icon["body"]}</svg>'
            )
    return found


def fluent(tarball: Path, wanted: set[str]) -> dict[str, Drawing]:
    """The WebP file of every wanted hexcode in @lobehub/fluent-emoji-3d."""
    return dict(by_stem(tarball, "package/assets/*.webp", wanted))


def openmoji(tarball: Path, wanted: set[str]) -> dict[str, Drawing]:
    """The colour SVG of every wanted hexcode in openmoji."""
    files = by_stem(tarball, "package/color/svg/*.svg", wanted)
    return {hexcode: content.decode("utf-8") for hexcode, content in files.items()}


def by_stem(tarball: Path, pattern: str, wanted: set[str]) -> dict[str, bytes]:
    """Contents of the files that match ``pattern`` and whose names are wanted hexcodes."""
    found: dict[str, bytes] = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.match(pattern) and plain(path.stem) in wanted:
                found.setdefault(plain(path.stem), content(archive, member))
    return found


def members(tarball: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of the files ``names`` of a tarball."""
    with tarfile.open(tarball) as archive:
        return {name: content(archive, archive.getmember(name)) for name in names}


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a regular file of a tarball holds."""
    file = archive.extractfile(member)
    if file is None:
        raise BuildError(f"{member.name} is not a file")
    return file.read()


def plain(hexcode: str) -> str:
    """``hexcode`` in lower case without variation selectors, which the packages write or leave out as they like."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def render(drawing: Drawing) -> Picture:
    """Draw on white, (SIZE, SIZE, 3), RGB."""
    if isinstance(drawing, bytes):
        return shrunk(drawing)
    png = resvg_py.svg_to_bytes(
        svg_string=drawing, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True
    )
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.uint8)


def shrunk(raster: bytes) -> Picture:
    """Shrink a raster drawing to SIZE, centred on white."""
    # With the alpha multiplied in, transparent pixels weigh nothing, whatever colour they hide: no dark fringes.
    image = Image.open(io.BytesIO(raster)).convert("RGBA").convert("RGBa")
    scale = SIZE / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    small = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.int16)
    picture = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    picture[top : top + height, left : left + width] = np.clip(small[..., :3] + 255 - small[..., 3:], 0, 255)
    return picture


def sheet(pictures: list[Picture]) -> bytes:
    """One WebP file of up to COLUMNS × ROWS pictures, row by row; cells without one stay white."""
    image = Image.new("RGB", (COLUMNS * CELL, ROWS * CELL), "white")
    margin = (CELL - SIZE) // 2
    for index, picture in enumerate(pictures):
        row, column = divmod(index, COLUMNS)
        image.paste(Image.fromarray(picture), (column * CELL + margin, row * CELL + margin))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


STYLES: dict[str, tuple[Package, Callable[[Path, set[str]], dict[str, Drawing]]]] = {
    "noto": (
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        iconify,
    ),
    "twemoji": (
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        iconify,
    ),
    "fluent-3d": (
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        fluent,
    ),
    "fluent-high-contrast": (
        Package(
            "@iconify-json/fluent-emoji-high-contrast",
            "1.2.6",
            "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        ),
        iconify,
    ),
    "openmoji": (
        Package(
            "openmoji",
            "17.0.0",
            "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
        ),
        openmoji,
    ),
}
"""Name of each style, in the order of the file: its package, and how its drawings are read."""


if __name__ == "__main__":
    sys.exit(main())
