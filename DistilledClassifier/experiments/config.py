"""Experiments as checked settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from DDA import settings, tree
from DDA.training.loop import Recipe, make_optimizer, make_rate
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.experiments.compose import compose
from DistilledClassifier.losses import FROM_TEACHERS, SUPERVISED


@dataclass(frozen=True)
class Data:
    """Where the images are.

    root: a tree, or a data set as it is downloaded; adapted: the tree of adapted copies of it; corrupted, sequences: the trees
    for testing; train, val: the splits; classes: a built-in list or a file; at_most: so many training images, spread evenly;
    held_out: validate on this share of the training images, drawn by their keys and not trained on, instead of val.
    """

    root: str
    train: str
    val: str
    classes: str
    adapted: str | None = None
    corrupted: str | None = None
    sequences: str | None = None
    at_most: int | None = None
    held_out: float | None = None


@dataclass(frozen=True)
class Augment:
    """Random changes of training images. crop: pad by so many pixels and take a random part of the old size; resized_crop: a
    random part of 8 to 100 % of the area, scaled; flip: mirror half of the images."""

    crop: int = 0
    resized_crop: bool = False
    flip: bool = False


@dataclass(frozen=True)
class Teaching:
    """How teachers answer. sees: ``same`` images as the student, or their ``clean`` twins; how: ``grouped``, one teacher for
    each group of images, or ``averaged``, all for all."""

    sees: str = "same"
    how: str = "grouped"

    def __post_init__(self) -> None:
        settings.check_one_of("sees", self.sees, ("same", "clean"))
        settings.check_one_of("how", self.how, ("grouped", "averaged"))


@dataclass(frozen=True)
class Config:
    """A checked config. view: clean, degraded or adapted copies; made: degraded copies are made on the ``fly`` or read from
    ``trees``; known: the degradations; init: where the weights come from (a stage such as ``clean``, a file, ``pretrained``,
    or nothing); pretrained: the file that this means; teachers: the stage whose classifiers teach, one for each of known, or
    nothing; panel: how they answer; source: a file that takes the place of the stage ``clean``."""

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
    init: str | None = None
    teachers: str | None = None
    source: str | None = None
    pretrained: str | None = None
    domain: str = ""
    raw: dict[str, Any] = field(default_factory=dict)  # as it was composed, plain values


def load(path: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Compose and check a config. changes: dotted names to values, such as ``{"train.epochs": 3}``, which win.

    Raises FileNotFoundError for what is not there, ValueError naming the entry that is wrong and what was expected.
    """
    raw = compose(path)
    change(raw, changes or {})
    try:
        return check(raw)
    except ValueError as error:
        raise ValueError(f"-c {path}: {error}") from None


def change(entries: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set entries by their dotted names, in place. Raises ValueError where a name leads through what has no entries."""
    for name, value in changes.items():
        *above, last = name.split(".")
        section = entries
        for key in above:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise ValueError(f"{name}: {key} has no entries")
        section[last] = value


# ---------------------------------------------------------------------------------------------- checking


SECTIONS = {
    "data": Data,
    "preprocess": Preprocess,
    "augment": Augment,
    "train": Recipe,
    "panel": Teaching,
}


def check(raw: Mapping[str, Any]) -> Config:
    """Raises ValueError for entries that are unknown, missing or wrong."""
    entries = copy.deepcopy(dict(raw))
    for name, kind in SECTIONS.items():
        entries[name] = _section(name, kind, entries.get(name, {}))
    entries.setdefault("known", ["clean"])
    entries.setdefault("name", stage_name(entries, entries.get("stage", "")))
    if not isinstance(entries["known"], list | tuple):
        raise ValueError(f"known: {tree.shown(entries['known'])} is not a list of degradations")
    config = _section(
        "", Config, {**entries, "raw": copy.deepcopy(dict(raw)), "known": tuple(entries["known"])}
    )
    settings.check_one_of("view", config.view, ("clean", "degraded", "adapted"))
    settings.check_one_of("made", config.made, ("fly", "trees"))
    for name, value in (
        ("name", config.name),
        ("data.train", config.data.train),
        ("data.val", config.data.val),
    ):
        tree.check_name(value, f"{name}:")  # they become folders
    for kind in config.known:
        settings.check_one_of("known", kind, ("clean", *DEGRADATIONS))
    if not config.known or len(set(config.known)) < len(config.known):
        raise ValueError(f"known: {list(config.known)} must name each degradation once")
    _check_losses(config)
    _check_training(config)
    classes = tree.class_list(config.data.classes)
    head = config.classifier.get("head", {})
    told = config.classifier.get(
        "num_classes", head.get("num_classes") if isinstance(head, dict) else None
    )
    if told is not None and told != len(classes):
        raise ValueError(
            f"classifier: num_classes {told}, but data.classes {config.data.classes} has {len(classes)} classes"
        )
    return config


def _check_losses(config: Config) -> None:
    for loss, weight in config.loss.items():
        settings.check_one_of("loss", loss, (*SUPERVISED, *FROM_TEACHERS))
        if not settings.is_of(weight, float) or weight < 0:
            raise ValueError(f"loss.{loss}: {weight!r} is no weight")
    if bool(set(config.loss) & set(FROM_TEACHERS)) != bool(config.teachers):
        raise ValueError(
            f"loss: {', '.join(FROM_TEACHERS)} and teachers go together; one of them is missing"
        )
    if config.view == "adapted" and not config.data.adapted:
        raise ValueError("view: adapted needs data.adapted, the tree of adapted copies")


def _check_training(config: Config) -> None:
    make_optimizer(config.optimizer, nn.Linear(1, 1))
    make_rate(config.optimizer["lr"], config.schedule, config.train)
    share = config.data.held_out
    if share is not None and not 0 < share < 1:
        raise ValueError(
            f"data.held_out: {share!r} is no share between 0 and 1 of the training images"
        )


def stage_name(entries: Mapping[str, Any], stage: str) -> str:
    """What the runs of a stage of an experiment are called: another ``dataset`` or ``backbone`` keeps them apart."""
    return f"{entries.get('dataset')}_{str(entries.get('backbone')).replace('/', '-')}_{stage}"


def _section(name: str, kind: type, entries: Any):
    if not isinstance(entries, dict):
        raise ValueError(f"{name}: {entries!r} has no entries")
    prefix = f"{name}." if name else ""
    settings.check_names(entries, [item.name for item in fields(kind)], prefix)
    settings.check_kinds(entries, get_type_hints(kind), prefix)
    try:
        return kind(**entries)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except TypeError as error:
        raise ValueError(
            f"{name or 'config'}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}"
        ) from None
