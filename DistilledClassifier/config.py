"""Configs of the trainers: composed of parts, checked against what they are for.

``configs/<kind>/<DATASET>/<BACKBONE>/<stage>.yaml`` names an experiment: kind ``ind`` (one degradation) or ``deg_all`` (all of
them). It is put together from these files under ``configs/``, each of which holds only what is its own, later ones winning:

    data/<DATASET>.yaml   backbones/<domain>/<BACKBONE>.yaml   <kind>/<stage>.yaml
    <kind>/<DATASET>.yaml   <kind>/<DATASET>/<stage>.yaml   <kind>/<DATASET>/<BACKBONE>/<stage>.yaml

of which the last three need not exist. ``timm/<name>`` is a backbone too. A config of one's own, anywhere, names what it
changes: ``base: configs/ind/CIFAR10/ResNet18/deg.yaml``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch

from DDA import files, settings, tree
from DistilledClassifier.classifiers import Preprocess
from DistilledClassifier.degradations import DEGRADATIONS
from DistilledClassifier.losses import FROM_TEACHERS, SUPERVISED

CONFIGS = Path(__file__).with_name("configs")
KINDS = ("ind", "deg_all")
SCHEDULES = {"constant": (), "cosine": (), "multistep": ("milestones", "gamma")}


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
class Recipe:
    """How long and how to train. batch_size: images a step of each degradation, over all ranks. The budget is the first to end
    of epochs, steps and minutes; the schedule is stretched over it. warmup: steps of rising learning rate; early_stop: epochs
    without a better validation (0: never); amp: bfloat16 where the device is fast at it."""

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    warmup: int = 0
    clip_norm: float = 0.0
    early_stop: int = 0
    amp: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """A checked config. view: clean, degraded or adapted copies; made: degraded copies are made on the ``fly`` or read from
    ``trees``; known: the degradations; init: where the weights come from (a stage such as ``clean``, a file, ``pretrained``,
    or nothing); pretrained: the file that this means; teachers: the stage whose classifiers teach, one for each of known, or
    nothing; source: a file that takes the place of the stage ``clean``."""

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


# ---------------------------------------------------------------------------------------------- composing


def compose(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The merged entries of a config and of all that it is put together from.

    above: the configs that led here by their ``base``.
    """
    parts = _experiment(path)
    if parts is None:
        file = next((place for place in (path, Path(__file__).parent / path) if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"-c {path} does not exist; experiments are configs/{{ind,deg_all}}/<DATASET>/<BACKBONE>/"
                                    "<stage>.yaml (DistilledClassifier/README.md)")  # fmt: skip
        own = files.read_yaml(file)
        base = own.pop("base", None)
        if base is None:
            return {"kind": "", "dataset": "", "backbone": "", "stage": file.stem, "name": file.stem} | own
        if not isinstance(base, str):
            raise ValueError(f"{file}: base: {tree.shown(base)} is not the name of a config")
        if file in above:
            raise ValueError(f"{file}: base: the config is put together from itself")
        return _merge(compose(Path(base), (*above, file)), own)
    kind, dataset, backbone, stage = parts
    data = files.read_yaml(_part("data", f"{dataset}.yaml"))
    merged = {"kind": kind, "dataset": dataset, "backbone": backbone, "stage": stage}
    merged = _merge(merged, data)
    domain = data.get("domain", "")
    if backbone.startswith("timm/"):
        merged = _merge(merged, files.read_yaml(_part(f"backbones/{domain}", "timm.yaml")))
        merged["classifier"]["name"] = backbone.removeprefix("timm/")
    else:
        merged = _merge(merged, files.read_yaml(_part(f"backbones/{domain}", f"{backbone}.yaml", extra=("timm/<name>",))))
    merged = _merge(merged, files.read_yaml(_part(kind, f"{stage}.yaml")))
    for own in (f"{dataset}.yaml", f"{dataset}/{stage}.yaml", f"{dataset}/{backbone}/{stage}.yaml"):
        if (CONFIGS / kind / own).is_file():
            merged = _merge(merged, files.read_yaml(CONFIGS / kind / own))
    return merged


def _experiment(path: Path) -> tuple[str, str, str, str] | None:
    """Kind, data set, backbone and stage that a path names, or None for a file of one's own."""
    inside = path.resolve()
    if not inside.is_relative_to(CONFIGS):
        if path.is_file() or "configs" not in path.parts:
            return None
        inside = CONFIGS.joinpath(*path.parts[path.parts.index("configs") + 1 :])
    parts = inside.relative_to(CONFIGS).with_suffix("").parts
    if len(parts) < 4 or parts[0] not in KINDS:
        return None
    return parts[0], parts[1], "/".join(parts[2:-1]), parts[-1]


def _part(folder: str, name: str, extra: Sequence[str] = ()) -> Path:
    path = CONFIGS / folder / name
    if not path.is_file():
        there = [*sorted(file.stem for file in (CONFIGS / folder).glob("*.yaml") if file.stem != "timm"), *extra]
        raise FileNotFoundError(f"configs/{folder} has no {path.stem}; there are {', '.join(there)}")
    return path


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` wins; mappings are merged, but one of another ``type`` replaces the whole."""
    merged = copy.deepcopy(dict(below))
    for name, value in above.items():
        old = merged.get(name)
        alike = isinstance(old, dict) and isinstance(value, dict) and value.get("type", old.get("type")) == old.get("type")
        merged[name] = _merge(old, value) if alike and name != "loss" else copy.deepcopy(value)
    return merged


# ---------------------------------------------------------------------------------------------- checking


def check(raw: Mapping[str, Any]) -> Config:
    """Raises ValueError for entries that are unknown, missing or wrong."""
    entries = copy.deepcopy(dict(raw))
    for name, kind in (("data", Data), ("preprocess", Preprocess), ("augment", Augment), ("train", Recipe)):
        entries[name] = _section(name, kind, entries.get(name, {}))
    entries.setdefault("known", ["clean"])
    entries.setdefault("name", stage_name(entries, entries.get("stage", "")))
    if not isinstance(entries["known"], list | tuple):
        raise ValueError(f"known: {tree.shown(entries['known'])} is not a list of degradations")
    config = _section("", Config, {**entries, "raw": copy.deepcopy(dict(raw)), "known": tuple(entries["known"])})
    _one_of("view", config.view, ("clean", "degraded", "adapted"))
    _one_of("made", config.made, ("fly", "trees"))
    for name, value in (("name", config.name), ("data.train", config.data.train), ("data.val", config.data.val)):
        tree.check_name(value, f"{name}:")  # they become folders
    for kind in config.known:
        _one_of("known", kind, ("clean", *DEGRADATIONS))
    if not config.known or len(set(config.known)) < len(config.known):
        raise ValueError(f"known: {list(config.known)} must name each degradation once")
    _check_losses(config)
    _check_training(config)
    classes = tree.class_list(config.data.classes)
    head = config.classifier.get("head", {})
    told = config.classifier.get("num_classes", head.get("num_classes") if isinstance(head, dict) else None)
    if told is not None and told != len(classes):
        raise ValueError(f"classifier: num_classes {told}, but data.classes {config.data.classes} has {len(classes)} classes")
    return config


def _check_losses(config: Config) -> None:
    for loss, weight in config.loss.items():
        _one_of("loss", loss, (*SUPERVISED, *FROM_TEACHERS))
        if not settings.is_of(weight, float) or weight < 0:
            raise ValueError(f"loss.{loss}: {weight!r} is no weight")
    if bool(set(config.loss) & set(FROM_TEACHERS)) != bool(config.teachers):
        raise ValueError(f"loss: {', '.join(FROM_TEACHERS)} and teachers go together; one of them is missing")
    if config.view == "adapted" and not config.data.adapted:
        raise ValueError("view: adapted needs data.adapted, the tree of adapted copies")


def _check_training(config: Config) -> None:
    recipe = config.train
    if not (recipe.epochs or recipe.steps or recipe.minutes):
        raise ValueError("train: give a budget, one of epochs, steps, minutes")
    for name in ("epochs", "steps", "minutes", "batch_size", "warmup", "clip_norm", "early_stop"):
        value = getattr(recipe, name)
        if value is not None and (not isinstance(value, int | float) or value < 0 or (name == "batch_size" and value < 1)):
            raise ValueError(f"train.{name}: {value!r} is not a number of 0 or more")
    make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    learning_rate(config, 0.0, 0)
    share = config.data.held_out
    if share is not None and (not isinstance(share, float) or not 0 < share < 1):
        raise ValueError(f"data.held_out: {share!r} is no share between 0 and 1 of the training images")


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
    except TypeError as error:
        raise ValueError(f"{name or 'config'}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {value!r} is unknown; use one of {', '.join(known)}")


def make_optimizer(config: Config, parameters) -> torch.optim.Optimizer:
    """Of torch.optim, by its name there. Raises ValueError for an unknown one, or for settings that it does not take."""
    chosen = dict(config.optimizer)
    kind = getattr(torch.optim, str(chosen.pop("type", None)), None)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(
            f"optimizer.type: {config.optimizer.get('type')!r} is no optimizer of torch.optim, such as SGD, RAdam, AdamW"
        )
    if not isinstance(chosen.get("lr"), int | float) or chosen["lr"] <= 0:
        raise ValueError(f"optimizer.lr: {chosen.get('lr')!r} is not a number above 0")
    try:
        return kind(parameters, **chosen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {kind.__name__} does not take these settings: {error}") from None


def learning_rate(config: Config, spent: float, step: int) -> float:
    """At a share 0..1 of the budget. Milestones are epochs of train.epochs; a budget in steps or minutes stretches them."""
    schedule = dict(config.schedule)
    kind = schedule.pop("type", None)
    _one_of("schedule.type", kind, tuple(SCHEDULES))
    if set(schedule) != set(SCHEDULES[kind]):
        raise ValueError(
            f"schedule: {kind} takes {', '.join(SCHEDULES[kind]) or 'no settings'}, not {', '.join(schedule) or 'none'}"
        )
    rate = config.optimizer["lr"]
    if kind == "cosine":
        rate *= (1 + float(torch.cos(torch.tensor(spent * torch.pi)))) / 2
    elif kind == "multistep":
        if not config.train.epochs:
            raise ValueError("schedule: the milestones of multistep are epochs, so train.epochs must be given")
        rate *= schedule["gamma"] ** sum(
            spent * config.train.epochs >= milestone - 1e-9 for milestone in schedule["milestones"]
        )
    return rate * min(1.0, (step + 1) / config.train.warmup) if config.train.warmup else rate
