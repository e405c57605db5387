"""One image file to one uint8 array, whatever the format, mode or camera orientation."""

from __future__ import annotations

import io
import stat
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import UserError
from .formats import formats
from .inside import Inside, Place

__all__ = ["PIXEL_LIMIT", "BadImage", "bound_for", "decode", "one_at_a_time", "opened", "pillow_settings"]

PIXEL_LIMIT = 500_000_000
"""Images with more pixels than this are refused: a small file can claim a size that fills the memory."""

_LARGE = 64_000_000
"""Images with more pixels than this are decoded one at a time, to bound the memory of all threads together."""

_STRIP = 4_000_000
"""Pixels of a large image that are in memory as RGB at a time."""

_GAP = 3.0
"""How many times the final size the averages by a whole factor have at least (Pillow's ``reducing_gap``)."""

# What undoes each EXIF orientation (1 is upright).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ORIENTATION_TAG = 0x0112

_large_lock = threading.Lock()

Ends = tuple[float, float] | None
"""The least and greatest value of an image; None where it has 8 bits."""


class BadImage(UserError):  # noqa: N818  # a verdict on a file; callers collect it more often than they raise it
    """A file that cannot be decoded as an image.

    Attributes:
        path: where the image is.
        reason: what is wrong, in one line that does not name the file.
    """

    def __init__(self, path: Place, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return BadImage, (self.path, self.reason)


def decode(path: Place, bound: int | None = None, bits: int = 16) -> npt.NDArray[np.uint8]:
    """Decode an image file to RGB, upright, on white where it is transparent, the first frame where it has several.

    16-bit greyscale is scaled to 8 bits by 1/257; 32-bit integers are taken as 16-bit where they fit, and floats as
    0 to 1, 0 to 255 or 0 to 65535, the first that holds them; other ranges are stretched from least to greatest.

    Args:
        path: the file, or where the image is in one; the format is recognised by its contents, not by its name.
        bound: largest length of the shorter side, in pixels; longer ones are shrunk to it. None keeps every size.
        bits: how many bits 16-bit greyscale has; of less than 16, it is scaled by a power of two first, and one with
            larger values is refused.

    Returns:
        uint8 (height, width, 3).

    Raises:
        BadImage: the file is unreadable, empty, truncated, too large, or not an image.
        UserError: there is not enough memory to decode it.
    """
    with pillow_settings(), opened(path) as file:
        try:
            with Image.open(file, formats=formats()) as image:
                return _pixels(path, image, bound, bits)
        except _BeyondError as error:
            raise BadImage(path, str(error)) from error
        except UserError:
            raise
        except MemoryError as error:
            raise UserError(f"{path}: there is not enough memory to decode it") from error
        except UnidentifiedImageError as error:
            raise BadImage(path, "not an image of a known format") from error
        except Image.DecompressionBombError as error:
            raise BadImage(path, _TOO_LARGE) from error
        except Exception as error:  # Pillow's decoders raise anything at malformed bytes
            raise BadImage(path, _reason(error)) from error


class _BeyondError(UserError):
    """Greyscale has values of more bits than it is said to have."""


def one_at_a_time(image: Image.Image) -> AbstractContextManager[object]:
    """Within it no other thread loads an image as large as this one, if it is large."""
    return _large_lock if image.width * image.height > _LARGE else nullcontext()


def bound_for(sizes: Iterable[int]) -> int:
    """The bound with which images are decoded for inputs of these sizes: that of training, and of predictions."""
    return max(320, *(size * 5 // 4 for size in sizes))


def to_rgb(image: Image.Image, bound: int | None = None, bits: int = 16) -> npt.NDArray[np.uint8]:
    """An opened Pillow image in the form that ``decode`` returns: RGB, upright, on white; uint8 (height, width, 3)."""
    with pillow_settings():
        return _pixels(Path(getattr(image, "filename", "") or "the image"), image, bound, bits)


def from_array(pixels: Any) -> npt.NDArray[np.uint8]:
    """An array of 8-bit pixels in the form that ``decode`` returns: (height, width, 3), RGB, on white.

    Args:
        pixels: uint8 (height, width, 3), RGB; or with 4 channels, the last opaque at 255; or greyscale, with 1 or none.

    Raises:
        UserError: the array has another shape, type or kind; the message says what would be taken.
    """
    taken = "a path, a Pillow image, or a uint8 array (height, width, 3) with values of 0 to 255"
    if not isinstance(pixels, np.ndarray):
        raise UserError(f"an image is {taken}, not a {type(pixels).__name__}")
    shape = " × ".join(map(str, pixels.shape))
    if pixels.dtype != np.uint8:
        hint = "; of fractions make (255 * image).round().astype('uint8')" if pixels.dtype.kind == "f" else ""
        raise UserError(f"an image is {taken}, not an array of {pixels.dtype} ({shape}){hint}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        hint = "; its channels come first: np.moveaxis(image, 0, 2)" if first else ""
        raise UserError(f"an image is {taken}, not an array of {shape}{hint}")
    return pixels if pixels.ndim == 3 and pixels.shape[2] == 3 else to_rgb(Image.fromarray(pixels))


_TOO_LARGE = f"larger than {PIXEL_LIMIT // 1_000_000} megapixels"


def _pixels(path: Place, image: Image.Image, bound: int | None, bits: int = 16) -> npt.NDArray[np.uint8]:
    full = image.size
    if min(full) < 1:
        raise BadImage(path, "the image has no pixels")
    if full[0] * full[1] > PIXEL_LIMIT:
        raise BadImage(path, f"{_TOO_LARGE} ({full[0]} × {full[1]})")
    if isinstance(image, TiffImageFile) and image.tile and not _covered(image):
        raise BadImage(path, f"the file has not all of the {full[0]} × {full[1]} pixels that it says it has")
    # JPEG can be decoded at 1/2, 1/4 or 1/8; twice the bound is left for the filter below, which does it better.
    drafted = image.draft(None, (2 * bound, 2 * bound)) if bound is not None and min(full) > bound else None
    with one_at_a_time(image):
        image.load()
        if drafted is None:
            full = image.size  # loading a TIFF turns it upright
        orientation = _orientation(image)  # after loading: in a PNG it may follow the pixels
        ends = _ends(image)
        if bound is not None and min(full) > bound:
            shorter = min(full)
            size = (max(1, round(full[0] * bound / shorter)), max(1, round(full[1] * bound / shorter)))
            upright = _shrunk(image, bits, ends, size, drafted[1] if drafted is not None else (0.0, 0.0, *image.size))
        else:
            upright = _rgb(image, bits, ends)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        return np.array(upright, dtype=np.uint8)


def _shrunk(
    image: Image.Image, bits: int, ends: Ends, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """``box`` of an image as RGB of ``size``: averaged by a whole factor, then by a filter, as Pillow does.

    A large image is made RGB in strips, so that it never is in memory as a whole.
    """
    look: dict[str, Any] = {"resample": Image.Resampling.BICUBIC}
    factors = [max(1, int((box[2 + axis] - box[axis]) / size[axis] / _GAP)) for axis in range(2)]
    if image.width * image.height <= _LARGE or max(factors) == 1:
        return _rgb(image, bits, ends).resize(size, box=box, reducing_gap=_GAP, **look)
    across, down = factors
    whole = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    for top, strip in _strips(image, down):
        whole.paste(_rgb(strip, bits, ends).reduce((across, down)), (0, top // down))
    left, upper, right, lower = box
    return whole.resize(size, box=(left / across, upper / down, right / across, lower / down), **look)


def _strips(image: Image.Image, down: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """The image in parts of full width, each with its first row, a multiple of ``down``."""
    rows = max(1, _STRIP // (image.width * down)) * down
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, bits: int, ends: Ends) -> Image.Image:
    if ends is not None:
        grey = Image.new("L", image.size)
        for top, strip in _strips(image):
            grey.paste(_grey(strip, bits, *ends), (0, top))
        return grey.convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def _ends(image: Image.Image) -> Ends:
    """The least and greatest value of greyscale of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode not in ("I", "F"):
        return None
    found = [(float(values.min()), float(values.max())) for values in (_numbers(strip) for _, strip in _strips(image))]
    return min(low for low, _ in found), max(high for _, high in found)


def _numbers(image: Image.Image) -> npt.NDArray[np.float64]:
    """Its values, 0 for what is no number."""
    return np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _grey(image: Image.Image, bits: int, low: float, high: float) -> Image.Image:
    """Greyscale of more than 8 bits as 8 bits, scaled where Pillow would clip; ``low`` to ``high`` is its range."""
    values = np.asarray(image)
    if image.mode != "F" and low >= 0 and high <= 65535:
        if values.max(initial=0) >= 1 << bits:
            most = (1 << bits) - 1
            raise _BeyondError(f"its values reach {values.max()}, those of the images before {most} ({bits} bits)")
        grey = (np.minimum(values.astype(np.uint32) << (16 - bits), 65535) + 128) // 257
    else:
        known = [float(top) for top in (1, 255, 65535) if low >= 0 and high <= top]
        low, high = (0.0, known[0]) if known and image.mode == "F" else (low, max(high, low + 1e-9))
        grey = np.rint((_numbers(image) - low) * (255 / (high - low)))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _covered(image: TiffImageFile) -> bool:
    """Whether the parts that an image is read from reach its last row and column: Pillow leaves what is missing 0."""
    reached = [max((part[1] or (0, 0, *image.size))[side] for part in image.tile) for side in (2, 3)]
    return sorted(reached) == sorted(image.size)  # a turned one has its size after turning


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  # broken metadata says nothing about the pixels, which are fine
        return 1


@contextmanager
def opened(path: Place) -> Iterator[BinaryIO]:
    """Open the file, or the part of one, for reading.

    Raises:
        BadImage: the file cannot be opened, is empty, or is a pipe or a device, which would block for ever.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(path, "not a regular file")
        if status.st_size == 0:
            raise BadImage(path, "the file is empty")
        file: BinaryIO = _part(path) if isinstance(path, Inside) else open(path, "rb")  # noqa: SIM115  # closed below; errors of the body are not errors of opening
    except OSError as error:
        raise BadImage(path, _reason(error)) from error
    with file:
        yield file


def _part(inside: Inside) -> BinaryIO:
    content = inside.read()
    if len(content) < inside.size:
        raise BadImage(inside, "the archive ends before the image does")
    if not content:
        raise BadImage(inside, "the image is empty")
    return io.BytesIO(content)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror or error}"
    return " ".join(str(error).split()) or type(error).__name__


class _Settings:
    """Counts the threads that decode: the first changes Pillow's process-wide settings, the last restores them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.restore = ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                self.restore.callback(self._set, *saved)
                self._set(PIXEL_LIMIT, False)
                if not _context_aware():
                    self.restore.enter_context(_no_pillow_warnings())
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.restore.close()

    @staticmethod
    def _set(most_pixels: int | None, truncated: bool) -> None:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = most_pixels, truncated


_settings = _Settings()


@contextmanager
def pillow_settings() -> Iterator[None]:
    """Hold Pillow's settings for decoding: ``PIXEL_LIMIT``, truncated files refused, none of its warnings.

    They hold for the whole process, so they are restored when the last thread leaves. ``decode`` enters this by itself;
    code that decodes many images enters it once around all, so that the settings do not change back and forth.
    """
    _settings.enter()
    try:
        # Where Python keeps the warnings' filters per thread (3.14 on), every thread sets its own.
        with _no_pillow_warnings() if _context_aware() else nullcontext():
            yield
    finally:
        _settings.leave()


@contextmanager
def _no_pillow_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _context_aware() -> bool:
    return bool(getattr(sys.flags, "context_aware_warnings", False))
