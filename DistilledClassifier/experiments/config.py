"""Experiments as checked settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from DDA import files, settings, sources, tree
from DDA.training.loop import Recipe, make_optimizer, make_rate
from DistilledClassifier import classifiers, splits
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments.compose import (
    SOURCE,
    change,
    compose,
    kind_of,
    merge,
    stage_name,
)
from DistilledClassifier.experiments.settings import Training
from DistilledClassifier.losses import FROM_TEACHERS, SUPERVISED

MEASURED = "measured"  # in the place of a mean or a deviation: that of the training images
ONE = "train.py"  # the program whose runs learn from one degradation


@dataclass(frozen=True)
class Data:
    """The images of an experiment.

    root: a tree, a folder with a folder for each split, or a data set as it is downloaded. train,
    val: the splits. classes: a built-in list, a file with one name a line, the names, or the word
    ``folders``: those that the root tells, else the names of its folders. adapted:
    the tree of adapted copies of the root. corrupted, sequences: the trees for testing. at_most: a
    number of training images, spread evenly. held_out: a share of the training images, drawn by
    their keys, which are not trained on and take the place of val.
    """

    root: str
    train: str
    val: str
    classes: str | list
    adapted: str | None = None
    corrupted: str | None = None
    sequences: str | None = None
    at_most: int | None = None
    held_out: float | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their labels."""
        if isinstance(self.classes, list):
            return tree.check_classes(self.classes, "`data.classes`")
        return tree.class_list(self.classes)


@dataclass(frozen=True)
class Augment:
    """Random changes of training images.

    crop: pad by so many pixels and take a random part of the old size. resized_crop: take a random
    part of 8 to 100 % of the area, and scale it. flip: mirror half of the images.
    """

    crop: int = 0
    resized_crop: bool = False
    flip: bool = False


@dataclass(frozen=True)
class Teaching:
    """The way in which teachers answer.

    sees: ``same``, the images that the student sees, or ``clean``, their undegraded twins. how:
    ``grouped``, one teacher for each group of images, or ``averaged``, all teachers for all images.
    """

    sees: str = "same"
    how: str = "grouped"

    def __post_init__(self) -> None:
        """Check the two words."""
        settings.check_one_of("sees", self.sees, ("same", "clean"))
        settings.check_one_of("how", self.how, ("grouped", "averaged"))


@dataclass(frozen=True)
class Config:
    """A checked config.

    view: clean, degraded or adapted copies. made: degraded copies are made on the ``fly``, or
    read from ``trees``. known: the degradations. init: where the weights come from, which is a
    stage such as ``clean``, a file, ``pretrained``, or nothing. pretrained: the file of that
    word. teachers: the stage whose classifiers teach, one for each of known, or nothing. panel:
    how they answer. task: a name in `DistilledClassifier.tasks`. source: a file that takes the
    place of the stage ``clean``. raw: the entries as they were composed.
    """

    name: str
    kind: str
    dataset: str
    backbone: str
    stage: str
    data: Data
    classifier: dict[str, Any]
    preprocess: Preprocess
    augment: Augment
    view: str
    made: str
    known: tuple[str, ...]
    loss: dict[str, float]
    train: Recipe
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    panel: Teaching = Teaching()
    task: str = "classify"
    init: str | None = None
    teachers: str | None = None
    source: str | None = None
    pretrained: str | None = None
    domain: str = ""
    raw: dict[str, Any] = field(default_factory=dict)


def load(path: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Compose and check a config.

    changes: values by dotted names, such as ``{"train.epochs": 3}``, which win. Raises
    FileNotFoundError for a part that is missing, ValueError that names the wrong entry and says
    what was expected.
    """
    changes = changes or {}
    raw = change(compose(path, size=changes.get("preprocess.size")), changes)
    try:
        return check(_with_classes(_with_source(raw) if raw.get("backbone") == SOURCE else raw))
    except ValueError as error:
        raise ValueError(f"`config` {path}: {error}") from None


def _with_source(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries whose network and preprocessing are those of their ``source``.

    What the entries say themselves wins. Raises FileNotFoundError and ValueError.
    """
    if not isinstance(raw.get("source"), str):
        raise ValueError("`source` is missing: which checkpoint is the backbone?")
    path = files.find(raw["source"])
    return merge(classifiers.config_of(path, classifiers.read(path, "source")), raw)


def _with_classes(raw: dict[str, Any]) -> dict[str, Any]:
    """Return entries with the names of the classes, and their number, where the data tell them.

    Raises FileNotFoundError and ValueError.
    """
    data, model = raw.get("data"), raw.get("classifier")
    if isinstance(data, dict) and data.get("classes") == splits.FOLDERS:
        if not isinstance(data.get("root"), str):
            raise ValueError("`data.root` must be given: the folder of the images")
        names = splits.class_names(sources.open_official(files.find(data["root"])))
        data["classes"] = list(names)
    entry, section = _count_of(model) if isinstance(model, dict) else ("", {})
    if entry and section.get("num_classes", 0) is None:
        section["num_classes"] = len(_section("data", Data, data).class_names)
    return raw


def _count_of(model: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the entry that holds the number of classes of a network, and its section."""
    if "num_classes" not in model and isinstance(model.get("head"), dict):
        return "classifier.head.num_classes", model["head"]
    return "classifier.num_classes", model


def configure(training: Training, processes: int = 1, program: str | None = None) -> Config:
    """Return the checked config of a training that this many processes share.

    program: the command that runs it, None in Python. Raises as `load`, and ValueError where the
    settings do not fit the config, the processes or the program.
    """
    config = load(training.config, training.entries)
    _check_program(config, training, program)
    if config.view == "clean" and config.known != ("clean",):
        if training.known is None:
            raise ValueError("known: a config of clean images has no degradations")
        names = ",".join(training.known)
        raise ValueError(f"`known` {names} does not go with a config of clean images")
    share = processes * config.train.accumulate
    if config.train.batch_size % share:
        parts = f" in {config.train.accumulate} parts" if config.train.accumulate > 1 else ""
        raise ValueError(
            f"`batch_size` {config.train.batch_size} cannot be shared by {processes} "
            f"processes{parts}; use a multiple of {share}"
        )
    return config


def _check_program(config: Config, training: Training, program: str | None) -> None:
    """Raise ValueError where another program runs such configs, or one degradation is wanted."""
    own = kind_of(config.kind).program
    if own and program not in (None, own):
        raise ValueError(f"`config` {training.config} is a config of {own}")
    runs = own or program
    if runs not in (None, ONE):
        return
    if config.view != "clean" and training.known is None and "known" not in config.raw:
        names = ", ".join(DEGRADATIONS)
        raise ValueError(f"`known` is missing: which known degradation? One of {names}")
    if runs == ONE and len(config.known) > 1:
        raise ValueError(
            f"`known`: {ONE} trains one degradation, not {len(config.known)}; use "
            "train_all_deg.py and a config of deg_all"
        )


# ------------------------------------------------------------------------------------- checking


SECTIONS = {
    "data": Data,
    "preprocess": Preprocess,
    "augment": Augment,
    "train": Recipe,
    "panel": Teaching,
}


def check(raw: Mapping[str, Any]) -> Config:
    """Return the config of composed entries.

    Raises ValueError for entries that are unknown, missing or wrong.
    """
    entries = copy.deepcopy(dict(raw))
    if isinstance(entries.get("preprocess"), dict):  # `measured.settled` sets these
        seen = entries["preprocess"]
        for name in ("mean", "std"):
            if seen.get(name) == MEASURED:
                del seen[name]
    for name, kind in SECTIONS.items():
        entries[name] = _section(name, kind, entries.get(name, {}))
    entries.setdefault("known", ["clean"])
    entries.setdefault("name", stage_name(entries, entries.get("stage", "")))
    if not isinstance(entries["known"], list | tuple):
        raise ValueError(f"`known`: {tree.shown(entries['known'])} is not a list of degradations")
    entries |= {"raw": copy.deepcopy(dict(raw)), "known": tuple(entries["known"])}
    config = _section("", Config, entries)
    settings.check_one_of("view", config.view, ("clean", "degraded", "adapted"))
    settings.check_one_of("made", config.made, ("fly", "trees"))
    folders = {"name": config.name, "data.train": config.data.train, "data.val": config.data.val}
    for name, folder in folders.items():
        tree.check_name(folder, f"`{name}`:")
    _check_known(config)
    _check_losses(config)
    _check_training(config)
    _check_classes(config)
    return config


def _check_known(config: Config) -> None:
    for name in config.known:
        settings.check_one_of("known", name, ("clean", *DEGRADATIONS))
    if not config.known or len(set(config.known)) < len(config.known):
        raise ValueError(f"`known`: {list(config.known)} must name each degradation once")


def _check_losses(config: Config) -> None:
    for loss, weight in config.loss.items():
        settings.check_one_of("loss", loss, (*SUPERVISED, *FROM_TEACHERS))
        if not settings.is_of(weight, float) or weight < 0:
            raise ValueError(f"`loss.{loss}`: {weight!r} is no weight; use a number of at least 0")
    if bool(set(config.loss) & set(FROM_TEACHERS)) != bool(config.teachers):
        raise ValueError(
            f"`loss`: {', '.join(FROM_TEACHERS)} and `teachers` go together; one of them is missing"
        )
    if config.view == "adapted" and not config.data.adapted:
        raise ValueError("`view` adapted needs `data.adapted`, the tree of adapted copies")


def _check_training(config: Config) -> None:
    make_optimizer(config.optimizer, nn.Linear(1, 1))
    make_rate(config.optimizer["lr"], config.schedule, config.train)
    share = config.data.held_out
    if share is not None and not 0 < share < 1:
        raise ValueError(
            f"`data.held_out`: {share!r} is no share between 0 and 1 of the training images"
        )


def _check_classes(config: Config) -> None:
    """Raise ValueError where the classifier has another number of classes than the data."""
    classes = config.data.class_names
    entry, section = _count_of(config.classifier)
    count = section.get("num_classes")
    if count is not None and count != len(classes):
        raise ValueError(
            f"`{entry}` {count}, but `data.classes` {tree.shown(config.data.classes)} has "
            f"{len(classes)} classes; set `{entry}` to {len(classes)}, or name other classes"
        )


def _section(name: str, kind: type, entries: Any) -> Any:
    """Return the settings object of a group of entries. Raises ValueError for wrong ones."""
    if not isinstance(entries, dict):
        raise ValueError(f"`{name}`: {entries!r} has no entries")
    prefix = f"{name}." if name else ""
    settings.check_names(entries, [item.name for item in fields(kind)], prefix)
    settings.check_kinds(entries, get_type_hints(kind), prefix)
    needed = [item.name for item in fields(kind) if _has_no_default(item)]
    missing = ", ".join(f"`{prefix}{entry}`" for entry in needed if entry not in entries)
    if missing:
        raise ValueError(f"{missing} must be given; `base`, the name of a config, gives them all")
    try:
        return kind(**entries)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _has_no_default(item: Field) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
