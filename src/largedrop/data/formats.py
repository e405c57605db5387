"""Which formats of images are opened, and what is told of the others."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from PIL import Image, features

__all__ = ["UNOPENED", "advice_for", "formats", "suffixes"]

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k")

_OTHERS = (".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")

_HEIF = frozenset([".heic", ".heif", ".hif"])

_AVIF = frozenset([".avif"])

_CAMERAS = "dng raw arw srf sr2 cr2 cr3 crw nef nrw orf pef raf rw2 rwl srw x3f 3fr iiq kdc dcr mrw erf mef mos"

_DRAWN = "jxl jxr wdp bpg flif jxs jpf jpx ico icns tga dds exr hdr psd psb xcf svg svgz eps pcx sgi qoi dcm svs ndpi"

_FILMS = "mp4 mov avi mkv webm"

UNOPENED = _HEIF | _AVIF | {f".{name}" for name in f"{_CAMERAS} {_DRAWN} {_FILMS}".split()}
"""Suffixes of images (and films) that are not opened, or only where a package opens them, in lower case."""

# Named one by one, because Pillow recognises contents and not names: a file of another of its formats may start an
# external program (EPS starts Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of the image files that are opened here, in lower case."""
    avif = "avif" in features.modules and features.check("avif")  # unknown to Pillow before 11.3, which warns
    more = (_AVIF if avif else (), _HEIF if find_spec("pillow_heif") else ())
    return frozenset((*_JPEG, *_OTHERS)).union(*more)


def advice_for(suffix: str) -> str:
    """What would open files of this suffix; empty where nothing does."""
    if suffix in _HEIF:
        return 'pip install "largedrop[heic]" opens .heic'
    return "Pillow 11.3 or later opens .avif" if suffix in _AVIF else ""


@cache
def formats() -> tuple[str, ...]:
    """Names of Pillow's formats that are opened here."""
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in _FORMATS if name in Image.OPEN)
