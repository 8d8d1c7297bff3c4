"""The records in a folder of made images: common settings, and a manifest for each of its cells.

The settings identify the images: nobody adds images that were made with others. A manifest says
whether its cell is ``running``, ``complete`` or has ``failures``, which images failed and why,
and the SHA-256 of some source images, by which a run notices that the source has changed.
Everything is JSON, written at once, so jobs of several cells can share a folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from DDA import files, shapes
from DDA.progress import printable
from DDA.tree import SETTINGS, shown, spread

RUNNING = "running"
# what an entry means that is absent from the settings of an older version
ABSENT = {"orientation": "ignore", "fit": "square"}
# the entry of the settings that warns of the images, where there is need; it identifies nothing
WARNING = "warning"
SAMPLES = 8  # the number of source images of a cell that are remembered

# a function that returns the SHA-256 of a source's image; it may raise OSError or KeyError
Digest = Callable[[str], str]


# ------------------------------------------------------------------------------------- settings


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a folder; None where nobody has written them."""
    path = folder / SETTINGS
    return files.read_json(path) if path.is_file() else None


def read_choice(folder: Path, name: str, known: Sequence[str]) -> str | None:
    """Return an entry of a folder's settings; None without settings.

    name: of the entry, one of ABSENT. known: the values that it may have. Raises BadFile where the
    settings have another one.
    """
    settings = read_settings(folder)
    if settings is None:
        return None
    value = (ABSENT | settings)[name]
    if value not in known:
        raise files.BadFile(
            f"{folder / SETTINGS} has the {name} {shown(value)}, which is neither "
            f"{' nor '.join(known)}; put it right"
        )
    return value


def differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str = "here"
) -> list[str]:
    """Return in words what differs between the settings of existing images and those of a run.

    An entry of ABSENT that is not there has its value, and WARNING makes no difference. where: what
    a message calls the place of ``ours``.
    """
    theirs, ours = ({**ABSENT, **each, WARNING: None} for each in (theirs, ours))
    return [
        f"{printable(name)} {_say(theirs, name)} there, {_say(ours, name)} {where}"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]


def _say(settings: Mapping[str, Any], name: str) -> str:
    """Return the value of a setting for a message; long ones are cut."""
    if name not in settings:
        return "absent"
    value = settings[name]
    return value if isinstance(value, str) and value.isprintable() else shown(value)


def claim(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Write the settings of a folder that has none, and return how the folder's settings differ.

    Another job may have written its own in the meantime.
    """
    files.make_folder(folder)
    if not (folder / SETTINGS).is_file():
        with contextlib.suppress(FileExistsError):
            files.write_json(folder / SETTINGS, dict(settings), exclusive=True)
    return differences(files.read_json(folder / SETTINGS), settings)


# ------------------------------------------------------------------------------------ manifests


class Manifest(TypedDict, total=False):
    """The entries of a manifest that are read again.

    cell or folder: what it is about. source_sha256: of some source images, by their names.
    """

    cell: str
    folder: str
    state: str
    failures: dict[str, str]
    source_sha256: dict[str, str]


def manifest_path(folder: Path, stem: str, cell: str) -> Path:
    """Return the path of the manifest of a cell: ``<stem>.<cell>.json``.

    Each slash of the cell is a dot there, and each of its own dots is two, so that ``x.1/5`` and
    ``x/1.5`` have two manifests. The manifest of a whole folder is ``<stem>.json``. Earlier
    versions wrote one dot for either; such a manifest keeps its name if it is of this very cell.
    Raises ValueError where that name is too long.
    """
    if cell in ("", "."):
        return folder / f"{stem}.json"
    path = folder / f"{stem}.{cell.replace('.', '..').replace('/', '.')}.json"
    spare = files.MOST_IN_NAME - len(os.fsencode(path.name))
    if spare < 0:
        most = len(os.fsencode(cell)) + spare
        raise ValueError(
            f"the folder {cell} has too long a name for its manifest, {path.name}: rename it, to "
            f"at most {most} bytes"
        )
    earlier = folder / f"{stem}.{cell.replace('/', '.')}.json"
    if earlier != path and not path.exists() and cell in _subjects(earlier):
        return earlier
    return path


def _subjects(path: Path) -> tuple[str | None, ...]:
    """Return the cell and the folder that a manifest is about, if it is there."""
    manifest = read_manifest(path)
    return manifest.get("cell"), manifest.get("folder")


def read_manifest(path: Path, shape: Any = Manifest) -> dict[str, Any]:
    """Return a manifest, or {} where there is none.

    shape: of its entries, as `DDA.shapes` takes it. Raises BadFile where it has another one.
    """
    return shapes.read_json(path, shape) if path.is_file() else {}


def write_manifest(
    path: Path, entries: Mapping[str, Any], failures: Mapping[str, str], *, running: bool = False
) -> None:
    """Write a manifest: entries, its state, and its failures with their reasons."""
    state = RUNNING if running else "failures" if failures else "complete"
    files.write_json(path, {**entries, "state": state, "failures": dict(failures)})


def sources(digest_of: Digest, manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Return the name and the SHA-256 of some source images, for a manifest.

    These are some of ``names``, which are made now, evenly spread. Those of other images that the
    manifest of an earlier run knows are kept. Images that cannot be read are left out.
    """
    anew = set(names)
    known = {
        name: digest
        for name, digest in manifest.get("source_sha256", {}).items()
        if name not in anew
    }
    chosen = ((name, _digest(digest_of, name)) for name in spread(names, SAMPLES))
    return known | {name: digest for name, digest in chosen if digest is not None}


def changed(digest_of: Digest, known: Mapping[str, str]) -> str | None:
    """Return the name of the first image that has changed in the source; None if none has.

    known: the SHA-256 of each image by its name.
    """
    for name, digest in known.items():
        if _digest(digest_of, name) not in (digest, None):
            return name
    return None


def _digest(digest_of: Digest, name: str) -> str | None:
    """Return a digest, or None where the image cannot be read, which is its own failure."""
    try:
        return digest_of(name)
    except (OSError, KeyError, files.BadFile):
        return None
