"""The training images, the test images and the classes of one's own data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from DDA import tree
from DDA.sources import Folder, Source, splits_of

TRAIN, TEST = "train", "test"  # the splits of a tree that is made of one's own data
FOLDERS = "folders"  # in the place of a class list: the names of the folders of the images


@dataclass(frozen=True)
class Division:
    """The division of images into training and test images.

    places: the place of each image, by its name: ``train/cat/1.jpg``. note: what was done about
    classes and folders that need words, or nothing.
    """

    places: dict[str, str]
    note: str = ""

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self.keys(split))

    def keys(self, split: str) -> list[str]:
        """Return the keys of the images of a split, relative to its folder."""
        first = f"{split}/"
        places = [place for place in self.places.values() if place.startswith(first)]
        return [tree.key_of(place.removeprefix(first)) for place in places]


@dataclass(frozen=True)
class _Folders:
    """The folders of the splits, None where there is none.

    above: what comes before them in the names of images: ``clean/``, or nothing.
    """

    train: str | None
    test: str | None
    above: str = ""

    def split(self, name: str) -> tuple[str, str]:
        """Return the split of an image, or an empty text, and its name within that."""
        inside = name.removeprefix(self.above)
        for folder in (self.train, self.test):
            if folder is not None and inside.startswith(f"{folder}/"):
                return folder, inside.removeprefix(f"{folder}/")
        return "", inside


def class_names(
    source: Source, train: str | None = None, test: str | None = None
) -> tuple[str, ...]:
    """Return the classes that a source tells, else the names of the folders of its images, sorted.

    A list that a folder does not hold itself, as that of ImageNet, is shortened to the classes that
    have images. train, test: the folders of its splits (default: those of the usual names). Raises
    ValueError for an image that lies in no folder of a class, or deeper than in one.
    """
    listed = tuple(source.classes or ())
    if listed and not (isinstance(source, Folder) and tree.read_classes(source.path) is None):
        return listed
    names, above = _undegraded(source.names)
    folders = _folders(source, names, above, train, test)
    used = set()
    for name in names:
        split, rest = folders.split(name)
        if not split and folders.train is not None:
            continue
        label, *deeper = rest.split("/")
        if len(deeper) != 1 and listed:
            return listed
        if len(deeper) != 1:
            where = "deeper than in the folder of its class" if deeper else "in no folder"
            raise ValueError(
                f"{source.where(name)} lies {where}; images lie in <class>/ or <split>/<class>/; "
                "or `classes` lists the classes that their names begin with"
            )
        used.add(label)
    names = sorted(used)
    return tree.check_classes([name for name in listed if name in used] or names, source.path)


def divide(
    source: Source,
    names: Sequence[str],
    share: float,
    *,
    train: str | None = None,
    test: str | None = None,
) -> Division:
    """Divide images into training and test images, by their folders or else by their keys.

    source: it tells its classes. names: the images that are wanted. share: of the images of each
    class that are test images, where no folder tells them: those whose keys are drawn, and at least
    one. train, test: the folders (default: those of the usual names). Raises ValueError where a
    folder is missing, or a class has no training or no test image.
    """
    if not source.classes:
        raise ValueError(f"`classes` is missing: {source.path} does not tell them")
    if not 0 < share < 1:
        raise ValueError(f"`test_share` {share} is no share between 0 and 1 of the images")
    names, above = _undegraded(names)
    folders = _folders(source, names, above, train, test)
    placed: dict[str, str] = {}
    undivided: dict[str, str] = {}
    for name in names:
        split, rest = folders.split(name)
        if split and split == folders.test:
            placed[name] = f"{TEST}/{rest}"
        elif split and folders.test is not None:
            placed[name] = f"{TRAIN}/{rest}"
        elif split or folders.train is None:
            undivided[name] = rest
    others = len(names) - len(placed) - len(undivided)
    notes = [f"{others:,} images in other folders than the splits are left out"] if others else []
    notes += _by_key(source, undivided, share, placed)
    _check_both(source, placed)
    return Division(placed, "; ".join(notes))


def _undegraded(names: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of undegraded images, and the folder above them: ``clean/``, or none.

    A tree may hold degraded copies beside them. A folder ``clean`` that holds images itself is a
    class of that name.
    """
    inside = [name for name in names if name.startswith("clean/")]
    is_tree = bool(inside) and all(name.count("/") > 1 for name in inside)
    return (inside, "clean/") if is_tree else (list(names), "")


def _folders(
    source: Source, names: Iterable[str], above: str, train: str | None, test: str | None
) -> _Folders:
    """Return the folders of the splits. Raises ValueError for one that is missing.

    A folder with the name of a split is one if no class lies beside it.
    """
    inside = [name.removeprefix(above) for name in names]
    tops = {name.partition("/")[0] for name in inside if "/" in name}
    usual = splits_of(inside)
    if tops != {*usual[TRAIN], *usual[TEST]} and train is None:  # they are classes
        usual = {TRAIN: [], TEST: []}
    for setting, folder in (("train", train), ("test", test)):
        if folder is not None and folder not in tops:
            listed = ", ".join(sorted(tops)[:5]) or "no folders"
            raise ValueError(
                f"`{setting}` {folder} is no folder of {source.path}; there are {listed}"
            )
    train = train or next(iter(usual[TRAIN]), None)
    test = test or next(iter(usual[TEST]), None)
    if test is not None and train is None:
        raise ValueError(f"{source.path} has test images in {test}; `train` names the others")
    return _Folders(train, test, above)


def _by_key(
    source: Source, undivided: dict[str, str], share: float, placed: dict[str, str]
) -> list[str]:
    """Place images by their keys, and return notes on what was moved.

    The draw is another one than that of `tree.is_held_out` for the same key: validation images are
    drawn among the training images. Raises ValueError for a class with a single image.
    """
    groups: dict[str, list[str]] = {}
    for name, rest in undivided.items():
        groups.setdefault(_label(source, name, rest), []).append(name)
    moved = 0
    for label, group in groups.items():
        if len(group) < 2:
            raise ValueError(
                f"the class {label} has one image, {source.where(group[0])}; it needs two, one to "
                "train and one to test"
            )
        group.sort(key=lambda name: tree.draw(f"{TEST}/{tree.key_of(undivided[name])}"))
        keys = [f"{TEST}/{tree.key_of(undivided[name])}" for name in group]
        drawn = sum(tree.is_held_out(key, share) for key in keys)
        wanted = min(max(drawn, 1), len(group) - 1)
        moved += drawn != wanted
        for place, name in enumerate(group):
            placed[name] = f"{TEST if place < wanted else TRAIN}/{undivided[name]}"
    notes = [f"{share:g} of each class, by key, are test images"] if groups else []
    if moved:
        which = "1 class" if moved == 1 else f"{moved} classes"
        notes.append(f"of {which} one image was moved, so that each has both kinds")
    return notes


def _check_both(source: Source, placed: dict[str, str]) -> None:
    """Raise ValueError where a class has training images only, or test images only."""
    counts: dict[str, Counter[str]] = {TRAIN: Counter(), TEST: Counter()}
    for name, place in placed.items():
        split, _, rest = place.partition("/")
        counts[split][_label(source, name, rest)] += 1
    for split, other in ((TRAIN, TEST), (TEST, TRAIN)):
        alone = sorted(set(counts[other]) - set(counts[split]))
        if alone:
            more = f" (and {len(alone) - 1} more classes)" if len(alone) > 1 else ""
            raise ValueError(
                f"{source.path} has no {split} image of the class {alone[0]}{more}; add some, or "
                "put all images into folders of classes without splits"
            )


def _label(source: Source, name: str, rest: str) -> str:
    """Return the class of an image. Raises ValueError where its name tells none."""
    label = tree.parse(rest, source.classes)[2]
    if label is None:
        few = ", ".join(source.classes[:3])
        raise ValueError(
            f"{source.where(name)} has none of the {len(source.classes)} classes ({few}, …) in its "
            "name"
        )
    return label
