"""Decoding: every mode, orientation and kind of damage, and large images strip by strip."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from largedrop.data import images
from largedrop.data.formats import suffixes
from largedrop.data.images import BadImage, decode, pillow_settings

ORIENTATION = 0x0112


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def corner_marked(size: tuple[int, int] = (12, 8)) -> npt.NDArray[np.uint8]:
    """White, with a red top-left quarter: every orientation of it differs."""
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
    return pixels


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".gif", ".ppm", ".webp"])
def test_lossless_formats_give_their_pixels(tmp_path: Path, extension: str) -> None:
    pixels = corner_marked()
    path = save(
        tmp_path / f"a{extension}", Image.fromarray(pixels), **({"lossless": True} if "webp" in extension else {})
    )
    decoded = decode(path)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, pixels)
    assert extension in suffixes()


def test_contents_say_the_format_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(corner_marked()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode(tmp_path / "a.jpg"), corner_marked())


def test_greyscale_and_bilevel(tmp_path: Path) -> None:
    grey = save(tmp_path / "l.png", Image.new("L", (3, 2), 77))
    assert decode(grey).shape == (2, 3, 3)
    assert np.unique(decode(grey)).tolist() == [77]
    assert np.unique(decode(save(tmp_path / "1.png", Image.new("1", (3, 2), 1)))).tolist() == [255]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_greyscale_is_scaled_and_not_clipped(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 257, 128, 300, 32896, 65535]], np.uint16)
    decoded = decode(save(tmp_path / f"a.{extension}", Image.fromarray(values)))
    assert decoded[0, :, 0].tolist() == [0, 1, 0, 1, 128, 255]
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_16_bit_greyscale_with_a_transparent_value(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 514]], np.uint16)))
    content = path.read_bytes()
    chunk = b"tRNS" + struct.pack(">H", 0)
    transparency = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = content.index(b"IDAT") - 4
    path.write_bytes(content[:at] + transparency + content[at:])
    assert decode(path)[0, :, 1].tolist() == [255, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0, 1_000_000]], np.int32), [0, 255]),
        (np.array([[0, 0.2, 1]], np.float32), [0, 51, 255]),
        (np.array([[0, 51, 255]], np.float32), [0, 51, 255]),
        (np.array([[0, 257, 65535]], np.float32), [0, 1, 255]),
        (np.array([[-2, 0, 2]], np.float32), [0, 128, 255]),
        (np.array([[0, np.nan, 1]], np.float32), [0, 0, 255]),
    ],
)
def test_32_bit_greyscale(tmp_path: Path, values: Any, expected: Any) -> None:
    assert decode(save(tmp_path / "a.tif", Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(10, 20, 30, 0), (10, 20, 30, 255), (0, 0, 0, 128)]
    decoded = decode(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert decoded[0].tolist() == [[255, 255, 255], [10, 20, 30], [127, 127, 127]]
    grey_alpha = Image.fromarray(np.array([[[5, 0], [5, 255]]], np.uint8))
    assert decode(save(tmp_path / "la.png", grey_alpha))[0, :, 0].tolist() == [255, 5]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency(tmp_path: Path, transparency: Any) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decode(save(tmp_path / "opaque.png", image))[0].tolist() == [[9, 9, 9], [200, 100, 50]]
    decoded = decode(save(tmp_path / "a.png", image, transparency=transparency))
    assert decoded[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize(("mode", "colour", "key"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 7, 7)])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, colour: Any, key: Any) -> None:
    path = save(tmp_path / "a.png", Image.new(mode, (2, 2), colour), transparency=key)
    assert np.unique(decode(path)).tolist() == [255]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    # Pillow writes CMYK as Adobe does, inverted, and undoes it on reading.
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert b"Adobe" in path.read_bytes()
    np.testing.assert_allclose(decode(path).reshape(-1, 3).mean(0), (255, 0, 0), atol=4)


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, extension: str) -> None:
    upright = corner_marked((24, 16))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    of: dict[str, dict[str, Any]] = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = save(tmp_path / f"a.{extension}", image, exif=exif, **of.get(extension, {}))
    decoded = decode(path)
    assert decoded.shape == upright.shape
    np.testing.assert_allclose(decoded.astype(int), upright, atol=40 if extension == "jpg" else 0)
    assert decode(path, bound=8).shape == (8, 12, 3)


def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.png", Image.fromarray(corner_marked()), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00rubbish"
    )
    np.testing.assert_array_equal(decode(path), corner_marked())


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if extension == "webp" else {}
    path = save(tmp_path / f"a.{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert np.unique(decode(path).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(
    ("size", "bound", "shape"),
    [
        ((40, 20), 10, (10, 20)),
        ((20, 40), 10, (20, 10)),
        ((33, 20), 10, (10, 16)),
        ((20, 20), 20, (20, 20)),
        ((8, 30), 10, (30, 8)),
        ((30, 20), None, (20, 30)),
        ((30, 1), 1, (1, 30)),
        ((200, 2), 1, (1, 100)),
    ],
)
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_bound_shrinks_the_shorter_side_and_never_enlarges(
    tmp_path: Path, size: tuple[int, int], bound: int, shape: tuple[int, ...], extension: str
) -> None:
    path = save(tmp_path / f"a.{extension}", Image.new("RGB", size, "gray"))
    assert decode(path, bound).shape == (*shape, 3)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    decoded = decode(save(tmp_path / "a.png", Image.fromarray(stripes)), bound=8).astype(int)
    np.testing.assert_allclose(decoded, 128, atol=12)


def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", Image.linear_gradient("L").resize((900, 700)))
    loaded = []
    real = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, *args: loaded.append(self.size) or real(self, *args))
    small = decode(path, bound=32)
    assert loaded == [(113, 88)]  # an eighth
    monkeypatch.undo()
    reference = Image.open(path).convert("RGB").resize((41, 32), Image.Resampling.BICUBIC)
    assert small.shape == (32, 41, 3)
    np.testing.assert_allclose(small.astype(int), np.asarray(reference).astype(int), atol=3)


def header_only_png(path: Path, width: int, height: int) -> Path:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("width", "height", "size"), [(30_000, 20_000, " (30000 × 20000)"), (2_000_000, 2_000_000, "")]
)
def test_a_decompression_bomb_is_refused(tmp_path: Path, width: int, height: int, size: str) -> None:
    path = header_only_png(tmp_path / "bomb.png", width, height)
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert str(caught.value) == f"{path}: larger than 500 megapixels{size}"


def test_images_between_the_limits_of_pillow_and_ours_decode_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow's own would raise above 40
    monkeypatch.setattr(images, "_LARGE", 10)
    path = save(tmp_path / "a.png", Image.fromarray(corner_marked()))
    assert decode(path).shape == (8, 12, 3)
    assert Image.MAX_IMAGE_PIXELS == 20
    assert not images._large_lock.locked()


def truncated(path: Path, image: Image.Image, share: float) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP"}[path.suffix])
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    return path


@pytest.mark.parametrize("share", [0.6, 0.9])
@pytest.mark.parametrize("extension", [".jpg", ".png", ".gif", ".webp", ".bmp"])
def test_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = truncated(tmp_path / f"a{extension}", Image.fromarray(noise), share)
    # Someone else in the process may tolerate truncated files; we do not.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(caught.value.reason) > 5


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: path.write_text("no image at all"), "not an image of a known format"),
        (lambda path: path.write_bytes(POSTSCRIPT), "not an image of a known format"),  # it would start a program
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "not a regular file"),
        pytest.param(
            lambda path: os.mkfifo(path),
            "not a regular file",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
        ),
    ],
)
def test_what_is_no_image(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    path.chmod(0)
    with pytest.raises(BadImage) as caught:
        decode(path)
    assert str(caught.value) == f"{path}: cannot be read: Permission denied"


def test_a_bad_image_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImage(Path("a.jpg"), "the file is empty")))  # noqa: S301  # our own
    assert (error.path, error.reason, str(error)) == (Path("a.jpg"), "the file is empty", "a.jpg: the file is empty")


def test_settings_return_after_many_threads(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(corner_marked()))
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [path] * 200))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


def test_a_warning_of_pillow_is_swallowed(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\xff\xff\xff\x0f\xff\xff\xff\x0f"
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=exif)
    with pytest.warns(UserWarning, match=r"Skipping tag|EXIF|Truncated File Read"), Image.open(path) as image:
        image.getexif().get(ORIENTATION)
    assert decode(path).shape == (8, 8, 3)


def test_settings_nest_over_threads() -> None:
    before = Image.MAX_IMAGE_PIXELS
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pillow_settings():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    with pillow_settings():
        thread.start()
        assert inside.wait(5)
    assert Image.MAX_IMAGE_PIXELS == images.PIXEL_LIMIT
    leave.set()
    thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("mode", "size"), [("1", (1000, 777)), ("P", (901, 640)), ("L", (640, 333)), ("RGBA", (700, 700))]
)
def test_strips_of_a_large_image_have_the_pixels_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, size: tuple[int, int]
) -> None:
    noise = Image.effect_noise(size, 90).convert(mode)
    path = save(tmp_path / "noise.png", noise)
    whole = decode(path, 20)
    monkeypatch.setattr(images, "_LARGE", 10_000)
    monkeypatch.setattr(images, "_STRIP", 50_000)
    np.testing.assert_array_equal(decode(path, 20), whole)


@pytest.mark.parametrize("scale", [1 / 255, 1, 300, -7])
@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_strips_of_many_bits_are_scaled_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[np.generic], scale: float
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (640, 480)).cumsum(0) / 640 * scale
    path = save(tmp_path / "many.tif", Image.fromarray(values.astype(kind)))
    whole = decode(path, 20)
    monkeypatch.setattr(images, "_LARGE", 10_000)
    monkeypatch.setattr(images, "_STRIP", 50_000)
    np.testing.assert_array_equal(decode(path, 20), whole)


@pytest.mark.parametrize("bound", [None, 100])
def test_many_bits_take_no_memory_beside_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int | None
) -> None:
    monkeypatch.setattr(images, "_STRIP", 50_000)
    path = save(tmp_path / "a.tif", Image.new("F", (1000, 1000), 2.5))
    tracemalloc.start()
    decode(path, bound)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < (8_000_000 if bound is None else 4_000_000)  # the result has 3 MB; in float64 the image had 8
