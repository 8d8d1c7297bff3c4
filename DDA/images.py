"""Pixels: image files read as RGB, fitted to a square, turned into the model's range and back."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError, features

from DDA import files

LONG = 32  # images that are longer than so many times their shorter side are cropped first
# how an image is put upright, by the value of its EXIF orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# the formats that not every Pillow reads, by suffix, and its name for each
OPTIONAL = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000", ".webp": "webp"}
# Pillow warns of images of half the size that it refuses, but there is one limit here; and of EXIF
# data that are damaged, which then turn nothing. Filters that the user has set come first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
warnings.filterwarnings("ignore", message="Corrupt EXIF data", append=True)


def read_rgb(path: Path, *, upright: bool = False, data: bytes | None = None) -> Image.Image:
    """Return an image file as RGB, as `to_rgb` does.

    data: the bytes of the file, where it lies in another one and has only the name ``path``.
    upright: turn it as its EXIF data say, as cameras leave it to those who show a photograph.
    Raises FileNotFoundError, and BadFile for all else: its message begins with "it", because those
    who ask know the file.
    """
    with _opened(path, data) as image:
        pixels = to_rgb(image)
        # now that it is loaded: Pillow turns TIFF files itself, and then says so
        turn = TURNS.get(_orientation(image)) if upright else None
        return pixels if turn is None else pixels.transpose(turn)


def is_turned(path: Path, data: bytes | None = None) -> bool:
    """Tell whether `read_rgb` turns an image file where that is wanted."""
    with _opened(path, data) as image:
        return image.format != "TIFF" and _orientation(image) in TURNS


def size_of(path: Path, data: bytes | None = None) -> tuple[int, int]:
    """Return the width and the height of an image file, of which only the header is read.

    data: its bytes, where the file is inside another one.
    """
    with _opened(path, data) as image:
        return image.size


@contextlib.contextmanager
def _opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file, and say in words whatever is wrong with it inside the block.

    Pillow and its plugins raise dozens of types for damaged files.
    """
    suffix = os.path.splitext(path)[1].lower()
    try:
        opened = files.open_regular(path) if data is None else io.BytesIO(data)
        with opened as file, Image.open(file) as image:
            yield image
    except (files.BadFile, FileNotFoundError):
        raise
    except UnidentifiedImageError:
        if suffix in OPTIONAL and not features.check(OPTIONAL[suffix]):
            raise files.BadFile(
                f"this Pillow reads no {suffix} files; install one that does: pip install -U pillow"
            ) from None
        raise files.BadFile("it is no image file, or its first bytes are damaged") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise files.BadFile(
            f"it says that it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, as files do "
            "that are made to fill the memory; if it is a real image, make it smaller first"
        ) from None
    except MemoryError:
        raise files.BadFile("it does not fit into the memory; make it smaller") from None
    except Exception as error:
        words = " ".join(f"{error}".split()) or type(error).__name__
        raise files.BadFile(f"it is damaged ({ascii(words)[1:-1][:160]})") from None


def _orientation(image: Image.Image) -> object:
    """Return what EXIF says of the orientation of an image; None where it is damaged or silent."""
    try:
        return image.getexif().get(0x0112)
    except Exception:  # PIL raises many types for damaged EXIF data; the pixels are whole
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: grey and palette are expanded, alpha is dropped, 16 bits become 8.

    16 bits are scaled by 1/257. Further frames that only accompany the first are left out: the
    second view in the MPO files of cameras, and smaller copies in TIFF files. Raises BadFile
    for animated images, for several pages, and for pixels of an unknown range.
    """
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        if not _are_smaller_copies(image, count):
            raise files.BadFile(f"it has {count} pages; save each of them as an image of its own")
    elif count > 1 and image.format != "MPO":
        raise files.BadFile(f"it is animated, with {count} frames; save those you want as images")
    if image.mode[0] in "IF":
        # PIL opens 16-bit PNG and PGM as 16 or as 32 bits; elsewhere nobody knows the range
        is_16_bit = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
        if image.mode == "F" or not is_16_bit:
            kind = f"neither 8 nor 16 bits (mode {image.mode})"
            raise files.BadFile(f"its pixels are {kind}; scale them to 0..255 as uint8")
        values = np.asarray(image)
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _are_smaller_copies(image: Image.Image, count: int) -> bool:
    """Tell whether all pages of a TIFF file but the first are the first at a lower resolution."""
    place = image.tell()
    try:
        for page in range(1, count):
            image.seek(page)
            kind, old_kind = (image.tag_v2.get(tag) for tag in (254, 255))
            if not (old_kind == 2 or (isinstance(kind, int) and kind & 1)):
                return False
        return True
    finally:
        image.seek(place)


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """Return the middle square of an image, resized: uint8 (size,size,3).

    The image is halved with a box filter while that is possible. Then its shorter side is resized
    to ``size`` (bicubic), and the middle is cropped. guided-diffusion read the images of the public
    priors in this way.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    resized = (round(image.width * scale), round(image.height * scale))
    return np.asarray(resized_middle(image, resized, size, Image.Resampling.BICUBIC))


def resized_middle(
    image: Image.Image,
    resized: tuple[int, int],
    size: int,
    how: Image.Resampling,
    corner: tuple[int, int] | None = None,
) -> Image.Image:
    """Return the middle square, ``size`` pixels wide, of an image resized to ``resized``.

    corner: the left and the top of the square, where these are rounded in another way.

    Of a very long image only the middle is resized: all of 30,000 x 2 pixels would take gigabytes.
    The pixels are the same but for rounding, and for overshoot that is cut off between Pillow's
    two passes, whose order depends on the size.
    """
    left, top = corner or ((length - size) // 2 for length in resized)
    if max(image.size) <= LONG * min(image.size):
        return image.resize(resized, how).crop((left, top, left + size, top + size))
    (x, right, from_x, to_x), (y, bottom, from_y, to_y) = (
        _span(first, size, length / full, length)
        for first, length, full in zip((left, top), image.size, resized, strict=True)
    )
    middle = image.crop((x, y, right, bottom))
    return middle.resize((size, size), how, box=(from_x, from_y, to_x, to_y))


def _span(first: int, size: int, scale: float, length: int) -> tuple[int, int, float, float]:
    """Return where the resized pixels ``first`` to ``first + size`` come from, along one side.

    These are the first and the last pixel to cut out, with those that a filter reads around, and
    the place of the span in what is cut out. scale: pixels of the image for a resized one.
    """
    spare = math.ceil(3 * max(1, scale))
    start, end = first * scale, min((first + size) * scale, length)
    cut = max(0, math.floor(start) - spare)
    return cut, min(length, math.ceil(end) + spare), start - cut, end - cut


def to_model(pixels: np.ndarray) -> np.ndarray:
    """Turn uint8 (...,H,W,3) into float32 (...,3,H,W) in [-1, 1]."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32) / 127.5 - 1


def to_pixels(values: np.ndarray) -> np.ndarray:
    """Turn float (...,3,H,W) in [-1, 1] into uint8 (...,H,W,3), clamped and rounded.

    It is the inverse of `to_model`.
    """
    return np.moveaxis(np.round((values + 1) * 127.5).clip(0, 255).astype(np.uint8), -3, -1)


def write_image(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write uint8 (H,W,3) under ``path``, whose suffix names the format.

    A final name never holds half a file. options: of Pillow's encoder, such as ``quality``.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    files.write_bytes(path, encode(pixels, kind, **options), sync=False)


def encode(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file of uint8 (H,W,3).

    kind: the format by Pillow's name, such as PNG. options: of Pillow's encoder.
    """
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format=kind, **options)
    return encoded.getvalue()


def contact_sheet(
    rows: dict[str, Sequence[np.ndarray]],
    captions: Sequence[str],
    *,
    side: int = 128,
    frames: dict[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Draw images in a grid, enlarged without blur: a row for each view, a column for each image.

    rows: the images, uint8 (H,W,3), of each title, one for each caption. captions: they stand at
    the foot. side: the longer side of an image in the sheet, in pixels. frames: the colours of the
    frames around the images of each title.
    """
    font = ImageFont.load_default(12)
    gap, foot = 6, 16
    head = gap + round(max(font.getlength(title) for title in rows)) + gap
    width, height = head + len(captions) * (side + gap), gap + len(rows) * (side + gap) + foot
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, row) in enumerate(rows.items()):
        top = gap + i * (side + gap)
        draw.text((gap, top + side // 2), title, fill="black", font=font, anchor="lm")
        for j, pixels in enumerate(row):
            left, shown = head + j * (side + gap), _enlarged(pixels, side)
            if frames:
                frame = (left - 2, top - 2, left + shown.width + 1, top + shown.height + 1)
                draw.rectangle(frame, fill=frames[title][j])
            sheet.paste(shown, (left, top))
    for j, caption in enumerate(captions):
        place = (head + j * (side + gap), sheet.height - foot)
        draw.text(place, _shortened(caption, font, side), fill="dimgray", font=font)
    return sheet


def _enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), how)


def _shortened(text: str, font, width: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    while len(text) > 4 and font.getlength(text) > width:
        text = "…" + text[2:]
    return text
