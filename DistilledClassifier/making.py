"""Make data: trees of official data sets and of degraded copies, checks, contact sheets."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import KW_ONLY, dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from DDA import files, images, settings, tree
from DDA.progress import Show
from DDA.sources import Source, found_instead, open_official, read_pixels
from DDA.sources.cells import ORIENTATIONS
from DDA.sources.labels import TEST, TRAIN, is_list
from DDA.tree import CORRUPTIONS, EXTRA_CORRUPTIONS
from DistilledClassifier import splits, trees
from DistilledClassifier.degradations import (
    BEHAVIORS,
    COMBINED,
    DEGRADATIONS,
    SEQUENCE_NAMES,
    by_name,
)
from DistilledClassifier.recipes import Recipe, generator
from DistilledClassifier.splits import Division
from DistilledClassifier.trees import Task
from DistilledClassifier.verify import read_manifests
from DistilledClassifier.verify import verify as verify_tree

SPLITS = (*TRAIN, *TEST, "cifar_train", "cifar_test")
SEVERITIES = ("1", "2", "3", "4", "5")
CONSTANTS = ("auto", "cifar", "imagenet")
FORMATS = ("png", "npy")
SHEET_IMAGES = 6  # the images of a contact sheet, where their number is not given


@dataclass(frozen=True)
class Originals:
    """The images that are read.

    source: a folder of images, or a data set's files (dataset/README.md). split: the part of it
    that is read, such as ``cifar_test``. num_samples: the greatest number of images, which are
    spread evenly. classes: the class list, where the data do not tell it. labels: the labels of a
    flat ImageNet folder. list: a file of the names that are wanted. file_severity: the severity of
    a corruption's .npy that holds only one. orientation: ``apply`` turns photographs as their EXIF
    data say, ``ignore`` does not (default: apply for a folder of one's own, ignore for a published
    data set and for a tree with classes.txt). Paths may be text.
    """

    source: Path
    _: KW_ONLY
    split: str | None = None
    num_samples: int | None = None
    classes: str | Sequence[str] | None = None
    labels: Path | None = None
    list: Path | None = None
    file_severity: int | None = None
    orientation: str | None = None

    def __post_init__(self) -> None:
        """Make paths of texts, and check the numbers."""
        _make_paths(self, "source", "labels", "list")
        settings.check_at_least(1, num_samples=self.num_samples)
        settings.check_one_of("orientation", self.orientation, (None, *ORIENTATIONS))
        if self.file_severity not in (None, 1, 2, 3, 4, 5):
            raise ValueError(f"`file_severity` {self.file_severity} must be 1..5")

    @property
    def opening(self) -> tuple:
        """Return the arguments of `sources.open_official`."""
        classes = None if self.classes is None else tree.class_list(self.classes)
        return self.source, classes, self.labels, self.file_severity, self.orientation


@dataclass(frozen=True)
class Target:
    """The tree that is written, the number of processes, and the seed of every random stream.

    A script with several ``workers`` keeps its calls below ``if __name__ == "__main__":``, because
    each process imports the script.
    """

    save_dir: Path
    _: KW_ONLY
    workers: int = os.cpu_count() or 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Make a path of a text, and check the number of processes."""
        _make_paths(self, "save_dir")
        settings.check_at_least(1, workers=self.workers)


def _make_paths(chosen: Originals | Target, *names: str) -> None:
    """Turn texts among settings into paths, while the settings are made."""
    for name in names:
        value = getattr(chosen, name)
        if value is not None:
            object.__setattr__(chosen, name, Path(value))


@dataclass(frozen=True)
class Made:
    """The outcome of a run: how many images were wanted, and why some are not there.

    total: the number of images. failed: the reason for each image that failed, by its path in the
    tree. save_dir: the tree.
    """

    total: int
    failed: Mapping[str, str]
    save_dir: Path

    @property
    def done(self) -> int:
        """Return the number of the images that are in the tree."""
        return self.total - len(self.failed)

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} images are in {self.save_dir}"

    def fault(self) -> str | None:
        """Return a sentence that tells how many images failed, if any."""
        if not self.failed:
            return None
        where = f"the reasons are in {self.save_dir}/made*.json"
        counts = f"{len(self.failed)} of {self.total} images failed"
        return f"{counts}; {where}, and the same command tries them again"


AnySource = Originals | str | PathLike[str]
AnyTarget = Target | str | PathLike[str]


def prepare(
    source: AnySource,
    save_dir: AnyTarget,
    *,
    test_share: float | None = None,
    train: str | None = None,
    test: str | None = None,
    quiet: bool = False,
    show: Show | None = None,
) -> Made:
    """Write a data set as a tree: pixels as PNG, image files as they are (as links if possible).

    Args:
        source: a folder of images or a data set's files, or `Originals` for a part of them. Their
            ``classes`` may be the word folders: those of the folders of the images.
        save_dir: the tree to write, or a `Target`, which also has the number of processes.
        test_share: write clean/train and clean/test. Folders tell which images these are (train;
            test, val, valid or validation). Where there are none, this share of each class is test
            images, drawn by their keys.
        train, test: the folders of these splits, where they have other names.
        quiet: print nothing but failures.
        show: the place where a command prints, instead of ``quiet``.

    Returns:
        The number of images, and the reasons of those that failed.

    Raises:
        FileNotFoundError, ValueError: images cannot be found or told apart, or the tree holds
            images that were made in another way.
        LostWorker: a process died.
        LostFolder: the folder cannot be written to any more.

    Example:
        >>> prepare(photos, Target(out, workers=1), quiet=True).done
        3
    """
    _check_division(test_share, train, test)
    originals, target = _originals(source), _target(save_dir)
    show = show or Show(quiet=quiet)
    originals = _named(originals, train, test)
    opened, names = _choose(originals, target.save_dir, with_copies=True)
    places = {name: _place(name) for name in names}
    if test_share is not None:
        places = _divided(opened, names, target.save_dir, test_share, train, test, show)
    tasks = []
    for name, (folder, rest) in places.items():
        tasks.append(Task(Recipe(folder, "copy"), name, f"{folder}/{rest}"))
    return _write(originals, target, opened, tasks, show)


def _check_division(test_share: float | None, train: str | None, test: str | None) -> None:
    """Raise ValueError for a share that is none, and for splits that nothing is divided into."""
    if test_share is not None and not 0 < test_share < 1:
        raise ValueError(f"`test_share` {test_share} is no share between 0 and 1 of the images")
    for name, folder in (("train", train), ("test", test)):
        if folder is not None and test_share is None:
            raise ValueError(f"`{name}` {folder} goes with `test_share`; give both")


def divided(
    originals: Originals, share: float, train: str | None = None, test: str | None = None
) -> tuple[Source, Division]:
    """Return images as `prepare` divides them, and their source, which tells the classes.

    Raises FileNotFoundError and ValueError as `prepare`.
    """
    source, names = _choose(_named(originals, train, test), None, with_copies=True)
    return source, splits.divide(source, names, share, train=train, test=test)


def _named(originals: Originals, train: str | None, test: str | None) -> Originals:
    """Return originals with the names of the folders as classes, where these are wanted."""
    if originals.classes != splits.FOLDERS:
        return originals
    unnamed = open_official(*replace(originals, classes=None).opening)
    return replace(originals, classes=splits.class_names(unnamed, train, test))


def _divided(
    source: Source,
    names: Sequence[str],
    save_dir: Path,
    share: float,
    train: str | None,
    test: str | None,
    show: Show,
) -> dict[str, tuple[str, str]]:
    """Return the folder and the rest of the place of each image, as training and test images.

    Raises ValueError where an image is in the other split of the tree.
    """
    division = splits.divide(source, names, share, train=train, test=test)
    if division.note:
        show.say(f"note        {division.note}")
    places, planned = {}, set(division.places.values())
    for name, place in division.places.items():
        split, _, rest = place.partition("/")
        places[name] = (f"clean/{split}", rest)
        other = f"{splits.TRAIN if split == splits.TEST else splits.TEST}/{rest}"
        if other not in planned and os.path.lexists(save_dir / "clean" / other):
            raise ValueError(
                f"{save_dir / 'clean' / other} is one of the {split} images now; choose another "
                "`save_dir`"
            )
    return places


def degrade(
    source: AnySource,
    save_dir: AnyTarget,
    *,
    type: str | Sequence[str],
    level: str | float | Sequence[str | float] = (),
    behavior: str = BEHAVIORS[0],
    quiet: bool = False,
    show: Show | None = None,
) -> Made:
    """Write copies with known degradations, in a folder for each degradation.

    Args:
        source, save_dir: as in `prepare`.
        type: jpeg, blur, noise, saltpepper, or combined, which is one of them by chance; one or
            several.
        level: fixed levels, each in a folder of its own, or the one word test for the five of the
            papers. Without levels, one is drawn for each image.
        behavior: corrected, or published for the quirks of the reference code.
        quiet, show: as in `prepare`.

    Returns:
        The number of images, and the reasons of those that failed.

    Raises:
        ValueError: the degradation is unknown or does not take the level; and as `prepare`.
        FileNotFoundError, LostWorker, LostFolder: as `prepare`.

    Example:
        >>> degrade(photos, Target(out, workers=1), type="jpeg", level=[10, 30], quiet=True).done
        6
    """
    recipes = degradations_of(type, level, behavior)
    originals, target = _originals(source), _target(save_dir)
    opened, names = _choose(originals, target.save_dir)
    tasks = []
    for recipe in recipes:
        tasks += _tasks(recipe, names, _inside_clean if recipe.level is None else _inside_split)
    return _write(originals, target, opened, tasks, show or Show(quiet=quiet))


def sequence(
    source: AnySource,
    save_dir: AnyTarget,
    *,
    name: str | Sequence[str],
    quiet: bool = False,
    show: Show | None = None,
) -> Made:
    """Write copies with blur, then noise, then JPEG, in ``<name>/0/``.

    Args:
        source, save_dir: as in `prepare`.
        name: weak_seq, medium_seq or strong_seq, or one of these with ``_published``; one or
            several.
        quiet, show: as in `prepare`.

    Returns:
        The number of images, and the reasons of those that failed.

    Raises:
        ValueError: the sequence is unknown; and as `prepare`.
        FileNotFoundError, LostWorker, LostFolder: as `prepare`.

    Example:
        >>> sequence(photos, Target(out, workers=1), name="weak_seq", quiet=True).done
        3
    """
    recipes = sequences_of(name)
    originals, target = _originals(source), _target(save_dir)
    opened, names = _choose(originals, target.save_dir)
    tasks = [task for recipe in recipes for task in _tasks(recipe, names)]
    return _write(originals, target, opened, tasks, show or Show(quiet=quiet))


def corrupt(
    source: AnySource,
    save_dir: AnyTarget,
    *,
    corruption: str | Sequence[str] = "all",
    severity: str | int | Sequence[str | int] = "all",
    constants: str = "auto",
    format: str = "png",
    quiet: bool = False,
    show: Show | None = None,
) -> Made:
    """Write the common corruptions in ``<corruption>/<severity>/``, or as the official arrays.

    Args:
        source, save_dir: as in `prepare`.
        corruption: names, one or several; ``all`` for the 15, ``extra`` for the other 4.
        severity: one or several of 1 to 5, or ``all``.
        constants: cifar, imagenet, or auto, which takes CIFAR's up to 64 pixels.
        format: png, or npy for arrays beside the tree.
        quiet, show: as in `prepare`.

    Returns:
        The number of images, and the reasons of those that failed.

    Raises:
        ValueError: a name is unknown, or arrays lack labels or images of one size; and as
            `prepare`.
        FileNotFoundError, LostWorker, LostFolder: as `prepare`.

    Example:
        >>> target = Target(out, workers=1)
        >>> corrupt(photos, target, corruption="contrast", severity=[1, 5], quiet=True).done
        6
    """
    recipes = corruptions_of(corruption, severity, constants, format)
    originals, target = _originals(source), _target(save_dir)
    opened, names = _choose(originals, target.save_dir)
    if format == "npy":
        _check_labels(originals, opened, names)
    tasks = [task for recipe in recipes for task in _tasks(recipe, names)]
    made = _write(originals, target, opened, tasks, show or Show(quiet=quiet))
    if format == "npy" and not made.failed:
        _write_arrays(target.save_dir, _corruptions(corruption), _severities(severity))
    return made


def degradations_of(
    type: str | Sequence[str],
    level: str | float | Sequence[str | float] = (),
    behavior: str = BEHAVIORS[0],
) -> list[Recipe]:
    """Return the recipes of `degrade`. Raises ValueError for a value that cannot be meant."""
    levels = _texts(level)
    settings.check_one_of("behavior", behavior, BEHAVIORS)
    recipes = []
    for kind in _known("type", type, (*DEGRADATIONS, COMBINED)):
        if not levels:
            recipes.append(Recipe(kind, "degrade", kind, None, behavior))
        for folder, value in _levels(kind, levels).items():
            recipes.append(Recipe(f"{kind}/{folder}", "degrade", kind, value, behavior))
    return recipes


def sequences_of(name: str | Sequence[str]) -> list[Recipe]:
    """Return the recipes of `sequence`. Raises ValueError for an unknown name."""
    return [Recipe(f"{kind}/0", "sequence", kind) for kind in _known("name", name, SEQUENCE_NAMES)]


def corruptions_of(
    corruption: str | Sequence[str] = "all",
    severity: str | int | Sequence[str | int] = "all",
    constants: str = "auto",
    format: str = "png",
) -> list[Recipe]:
    """Return the recipes of `corrupt`. Raises ValueError for a value that cannot be meant."""
    corruptions, severities = _corruptions(corruption), _severities(severity)
    settings.check_one_of("constants", constants, CONSTANTS)
    settings.check_one_of("format", format, FORMATS)
    if format == "npy" and len(severities) < 5:
        raise ValueError("`format` npy holds all five severities; leave `severity` out")
    return [
        Recipe(f"{kind}/{level}", "corrupt", kind, int(level), constants)
        for kind, level in itertools.product(corruptions, severities)
    ]


# what refuses the values of a command that cannot be meant
RECIPES = {
    "prepare": _check_division,
    "degrade": degradations_of,
    "sequence": sequences_of,
    "corrupt": corruptions_of,
}


def check(command: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for values that a command would refuse, without opening anything."""
    others = dict(values)
    for kind in (Originals, Target):
        kind(**{item.name: others.pop(item.name) for item in fields(kind) if item.name in others})
    if command in RECIPES:
        RECIPES[command](**others)


def _originals(source: AnySource) -> Originals:
    return source if isinstance(source, Originals) else Originals(Path(source))


def _target(save_dir: AnyTarget) -> Target:
    return save_dir if isinstance(save_dir, Target) else Target(Path(save_dir))


def _texts(given: Any) -> tuple[str, ...]:
    """Return the texts of a setting that holds one value or several, each text once."""
    return tuple(dict.fromkeys(settings.names_of(settings.as_list(given))))


def _known(setting: str, given: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names that were given. Raises ValueError for none and for an unknown one."""
    names = _texts(given)
    if not names:
        raise ValueError(f"`{setting}` is empty; use {', '.join(known)}")
    for name in names:
        settings.check_one_of(setting, name, known)
    return names


def _corruptions(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the corruptions that were given by their names or those of their groups."""
    groups = {"all": CORRUPTIONS, "extra": EXTRA_CORRUPTIONS}
    known = CORRUPTIONS + EXTRA_CORRUPTIONS
    names = [name for one in _texts(given) for name in groups.get(one, (one,))]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        fault = f"{unknown[0]} is unknown" if unknown else "is empty"
        raise ValueError(f"`corruption` {fault}; use all, extra, {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _severities(given: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Return severities in order. Raises ValueError for other numbers and for none."""
    texts = _texts(given)
    if "all" in texts:
        return SEVERITIES
    if not texts or not set(texts) <= set(SEVERITIES):
        raise ValueError(f"`severity` {' '.join(texts)} must be 1..5 or all")
    return tuple(sorted(texts))


def _check_labels(originals: Originals, source: Source, names: Sequence[str]) -> None:
    """Raise ValueError for arrays of images without labels."""
    classes = source.classes
    if not classes or any(tree.parse(name, classes)[2] is None for name in names):
        raise ValueError(
            f"`format` npy needs labels, but {originals.source} has none; give `classes`"
        )


def _write_arrays(save_dir: Path, corruptions: Sequence[str], severities: Sequence[str]) -> None:
    """Write the official arrays beside the tree, one severity after the other.

    The rows of a severity are in the order of the numbers in their names.
    """
    classes = tree.read_classes(save_dir) or ()
    labels: list[int] = []
    for kind in corruptions:
        pixels, labels = [], []
        for severity in severities:
            names = tree.list_images(save_dir, f"{kind}/{severity}")[0]
            parsed = {name: tree.parse(name, classes) for name in names}
            for name in sorted(names, key=lambda name: (parsed[name][1], name)):
                pixels.append(np.asarray(images.read_rgb(save_dir / name)))
                labels.append(classes.index(parsed[name][2]))
        if len({image.shape for image in pixels}) > 1:
            raise ValueError(
                f"`format` npy needs images of one size, but those of {save_dir / kind} differ"
            )
        files.write_array(save_dir / f"{kind}.npy", np.stack(pixels))
    kind_of_labels = np.uint8 if len(classes) <= 256 else np.int64
    files.write_array(save_dir / "labels.npy", np.array(labels, kind_of_labels))


# ------------------------------------------------------------------------ what is read and made


def _inside_clean(name: str) -> str:
    return name.removeprefix("clean/")


def _inside_split(name: str) -> str:
    """Return a name without the folder of its split, as in a cell <corruption>/<severity>."""
    first, _, rest = _inside_clean(name).partition("/")
    return rest if rest and first in SPLITS else _inside_clean(name)


def _tasks(
    recipe: Recipe, names: Sequence[str], place: Callable[[str], str] = _inside_split
) -> list[Task]:
    """Return a task for each image.

    place: the function that gives an image its name in the recipe's folder.
    """
    return [Task(recipe, name, f"{recipe.folder}/{tree.key_of(place(name))}.png") for name in names]


def _levels(kind: str, levels: Sequence[str]) -> dict[str, float]:
    """Return the number of each fixed level, by its folder.

    Raises ValueError for a level that the degradation does not take.
    """
    if not levels:
        return {}
    if kind == COMBINED:
        raise ValueError(
            "`level` does not go with `type` combined, which draws degradation and level"
        )
    if list(levels) == ["test"]:
        tests = DEGRADATIONS[kind].test
        return {str(severity): level for severity, level in enumerate(tests, start=1)}
    try:
        numbers = [float(level) for level in levels]
        for number in numbers:
            by_name(kind)(np.zeros((8, 8, 3), np.uint8), number, np.random.default_rng(0))
    except ValueError as error:
        raise ValueError(
            f"`level` {' '.join(levels)}: {error}; levels are numbers, or the one word test"
        ) from None
    return {f"{number:g}": number for number in numbers}


def _choose(
    originals: Originals, save_dir: Path | None, *, with_copies: bool = False
) -> tuple[Source, list[str]]:
    """Return the source and the names of its images that are wanted.

    with_copies: whether images that were made here from others are wanted too. Raises ValueError
    where no image is wanted.
    """
    source = open_official(*originals.opening)
    _check_used(originals, source)
    names = source.names
    if not with_copies:
        if any(name.startswith("clean/") for name in names):  # degraded copies may lie beside them
            names = [name for name in names if name.startswith("clean/")]
        names = _without_copies(originals.source, names)
    names = _outside(originals.source, save_dir, names)
    if originals.classes is not None:
        without = [name for name in names if tree.parse(name, source.classes)[2] is None]
        if without:
            raise ValueError(
                f"`classes` {originals.classes} has no class of {without[0]} "
                f"(and {len(without)} such images in all)"
            )
    if originals.split:
        names = [name for name in names if _inside_clean(name).split("/")[0] == originals.split]
    if originals.list is not None:
        names = _listed(originals, names)
    if not names:
        where = f" in `split` {originals.split}" if originals.split else ""
        instead = found_instead(source)
        raise ValueError(f"`source` {originals.source} has no images{where}{instead}")
    if originals.num_samples is not None:
        names = tree.spread(names, originals.num_samples)
    return source, names


def _check_used(originals: Originals, source: Source) -> None:
    """Raise ValueError for classes or labels that were given and that the source does not take."""
    path, flat = originals.source, "ILSVRC2012_val_*"
    is_flat = any(next(folder.glob(flat), None) for folder in (path, path / "val"))
    if not (originals.labels is None or is_list(originals.labels) or is_flat):
        raise ValueError(
            f"`labels` {originals.labels} goes with a flat ImageNet val folder of {flat}, which "
            f"{path} is not; leave it out"
        )
    given = () if originals.classes is None else tree.class_list(originals.classes)
    own = tuple(source.classes or ())
    if originals.classes is not None and tuple(given) != own:
        raise ValueError(
            f"`classes` {originals.classes} has other names than the {len(own)} classes that "
            f"{originals.source} tells itself; leave it out"
        )


def _listed(originals: Originals, names: Sequence[str]) -> list[str]:
    """Return the names that a list asks for. Raises ValueError where some are not there."""
    wanted = {Path(line).stem for line in files.read_lines(originals.list, "`list`")}
    chosen = [name for name in names if Path(name).stem in wanted]
    if len(chosen) < len(wanted):
        raise ValueError(
            f"`list` {originals.list} names {len(wanted)} images, "
            f"of which {originals.source} has {len(chosen)}"
        )
    return chosen


def _without_copies(source: Path, names: list[str]) -> list[str]:
    """Return names without those of copies that were made here, which may lie beside them."""
    if not source.is_dir():
        return names
    made = [
        f"{manifest['folder']}/"
        for _, manifest in read_manifests(source)
        if manifest["settings"].get("kind") != "copy"
    ]
    return [name for name in names if not name.startswith(tuple(made))]


def _outside(source: Path, save_dir: Path | None, names: list[str]) -> list[str]:
    """Return names without those in the written tree, where it lies in the source."""
    root = source.resolve()
    if save_dir is None or root not in save_dir.resolve().parents:
        return names
    inside = f"{save_dir.resolve().relative_to(root).as_posix()}/"
    return [name for name in names if not name.startswith(inside)]


def _place(name: str) -> tuple[str, str]:
    """Split a name into the folder of the tree that has a manifest of its own, and the rest."""
    match = re.fullmatch(r"(?s)(([^/]*)/\d+)/(.+)", name)  # <corruption>/<severity>
    if match and match[2] not in SPLITS:  # a class may be called 3
        return match[1], match[3]
    rest = _inside_split(name)
    return f"clean/{_inside_clean(name).removesuffix(rest)}".rstrip("/"), rest


def _write(
    originals: Originals, target: Target, source: Source, tasks: list[Task], show: Show
) -> Made:
    """Make the images and say which of them failed."""
    show.say(f"images      {len(tasks):,} of {originals.source} -> {target.save_dir}")
    if source.left_out:
        show.say(f"note        {source.left_out}")
    if source.classes is None:
        missing = f"so {target.save_dir} gets no {tree.CLASSES}; `classes` would give the names"
        show.say(f"note        the class names are unknown, {missing}")
    options = {"seed": target.seed, "workers": target.workers, "show": show}
    try:
        failures = trees.write(source, originals.opening, tasks, target.save_dir, **options)
    except BrokenProcessPool:
        raise trees.LostWorker(
            "a worker process died (out of memory?); run the same command again to go on, with "
            "fewer `workers`; a Python script that makes images needs "
            "`if __name__ == '__main__':` around its calls"
        ) from None
    for path, reason in list(failures.items())[:10]:
        show.warn(f"failed: {path}: {reason}")
    return Made(len(tasks), failures, target.save_dir)


# ------------------------------------------------------------------------------ looking at data


@dataclass(frozen=True)
class Checked:
    """The number of images in each folder of a tree, and the faults, by name."""

    counts: Mapping[str, int]
    faults: Mapping[str, str]
    has_classes: bool

    def __str__(self) -> str:
        total = f"{sum(self.counts.values()):,} images in {len(self.counts)} folders"
        lines = [f"{cell:40} {count:8,}" for cell, count in sorted(self.counts.items())]
        if not self.has_classes:
            lines.insert(0, f"note        there is no {tree.CLASSES}: classes were not checked")
        return "\n".join([*lines, f"{total}, {len(self.faults)} faults"])


def verify(save_dir: str | PathLike[str], source: AnySource | None = None) -> Checked:
    """Count the images of a tree, and find missing, extra, damaged and mislabelled ones.

    Args:
        save_dir: the tree.
        source: clean images that every cell without a manifest must have, or `Originals` for a
            part of them. By default the cells are compared with each other.

    Returns:
        The number of images in each folder, and the fault of each name that has one.

    Raises:
        FileNotFoundError: there is no tree.
        ValueError: the tree has no images, or no classes to compare with the source.

    Example:
        >>> checked = verify(photos)
        >>> dict(checked.counts), checked.faults
        ({'.': 3}, {})
    """
    root = Path(save_dir)
    has_classes = tree.read_classes(root) is not None
    expected: list[str] = []
    if source is not None:
        expected = [_inside_split(name) for name in _choose(_originals(source), root)[1]]
        if not has_classes:
            raise ValueError(
                f"`source` compares images by their classes, but {root} has no {tree.CLASSES}"
            )
    counts, faults = verify_tree(root, expected)
    return Checked(counts, faults, has_classes)


def sheet(
    source: AnySource,
    out: str | PathLike[str],
    *,
    type: str,
    constants: str = "auto",
    seed: int = 0,
) -> Path:
    """Draw some images under a degradation at all its levels, as one picture.

    Args:
        source: a folder of images or a data set's files, or `Originals` for a part of them. Six
            images are drawn, where their number is not given.
        out: the PNG to write.
        type: a degradation, a sequence or a corruption.
        constants: those of a corruption: auto, cifar or imagenet.
        seed: the seed of every image's random stream.

    Returns:
        The path of the PNG.

    Raises:
        FileNotFoundError, ValueError: there are no images, a name is unknown, or ``out`` is no
            PNG.

    Example:
        >>> sheet(photos, "blur.png", type="blur").name
        'blur.png'
    """
    settings.check_one_of("constants", constants, CONSTANTS)
    recipes = _recipes(type, constants)
    path, originals = Path(out), _originals(source)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`out` {path} must end in .png")
    number = SHEET_IMAGES if originals.num_samples is None else originals.num_samples
    opened, names = _choose(replace(originals, num_samples=number), None)
    clean = [read_pixels(opened, name) for name in names]
    rows = {"clean": clean}
    for title, recipe in recipes.items():
        pairs = zip(names, clean, strict=True)
        rows[title] = [recipe.apply(image, generator(seed, name)) for name, image in pairs]
    files.make_folder(path.parent)
    images.write_image(path, np.asarray(images.contact_sheet(rows, names)))
    return path


def _recipes(name: str, constants: str) -> dict[str, Recipe]:
    """Return a recipe, by its title, for each level of a degradation, sequence or corruption."""
    if name in DEGRADATIONS:
        levels = DEGRADATIONS[name].test
        plain = BEHAVIORS[0]
        return {f"{name} {v:.3g}": Recipe("", "degrade", name, v, plain) for v in levels}
    if name in SEQUENCE_NAMES:
        return {one: Recipe("", "sequence", one) for one in SEQUENCE_NAMES}
    if name in CORRUPTIONS + EXTRA_CORRUPTIONS:
        severities = range(1, 6)
        return {f"{name} {v}": Recipe("", "corrupt", name, v, constants) for v in severities}
    known = ", ".join((*DEGRADATIONS, *SEQUENCE_NAMES, *CORRUPTIONS, *EXTRA_CORRUPTIONS))
    raise ValueError(f"`type` {name} is unknown; use one of {known}")
