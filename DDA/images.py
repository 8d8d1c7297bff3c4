"""Pixels: image files read as RGB, fitted to a square, turned into the model's range and back."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from DDA import files

LONG = 32  # images that are longer than so many times their shorter side are cropped first
# Pillow warns of images of half the size that it refuses; one limit is enough here. Filters that
# the user has set come first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def read_rgb(path: Path) -> Image.Image:
    """Return an image file as RGB, as `to_rgb` does; EXIF rotation is ignored.

    Raises ValueError for animated files and for those with more pixels than Pillow's limit, OSError
    (or PIL's own errors) for files that cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"it says that it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, as files do "
            "that are made to fill the memory; if it is a real image, make it smaller first"
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: grey and palette are expanded, alpha is dropped, 16 bits become 8.

    16 bits are scaled by 1/257. Raises ValueError for animated images, and for pixels of an
    unknown range.
    """
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"animated: it has {image.n_frames} frames")
    if image.mode[0] in "IF":
        # PIL opens 16-bit PNG and PGM as 16 or as 32 bits; elsewhere nobody knows the range
        is_16_bit = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
        if image.mode == "F" or not is_16_bit:
            kind = f"neither 8 nor 16 bits (mode {image.mode})"
            raise ValueError(f"its pixels are {kind}; scale them to 0..255 as uint8")
        values = np.asarray(image)
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


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


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H,W,3) under ``path``, whose suffix names the format.

    A final name never holds half a file.
    """
    encoded = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    Image.fromarray(pixels).save(encoded, format=kind)
    files.write_bytes(path, encoded.getvalue(), sync=False)


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
