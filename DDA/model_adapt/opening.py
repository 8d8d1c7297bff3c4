"""The classifiers of an evaluation: opened as settings name them, on views and with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import nn

from DDA import files, tree
from DDA.model_adapt.settings import Settings
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier


def open_classifiers(
    named: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    pipelines: Sequence[Sequence[Mapping[str, Any]]] = ((), ()),
    views: Sequence[int] = (0, 1),
) -> list[Classifier]:
    """Open classifiers; a file that is named twice is read once.

    named: files, ``timm/<name>``, classifiers, or pairs of a network of torch and its transform, by
    the settings that name them. model, pipelines: for weights of mmcls, the model and the pipeline
    of each view. views: which view (0 or 1) each classifier sees. Raises FileNotFoundError and
    ValueError, which name the setting.
    """
    opened: dict[str, Classifier] = {}
    result = []
    for (setting, value), view in zip(named.items(), views, strict=False):
        if isinstance(value, Classifier):
            result.append(value)
            continue
        if isinstance(value, tuple | list) and value and isinstance(value[0], nn.Module):
            text = f"the network {id(value)}"
            opened[text] = opened.get(text) or _wrapped(setting, value)
            result.append(opened[text])
            continue
        text = _classifier_name(setting, value)
        steps = pipelines[view]
        if text not in opened:
            opened[text] = classifiers.open_classifier(text, model, steps, setting)
        own = opened[text]
        if isinstance(own.preprocess, classifiers.Pipeline):  # each view has a pipeline of its own
            own = replace(own, preprocess=classifiers.Pipeline(steps))
        result.append(own)
    return result


def _wrapped(setting: str, pair: Sequence[Any]) -> Classifier:
    """Return the classifier of a network and its transform. Raises ValueError."""
    if len(pair) != 2:
        raise ValueError(f"`{setting}` is a network and its transform, not {len(pair)} things")
    try:
        return classifiers.wrap(*pair)
    except ValueError as error:
        raise ValueError(f"`{setting}`: {error}") from None


def _classifier_name(setting: str, value: object) -> str:
    """Return the text that names a classifier. Raises ValueError and FileNotFoundError."""
    if not isinstance(value, str | PathLike) or not str(value):
        kind = f"a {type(value).__name__}" if isinstance(value, nn.Module) else tree.shown(value)
        raise ValueError(
            f"`{setting}` must be the path of a checkpoint, timm/<name>, a Classifier, or a "
            f"network and its transform in a pair, not {kind}"
        )
    path = files.find(value)
    is_absent = path.is_dir() or not files.is_there(path)
    if is_absent and not str(value).startswith("timm/"):
        what = "is a folder" if path.is_dir() else "does not exist"
        advice = "give the file of a checkpoint, or timm/<name>"
        raise FileNotFoundError(f"`{setting}` {value} {what}; {advice}")
    return str(value)


def common_classes(
    opened: Sequence[Classifier], listed: str | PathLike[str] | Sequence[str] | None
) -> tuple[str, ...] | None:
    """Return the classes of the first classifier that tells them, else those of a list.

    listed: the name of a built-in list, a file, or the names. Raises ValueError where another
    classifier has other classes.
    """
    lists = {classifier.name: classifier.classes for classifier in opened if classifier.classes}
    if not lists:
        return None if listed is None else tree.class_list(listed)
    first, classes = next(iter(lists.items()))
    for name, others in lists.items():
        if tuple(others) != tuple(classes):
            raise ValueError(f"{name} has other classes than {first}: train both on one class list")
    return tuple(classes)


def open_columns(settings: Settings, device: torch.device) -> dict[str, tuple[Classifier, int]]:
    """Return which classifier sees which view (0 degraded, 1 adapted), on the device."""
    named = {"first": settings.first, "second": settings.second}
    for name in ("source", "control"):
        if getattr(settings, name) is not None:
            named[name] = getattr(settings, name)
    opened = open_classifiers(named, settings.model, settings.pipelines, views=(0, 1, 0, 0))
    columns = {}
    for name, classifier in zip(named, opened, strict=True):
        classifier.network.to(device)
        columns[name] = (classifier, 1 if name == "second" else 0)
    if "source" in columns:
        columns["source_adapted"] = (columns["source"][0], 1)
    return columns
