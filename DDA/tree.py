"""The image tree on disk: names, keys, listing, class names, labels.

A *tree* is a folder of images. A *key* is an image's POSIX path relative to the tree's root
without the image suffix. A *cell* is a sub-folder that is adapted and evaluated as one, such as
``gaussian_noise/5``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from DDA import files
from DDA.files import TEMPORARY

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".avif", ".jp2", ".j2k", ".ppm", ".pgm"),
)
# the types of file systems that hold no files of anybody, but show the system as files
SYSTEM = (
    *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs"),
    *("tracefs", "configfs", "pstore", "bpf", "mqueue", "hugetlbfs", "fusectl", "efivarfs"),
)
# what to do with files that hold images which are not read, by their suffixes
ADVICE = {
    "unpack them": (".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
    "give one of them itself": (".npz", ".npy", ".zip"),
    "give them themselves, with a pattern for several": (".tar", ".parquet", ".arrow"),
    "write their images to files, or to one .npz": (
        *(".tfrecord", ".h5", ".hdf5", ".lmdb", ".mat", ".pkl"),
    ),
    "save them as .png or .jpg": (
        *(".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg"),
    ),
}
CLASSES = "classes.txt"  # at the root of a tree: its class names in order
SETTINGS = "settings.json"  # at the root of every tree of adapted images
# the common corruptions of ImageNet-C and CIFAR-10-C in the order of their publication, and the
# four that are kept apart
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
# the built-in class lists, each in the order of its labels
CLASS_LISTS = ("cifar10", "cifar100", "imagenet", "digits")

# ----------------------------------------------------------------------------------------- names


def check_name(name: str, where: str | Path) -> str:
    """Return ``name`` if it is a POSIX path below a folder; raise BadFile otherwise.

    Names in data files become paths: they must be relative, and no part of them may be empty,
    hidden (``..`` begins with a dot too), or hold a backslash or NUL. where: the file that says
    the name.
    """
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(not part or part.startswith(".") for part in parts):
        raise files.BadFile(
            f"{where} holds the name {shown(name)}, which is no path below a folder: names are "
            "relative, without backslash or NUL, and no part of them is empty or begins with a "
            "dot"
        )
    return name


def check_classes(names: Iterable[object], where: str | Path) -> tuple[str, ...]:
    """Return class names if each can be the name of a folder.

    Raises BadFile for any other name, and for one that occurs twice.
    """
    classes = tuple(name.strip() if isinstance(name, str) else name for name in names)
    for name in classes:
        if not isinstance(name, str):
            raise files.BadFile(f"{where} has the class name {shown(name)}, which is no text")
        if "/" in name or not name.isprintable():
            raise files.BadFile(
                f"{where} has the class name {shown(name)}, which cannot be the name of a folder"
            )
        check_name(name, where)
    if len(set(classes)) < len(classes):
        double = next(name for i, name in enumerate(classes) if name in classes[:i])
        raise files.BadFile(f"{where} has the class {shown(double)} twice; class names must differ")
    return classes


def shown(value: object, most: int = 80) -> str:
    """Return a value from a data file on one short line without control characters.

    Messages show such values in this form.
    """
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    text = " ".join(text.splitlines())  # arrays are shown on several
    return text if len(text) <= most else f"{text[: most - 1]}…"


# ------------------------------------------------------------------------------ content of trees


def key_of(path: str) -> str:
    """Return the key of an image's path relative to its tree."""
    return path.rpartition(".")[0] or path


def list_images(
    root: Path, cell: str = ".", *, leave_out: Path | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Return the files below ``root``/``cell``: images sorted by key, others, temporaries.

    All are POSIX paths relative to ``root``.

    Hidden files, JSON and ``classes.txt`` are left out. The folder ``leave_out`` is not entered.
    Folders of adapted images are not entered either, and stand among the others. Raises
    ValueError where two files have one key.
    """
    images: list[str] = []
    others: list[str] = []
    unfinished: list[str] = []
    prefix = "" if cell == "." else f"{cell}/"
    for path in walk(root / cell, leave_out=leave_out):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES:
            images.append(prefix + path)
        elif suffix == TEMPORARY:
            unfinished.append(prefix + path)
        elif suffix != ".json" and os.path.basename(path) != CLASSES:
            others.append(prefix + path)
    return unique(root, images), others, unfinished


def unique(root: Path, images: Iterable[str]) -> list[str]:
    """Return the paths of images sorted by key.

    root: the tree, for messages. Raises ValueError where two of them have one key.
    """
    keyed = sorted((key_of(path), path) for path in images)
    _check_forms(root, [key for key, _ in keyed])
    doubles = [(one, two) for (key, one), (other, two) in itertools.pairwise(keyed) if key == other]
    if doubles:
        one, two = doubles[0]
        more = f" (and {len(doubles) - 1} more such pairs)" if len(doubles) > 1 else ""
        raise ValueError(
            f"{root / one} and {root / two} would be one image{more}; rename or remove one of them"
        )
    return [path for _, path in keyed]


def found_instead(root: Path, others: Sequence[str], elsewhere: Sequence[str] = ()) -> str:
    """Return what there is where images were expected, as the end of a message.

    others: the other files there, as `list_images` returns them. elsewhere: the images that
    ``root`` has in other places.
    """
    left_out = [name for name in others if name.endswith("/")]
    suffixes = [os.path.splitext(name)[1].lower() for name in others if not name.endswith("/")]
    parts = []
    if suffixes:
        counted = Counter(suffix or "(no suffix)" for suffix in suffixes).most_common(4)
        kinds = ", ".join(f"{count:,} {shown(suffix)[1:-1]}" for suffix, count in counted)
        advice = [words for words, known in ADVICE.items() if not set(known).isdisjoint(suffixes)]
        parts.append(f"the files there are {kinds}{': ' if advice else ''}{'; '.join(advice)}")
    if left_out:
        parts.append(f"{root / left_out[0]} is not entered: name adapted copies themselves")
    if elsewhere:
        folders = Counter(name.rpartition("/")[0] or "." for name in elsewhere).most_common(3)
        named = ", ".join(f"{shown(folder)[1:-1]} ({count:,})" for folder, count in folders)
        parts.append(f"its images lie in {named}")
    if not parts:
        parts.append("nothing else is there (hidden files are not seen)")
    return "; " + "; ".join(parts)


def _check_forms(root: Path, keys: Iterable[str]) -> None:
    """Raise ValueError where two keys look alike, because they differ in their Unicode form only.

    They would be one file on a Mac, and nobody could tell their copies from each other.
    """
    known: dict[str, str] = {}
    for key in keys:
        if key.isascii():
            continue
        other = known.setdefault(unicodedata.normalize("NFC", key), key)
        if other != key:
            raise ValueError(
                f"{root / key} and {ascii(other)[1:-1]} differ in the Unicode form of their names "
                "only (NFC and NFD, as Linux and macOS write accents); rename one of them"
            )


def other_form(missing: Iterable[str], names: Iterable[str]) -> str:
    """Return a hint, as the end of a message, if a name is there in another Unicode form.

    missing: names that are not among ``names``.
    """
    forms = {unicodedata.normalize("NFC", name) for name in names if not name.isascii()}
    alike = sorted(name for name in missing if unicodedata.normalize("NFC", name) in forms)
    if not alike:
        return ""
    return (
        f"; {ascii(alike[0])[1:-1]} is there in another Unicode form of its name (NFC or NFD, as "
        "Linux and macOS write accents): copy the files anew without a change of names"
    )


def walk(
    folder: Path, *, leave_out: Path | None = None, skip: Container[str] = ()
) -> Iterator[str]:
    """Yield relative POSIX paths of all files below ``folder``, without hidden ones.

    Links are followed, but never in a circle. A sub-folder of adapted images is not entered: its
    own path is yielded, with a slash at its end. So is that of a folder like /proc and /sys, in
    which the system shows itself. leave_out: a folder, by whatever name, that is not entered. skip:
    relative paths of folders that are not entered. Raises BadFile for a folder that cannot be
    looked into.
    """
    left_out = os.path.realpath(leave_out) if leave_out is not None else None
    stack: list[tuple[str, frozenset[str]]] = [("", frozenset([os.path.realpath(folder)]))]
    while stack:
        prefix, above = stack.pop()
        scanned = entries(os.path.join(folder, prefix))
        if scanned is None:
            yield prefix or "./"
            continue
        if prefix and any(entry.name == SETTINGS for entry in scanned):
            yield prefix
            continue
        for entry in scanned:
            if not is_folder(entry):
                yield prefix + entry.name
                continue
            if prefix + entry.name in skip:
                continue
            inside = above
            if left_out is not None or entry.is_symlink():
                real = os.path.realpath(entry.path)
                if real == left_out or real in above:
                    continue
                inside = above | {real}
            stack.append((f"{prefix}{entry.name}/", inside))


def is_folder(entry: os.DirEntry) -> bool:
    """Tell whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself, or into a folder that is closed to us
        return False


def entries(folder: str | Path) -> list[os.DirEntry] | None:
    """Return what is in a folder, without hidden entries; None if the system shows itself in it."""
    try:
        if os.stat(folder).st_dev in _system_devices():
            return None
        with os.scandir(folder) as scanned:
            return [entry for entry in scanned if not entry.name.startswith(".")]
    except PermissionError:
        raise files.BadFile(
            f"{folder} cannot be looked into; permit it, or name a folder without it"
        ) from None


@lru_cache(maxsize=1)
def _system_devices() -> frozenset[int]:
    """Return the numbers of the devices on which the system shows itself as files, if any."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" - ") for line in file]
    except OSError:  # there is no such file where there are no such file systems
        return frozenset()
    numbers = (head.split()[2].split(":") for head, tail in mounts if tail.split()[0] in SYSTEM)
    return frozenset(os.makedev(int(major), int(minor)) for major, minor in numbers)


class Saved(NamedTuple):
    """The content of some cells of a tree that is being filled."""

    images: dict[str, dict[str, str]]  # key to relative path, for each cell
    unfinished: list[str]  # relative paths of temporaries

    def merged(self) -> dict[str, str]:
        """Return the key and the relative path of the images of all cells."""
        return {key: path for images in self.images.values() for key, path in images.items()}


def list_saved(root: Path, cells: Iterable[str], *, at_root: bool = False) -> Saved:
    """List the given cells of a tree, each of its folders once; a missing folder holds nothing.

    at_root: also list the temporaries at the root.
    """
    saved = Saved({}, [])
    for cell in cells:
        images, _, unfinished = list_images(root, cell) if (root / cell).is_dir() else ([], [], [])
        saved.images[cell] = {key_of(path): path for path in images}
        saved.unfinished.extend(unfinished)
    if at_root and "." not in saved.images and root.is_dir():
        with os.scandir(root) as entries:
            saved.unfinished.extend(
                entry.name for entry in entries if entry.name.endswith(TEMPORARY)
            )
    return saved


def saved_images(root: Path, cells: Iterable[str]) -> dict[str, str]:
    """Return the key and the relative path of each image in the given cells.

    A missing folder has none.
    """
    return list_saved(root, cells).merged()


def sweep_temporaries(root: Path, unfinished: Iterable[str]) -> int:
    """Remove those of the listed temporaries whose writers are dead, and return their number."""
    dead = [root / path for path in unfinished if not files.is_being_written(root / path)]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def read_keys(path: Path) -> frozenset[str]:
    """Return the keys that gate.py wrote, one on each line; there may be none.

    Raises FileNotFoundError and BadFile.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`keys` {path} is not a file; gate.py writes one")
    text = files.read_regular(path).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    keys = (line.replace("\\n", "\n").replace("\\r", "\r") for line in text.split("\n") if line)
    return frozenset(check_name(key, f"`keys` {path}") for key in keys)


def write_keys(path: Path, keys: Iterable[str]) -> None:
    """Write keys, one on each line, as `read_keys` reads them.

    The end of a line within a key is written as a backslash and a letter: no key has a backslash.
    """
    lines = (key.replace("\n", "\\n").replace("\r", "\\r") for key in keys)
    text = "".join(f"{line}\n" for line in lines)
    files.write_bytes(path, text.encode("utf-8", "surrogateescape"))


# --------------------------------------------------------------------------- classes and labels


def read_classes(root: Path) -> tuple[str, ...] | None:
    """Return the class names in ``root``/classes.txt in order; None where there is no such file."""
    path = root / CLASSES
    if not path.is_file():
        return None
    return check_classes(files.read_lines(path, "the class list"), path)


def write_classes(root: Path, classes: Iterable[str]) -> None:
    """Write ``root``/classes.txt."""
    files.write_bytes(root / CLASSES, "".join(f"{name}\n" for name in classes).encode())


def class_list(name: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Return the class names of a built-in list, of a file with one name a line, or as given.

    Raises FileNotFoundError where there is no such list, and ValueError for wrong names.
    """
    if isinstance(name, list | tuple):
        return check_classes(name, "`classes`")
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"`classes` must be text or a list, not {shown(name)}")
    path = Path(name)
    if name in CLASS_LISTS:
        path = Path(__file__).with_name("classes") / f"{name}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"`classes` {name} is neither a file nor one of {', '.join(CLASS_LISTS)}"
        )
    return check_classes(files.read_lines(path, "`classes`"), path)


def parse(name: str, classes: Sequence[str]) -> tuple[str, str, str | None]:
    """Return the cell, the image's own name, and its class or None.

    The name is <cell>/<class>/<image> or <cell>/<class>_<index>. Raises ValueError where folder
    and file tell different classes: a class called 1, 2 or 3 can be confused with a severity.
    """
    *folders, file = name.split("/")
    stem = key_of(file)
    label, _, index = stem.rpartition("_")
    if folders and folders[-1] in classes:
        if label in classes and label != folders[-1]:
            raise ValueError(
                f"{name} may be of the class {folders[-1]} or {label}; give the classes other names"
            )
        return "/".join(folders[:-1]) or ".", stem, folders[-1]
    cell = "/".join(folders) or "."
    return (cell, index, label) if label in classes else (cell, stem, None)


def spread(names: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of the names, evenly spread; all of them where there are fewer."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in places]


def is_held_out(key: str, share: float) -> bool:
    """Tell whether a training image is kept for validation.

    The draw depends on the image's key within its cell, such as ``cat_00012``. So the image is kept
    in every view and degradation, and in any part of the images. share: of the images, in [0,1].
    """
    return draw(key) < share * 2**64


def draw(key: str) -> int:
    """Return a number below 2**64 that depends on a key alone, as if drawn by chance."""
    number = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(number, "big")


def labels_of(
    names: Iterable[str], classes: Sequence[str], where: Callable[[str], object]
) -> np.ndarray:
    """Return labels (N,), indices of ``classes``, of images by their names.

    where: returns the place of an image for a message, such as a source's `where`. Raises
    ValueError for a name without a class.
    """
    index = {label: i for i, label in enumerate(classes)}
    labels = []
    for name in names:
        label = parse(name, index)[2]
        if label is None:
            raise ValueError(f"{where(name)} has none of the {len(classes)} classes in its name")
        labels.append(index[label])
    return np.array(labels, dtype=np.int64)
