"""The clean originals of degraded images, and how near to them both views come.

Degraded trees that make_data.py made say of what they were made. A tree may also hold its clean
images itself, in the folder ``clean``. All others need the place of the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import images, ledger, metrics, sources, tree
from DDA.model_adapt import tables
from DDA.model_adapt.paired import named
from DDA.sources import Source

CLEAN = "clean"  # the folder of clean images in a tree of several degradations
COMPARED = 50  # images of a cell that are compared with their originals
VIEWS = ("degraded", "adapted")
# how near an image is to its original: by name, with the format of a table
MEASURES = {"PSNR dB": ".1f", "SSIM": ".3f"}
Likeness = dict[str, tuple[float, ...]]


def find(
    degraded: Source, cells: Mapping[str, Iterable[str]], clean: Path | None
) -> dict[str, tuple[Source, str]]:
    """Return the source and the name of the clean original of each degraded image, by its key.

    Images without an original are left out, and so are those that may have one of several.

    cells: the keys of each cell. clean: the place of the originals, where nothing else tells it.
    Raises FileNotFoundError and ValueError for a place that cannot be read.
    """
    originals = {}
    if clean is not None and not sources.exists(clean):
        raise FileNotFoundError(f"`clean` {clean}, the folder of the originals, does not exist")
    given = None if clean is None else sources.open_official(clean)
    for cell, keys in cells.items():
        if cell.partition("/")[0] == CLEAN:
            continue
        place = (given, given.names) if given is not None else _place(degraded, cell)
        if place is not None:
            inside = {key.removeprefix(f"{cell}/"): key for key in keys}
            for name, original in _twins(*place, inside).items():
                originals[inside[name]] = (place[0], original)
    return originals


def _place(degraded: Source, cell: str) -> tuple[Source, Sequence[str]] | None:
    """Return the source of a cell's originals and the names of some of them."""
    manifest = {}
    for folder in (cell, cell.partition("/")[0]):
        path = ledger.manifest_path(degraded.path, "made", folder)
        manifest = manifest or ledger.read_manifest(path)
    path, names = Path(manifest.get("source", "")), manifest.get("source_sha256", ())
    if names and sources.exists(path):
        return sources.open_official(path), list(names)
    if cell != "." and CLEAN in degraded.folders("."):
        return degraded, degraded.list(CLEAN)[0]
    return None


def _twins(source: Source, names: Iterable[str], inside: Iterable[str]) -> dict[str, str]:
    """Return the name in the source of each image, by its key in its cell.

    Originals have the same key in one of the source's folders, which some of their names tell.
    """
    wanted = set(inside)
    folders = {folder for name in names if (folder := _folder(tree.key_of(name), wanted))}
    twins: dict[str, list[str]] = {}
    for folder in folders:
        for key, name in named(source, folder, partial=True).items():
            own = key.removeprefix(f"{folder}/")
            if own in wanted:
                twins.setdefault(own, []).append(name)
    return {own: each[0] for own, each in twins.items() if len(each) == 1}


def _folder(key: str, wanted: set[str]) -> str | None:
    """Return the folder in which a key is one of the wanted ones, if there is such a folder."""
    parts = key.split("/")
    for start in range(len(parts)):
        if "/".join(parts[start:]) in wanted:
            return "/".join(parts[:start]) or "."
    return None


# ------------------------------------------------------------------------------------- likeness


def likeness(
    cells: Mapping[str, Sequence[str]],
    read: Callable[[str, str], np.ndarray],
) -> Likeness:
    """Return PSNR and SSIM of both views of each cell, medians over some of its images.

    cells: the keys of each cell's images that have an original and an adapted copy. read: returns
    the pixels of a view (clean, degraded, adapted) of a key.
    """
    numbers = {}
    for cell, keys in cells.items():
        rows = []
        for key in tree.spread(keys, COMPARED):
            clean = read(CLEAN, key)
            views = [read(view, key) for view in VIEWS]
            pairs = [alike(view, clean) for view in views]
            rows.append([one(*pair) for one in (metrics.psnr, metrics.ssim) for pair in pairs])
        if rows:
            numbers[cell] = tuple(np.median(rows, axis=0).tolist())
    return numbers


def alike(image: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its original, uint8 (H,W,3), in one size: that of the smaller one.

    The larger one is resized as the adapter does it, so a square one loses its margins.
    """
    if image.shape == original.shape:
        return image, original
    if image.size > original.size:
        return tuple(reversed(alike(original, image)))  # type: ignore[return-value]
    height, width = image.shape[:2]
    if height == width:
        return image, images.fit_square(Image.fromarray(original), width)
    resized = Image.fromarray(original).resize((width, height), Image.Resampling.BICUBIC)
    return image, np.asarray(resized)


def likeness_rows(numbers: Likeness) -> list[tuple[str, ...]]:
    """Return the lines of a table: corruptions, least like the originals first, and their mean."""
    groups: dict[str, list[tuple[float, ...]]] = {}
    for cell, values in numbers.items():
        groups.setdefault(cell.partition("/")[0], []).append(values)
    means = {name: np.mean(values, axis=0) for name, values in groups.items()}
    lines = dict(sorted(means.items(), key=lambda item: item[1][0]))
    lines["mean"] = np.mean([numbers[cell] for cell in tables.corrupted(numbers)], axis=0)
    forms = [form for form in MEASURES.values() for _ in VIEWS]
    return [(name, *map(_shown, values, forms)) for name, values in lines.items()]


def _shown(value: float, form: str) -> str:
    """Return a number; there is no SSIM of very small images."""
    return "" if np.isnan(value) else format(value, form)


def likeness_heads() -> list[str]:
    """Return the heads of that table."""
    return ["", *(f"{measure} {view}" for measure in MEASURES for view in VIEWS)]
