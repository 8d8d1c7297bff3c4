"""Images without labels: which of them need an adapted copy, and their classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import files, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import fitted, results
from DDA.model_adapt.ensemble import is_doubtful
from DDA.model_adapt.evaluate import open_classifiers
from DDA.model_adapt.paired import named, refuse
from DDA.model_adapt.settings import Facts, Gate, Prediction
from DDA.progress import Progress, Show
from DDA.sources.cells import cells_of, one_severity
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier

CHUNK = 4096  # images whose scores are held at once


@dataclass(frozen=True)
class Doubtful:
    """The images that need an adapted copy. keys: theirs; total: the number of all images."""

    keys: Sequence[str]
    total: int
    out: Path

    def __str__(self) -> str:
        share = f"{100 * len(self.keys) / self.total:.1f} %"
        text = f"doubtful    {len(self.keys):,} of {self.total:,} images ({share}): {self.out}"
        if self.keys:
            return text
        nothing = "no image needs an adapted copy: image_sample.py with `keys` makes an empty tree"
        return f"{text}\n            {nothing}"


def choose(settings: Gate, show: Show) -> Doubtful:
    """Write the keys of the images of which a classifier is unsure, one a line.

    Raises FileNotFoundError and ValueError.
    """
    gate = (settings.threshold, 1.0)
    if settings.fitted is not None:
        gate = fitted.read_gate(files.find(settings.fitted), settings.classifier)
    classifier = classifiers.load(settings.classifier)
    classifier.network.to(pick_device(settings.device))
    severity = one_severity(settings.severity)
    source = sources.open_source(settings.source, classifier.classes, severity)
    cells = cells_of(
        source, settings.layout, settings.corruption, settings.severity, train=settings.train
    )
    names = [name for cell in cells for name in source.list(cell)[0]]
    if not names:
        suffixes = ", ".join(tree.SUFFIXES)
        raise ValueError(f"no images in {settings.source} (suffixes: {suffixes})")
    progress = show.progress(len(names))
    keys = doubtful(classifier, source, names, gate, settings.batch_size, progress)
    write_keys(settings.out, keys)
    return Doubtful(keys, len(names), settings.out)


def doubtful(
    first: Classifier,
    source: sources.Source,
    names: Sequence[str],
    gate: tuple[float, float],
    batch_size: int,
    progress: Progress,
) -> list[str]:
    """Return the keys of the images whose adapted copies are wanted.

    gate: the threshold of the largest probability, and the temperature at which it is taken. Raises
    ValueError for images that cannot be read.
    """
    keys = []
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        scores = classifiers.score(first, source, part, batch_size=batch_size, progress=progress)
        asked = is_doubtful(torch.from_numpy(scores), *gate).tolist()
        keys += [tree.key_of(name) for name, is_asked in zip(part, asked, strict=True) if is_asked]
    return keys


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Write keys, one a line, as `tree.read_keys` reads them."""
    files.make_folder(path.parent)
    text = "".join(f"{key}\n" for key in keys)
    files.write_bytes(path, text.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class Predicted:
    """The classes of images. rows: what `predict` returns; names: of both classifiers."""

    rows: Sequence[Mapping[str, str]]
    names: tuple[str, str]
    rule: str
    out: Path

    def __str__(self) -> str:
        what = f"{self.rule} of {self.names[0]} and {self.names[1]}"
        return f"written     {self.out}: {len(self.rows):,} images, {what}"


def classify(settings: Prediction, show: Show) -> Predicted:
    """Write the class of each image to a CSV file. Raises FileNotFoundError and ValueError."""
    device = pick_device(settings.device)
    second = settings.first if settings.second is None else settings.second
    opened = open_classifiers([settings.first, second])
    for classifier in opened:
        classifier.network.to(device)
    classes = tree.class_list(settings.classes) if settings.classes else opened[0].classes
    if classes is None:
        raise ValueError(f"{settings.first} does not tell its classes; name them with `classes`")
    params = fitted.parameters(None, *opened, [settings.rule])
    views = [
        sources.open_source(path, classes, settings.severity)
        for path in (settings.degraded, settings.adapted)
    ]
    rows = predict(
        opened,
        views,
        classes,
        rule=settings.rule,
        params=params,
        batch_size=settings.batch_size,
        show=show,
    )
    write_csv(settings.out, rows)
    return Predicted(rows, (opened[0].name, opened[1].name), settings.rule, settings.out)


def predict(
    pair: Sequence[Classifier],
    views: Sequence[sources.Source],
    classes: Sequence[str],
    *,
    rule: str,
    params: Mapping[str, Any],
    batch_size: int,
    show: Show,
) -> list[dict[str, str]]:
    """Return the class of each image, by key, as both classifiers and their combination have it.

    A row has ``key``, ``class`` and ``probability`` of the combination, and the classes that the
    classifiers alone give their views, ``degraded`` and ``adapted``. views: the images as they are,
    and their adapted copies; only the gate leaves images without a copy. params: of rules that are
    fitted. Raises ValueError for images without a copy, and as `classifiers.score_views` does.
    """
    names = [named(view, ".") for view in views]
    keys = sorted(names[0])
    if not keys:
        raise ValueError(f"no images in {views[0].path} (suffixes: {', '.join(tree.SUFFIXES)})")
    without = set(keys) - set(names[1])
    if rule != "gate":
        advice = "adapt them too, or give `rule` gate"
        refuse(without, f"have no copy in {views[1].path}", advice)
    if isinstance(views[1], sources.Folder):
        pair[1].check_adapted(views[1].path)
    progress = show.progress(len(keys))
    rows = [(names[0][key], names[1].get(key)) for key in keys]
    scored = next(
        classifiers.score_views(
            {"first": (pair[0], 0), "second": (pair[1], 1)},
            views,
            [rows],
            batch_size=batch_size,
            classes=classes,
            report=lambda count: progress.add([(count, 0)]),
        )
    )
    facts = Facts(partial=bool(without), ensemble=rule, params=params)
    combined = results.columns({"keys": np.array(keys), **scored}, facts)["combined"]
    chances = results.probabilities("combined", combined, facts)
    columns = zip(keys, chances, scored["first"], scored["second"], strict=True)
    return [
        {
            "key": key,
            "class": classes[row.argmax()],
            "probability": f"{row.max():.4f}",
            "degraded": classes[one.argmax()],
            "adapted": "" if np.isnan(two).any() else classes[two.argmax()],
        }
        for key, row, one, two in columns
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the rows of `predict`, a line for each image."""
    text = io.StringIO()
    names = ("key", "class", "probability", "degraded", "adapted")
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.make_folder(path.parent)
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
