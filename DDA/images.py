"""The image tree on disk: what lies where, how it is read, and how it is written so that no half file has a final name.

A *tree* is a folder of images; a *key* is an image's POSIX path relative to the tree's root without the image suffix. A *cell*
is a sub-folder that is adapted and evaluated as one, such as ``gaussian_noise/5``.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
TEMPORARY = ".partial"  # the last suffix of a file that is being written
CLASSES = "classes.txt"  # at the root of a tree: its class names in order
SETTINGS = "settings.json"  # it lies at the root of every tree of adapted images

# ---------------------------------------------------------------------------------------------- where things are


def find(path: str | Path) -> Path:
    """``path`` as given; where it starts with ``ckpt``, ``dataset`` or ``saved``, also from other folders of a checkout.

    The published commands are run from DDA/ and from DistilledClassifier/, name ``ckpt/…`` (in DDA/), ``dataset/…`` and
    ``saved/…`` (at the root), and must also work from the root.
    """
    path = Path(path).expanduser()
    root = Path(__file__).resolve().parents[1]
    homes = {"ckpt": root / "DDA", "dataset": root, "saved": root}
    first = path.parts[0] if path.parts else "."
    if first not in homes or not Path.cwd().is_relative_to(root) or path.exists():
        return path
    at_home = homes[first] / path
    return path if Path(first).exists() and not at_home.exists() else at_home


# ---------------------------------------------------------------------------------------------- what is there


def key_of(path: str) -> str:
    """The key of an image's path relative to its tree."""
    return path[: path.rindex(".")]


def list_images(root: Path, cell: str = ".", *, leave_out: Path | None = None) -> tuple[list[str], list[str]]:
    """Relative POSIX paths below ``root``/``cell``: the images sorted by key, and what is none of them.

    Hidden files, JSON, ``classes.txt`` and temporaries are neither. Not entered are the folder ``leave_out`` and, named among
    the others, folders of adapted images. Raises ValueError where two files have one key.
    """
    images: list[str] = []
    others: list[str] = []
    prefix = "" if cell == "." else f"{cell}/"
    for path in walk(root / cell, leave_out=leave_out):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES:
            images.append(prefix + path)
        elif suffix not in (".json", TEMPORARY) and os.path.basename(path) != CLASSES:
            others.append(prefix + path)
    images.sort(key=lambda path: (key_of(path), path))
    doubles = [(one, two) for one, two in itertools.pairwise(images) if key_of(one) == key_of(two)]
    if doubles:
        one, two = doubles[0]
        more = f" (and {len(doubles) - 1} more such pairs)" if len(doubles) > 1 else ""
        raise ValueError(f"{root / one} and {root / two} would be one image{more}; rename or remove one of them")
    return images, others


def walk(folder: Path, *, leave_out: Path | None = None) -> Iterator[str]:
    """Relative POSIX paths of all files below ``folder``, hidden ones left out; links are followed, never in a circle.

    A sub-folder of adapted images is not entered but returned, with a slash at its end.
    """
    left_out = os.path.realpath(leave_out) if leave_out is not None else None
    stack: list[tuple[str, frozenset[str]]] = [("", frozenset([os.path.realpath(folder)]))]
    while stack:
        prefix, above = stack.pop()
        with os.scandir(os.path.join(folder, prefix)) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
        if prefix and any(entry.name == SETTINGS for entry in entries):
            yield prefix
            continue
        for entry in entries:
            if not entry.is_dir():
                yield prefix + entry.name
                continue
            inside = above
            if left_out is not None or entry.is_symlink():
                real = os.path.realpath(entry.path)
                if real == left_out or real in above:
                    continue
                inside = above | {real}
            stack.append((f"{prefix}{entry.name}/", inside))


def saved_images(root: Path, cells: Iterable[str]) -> dict[str, str]:
    """Key and relative path of each image in the given cells of a tree; a missing folder has none."""
    saved = {}
    for cell in cells:
        if (root / cell).is_dir():
            saved.update((key_of(path), path) for path in list_images(root, cell)[0])
    return saved


def sweep_temporaries(root: Path, cells: Iterable[str]) -> int:
    """Remove what dead writers left at the root and in the given cells; returns how many files."""
    swept = 0
    for folder in [root, *(root / cell for cell in cells if (root / cell).is_dir())]:
        paths = [entry.name for entry in os.scandir(folder)] if folder == root and "." not in cells else list(walk(folder))
        for path in paths:
            if path.endswith(TEMPORARY) and not _is_being_written(folder / path):
                (folder / path).unlink(missing_ok=True)
                swept += 1
    return swept


def _is_being_written(path: Path) -> bool:
    """Whether a temporary may belong to a living process: of this machine, or of another one within the last day."""
    match = re.fullmatch(rf"(.+)-(\d+)-[0-9a-f]+{re.escape(TEMPORARY)}", path.name)
    if match is None or not path.exists() or time.time() - path.stat().st_mtime > 86400:
        return False
    if match[1] != _host():
        return True
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_classes(root: Path) -> tuple[str, ...] | None:
    """The class names in ``root``/classes.txt, one a line, in order; None where there is no such file."""
    path = root / CLASSES
    if not path.is_file():
        return None
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def write_classes(root: Path, classes: Iterable[str]) -> None:
    """Write ``root``/classes.txt."""
    write_bytes(root / CLASSES, "".join(f"{name}\n" for name in classes).encode())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- pixels


def read_rgb(path: Path) -> Image.Image:
    """An image file as RGB: grey and palette are expanded, alpha is dropped, 16-bit is scaled by 1/257, EXIF is ignored.

    Raises ValueError for animated files, OSError (or PIL's own errors) for files that cannot be decoded.
    """
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"animated: it has {image.n_frames} frames")
        if image.mode[0] in "IF":
            # PIL opens 16-bit PNG and PGM as 16 or as 32 bits; elsewhere nobody knows the range of 32 bits
            if image.mode == "F" or not (image.mode.startswith("I;16") or image.format in ("PNG", "PPM")):
                raise ValueError(f"its pixels are neither 8 nor 16 bits (mode {image.mode})")
            values = np.asarray(image)
            return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """uint8 (size,size,3): halved with a box filter while possible, bicubic to the shorter side, centre crop.

    So guided-diffusion read the images that the public priors were trained on.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def to_model(pixels: np.ndarray) -> np.ndarray:
    """uint8 (...,H,W,3) to float32 (...,3,H,W) in [-1, 1]."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32) / 127.5 - 1


def to_pixels(values: np.ndarray) -> np.ndarray:
    """float (...,3,H,W) in [-1, 1] to uint8 (...,H,W,3), clamped and rounded; the inverse of `to_model`."""
    return np.moveaxis(np.round((values + 1) * 127.5).clip(0, 255).astype(np.uint8), -3, -1)


# ---------------------------------------------------------------------------------------------- writing


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H,W,3) under ``path``, whose suffix names the format; a final name never holds half a file."""
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            Image.fromarray(pixels).save(file, format=Image.registered_extensions()[path.suffix.lower()])
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, exclusive: bool = False, sync: bool = True) -> None:
    """Write a file at once; ``exclusive``: FileExistsError where it is there already, whoever wrote it.

    sync: wait until it is on the disk, which is slow for many files.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if not exclusive:
            os.replace(temporary, path)
            return
        try:
            os.link(temporary, path)  # unlike a rename, it fails where the name is taken
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with open(path, "xb") as file:
                file.write(data)
    finally:
        temporary.unlink(missing_ok=True)


def write_with(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """`write_bytes` of what ``write`` puts into a file, such as ``lambda file: np.save(file, array)``."""
    buffer = io.BytesIO()
    write(buffer)
    write_bytes(path, buffer.getvalue())


def write_array(path: Path, array: np.ndarray) -> None:
    """`write_bytes` of an .npy file."""
    write_with(path, lambda file: np.save(file, array))


def write_json(path: Path, value: dict, *, exclusive: bool = False) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode(), exclusive=exclusive)


def read_json(path: Path) -> dict:
    """A JSON object. Raises ValueError naming the file where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it or put it right") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; remove it or put it right")
    return value


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}{TEMPORARY}")


def _host() -> str:
    return platform.node()[:64]


def contact_sheet(
    rows: dict[str, Sequence[np.ndarray]],
    captions: Sequence[str],
    *,
    side: int = 128,
    frames: dict[str, Sequence[str]] | None = None,
) -> Image.Image:
    """Images in a grid, enlarged without blur: one row per view, named at its left; one column per image, named at its foot.

    rows: title to uint8 (H,W,3) images, one for each caption. side: pixels of the longer side of an image in the sheet. frames:
    title to the colours of frames around its images.
    """
    font = ImageFont.load_default(12)
    gap, foot = 6, 16
    head = gap + round(max(font.getlength(title) for title in rows)) + gap
    sheet = Image.new("RGB", (head + len(captions) * (side + gap), gap + len(rows) * (side + gap) + foot), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, row) in enumerate(rows.items()):
        top = gap + i * (side + gap)
        draw.text((gap, top + side // 2), title, fill="black", font=font, anchor="lm")
        for j, pixels in enumerate(row):
            left, shown = head + j * (side + gap), _enlarged(pixels, side)
            if frames:
                draw.rectangle((left - 2, top - 2, left + shown.width + 1, top + shown.height + 1), fill=frames[title][j])
            sheet.paste(shown, (left, top))
    for j, caption in enumerate(captions):
        place = (head + j * (side + gap), sheet.height - foot)
        draw.text(place, _shortened(caption, font, side), fill="dimgray", font=font)
    return sheet


def _enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


def _shortened(text: str, font, width: int) -> str:
    text = text.encode("utf-8", "replace").decode()
    while len(text) > 4 and font.getlength(text) > width:
        text = "…" + text[2:]
    return text
