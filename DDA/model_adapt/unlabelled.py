"""Images without labels: which of them need an adapted copy, and their classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from DDA import ahead, files, inputs, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import fitted
from DDA.model_adapt.ensemble import is_doubtful
from DDA.model_adapt.evaluate import Ensemble, Scored
from DDA.model_adapt.opening import open_classifiers
from DDA.model_adapt.paired import agreed_orientation, named, refuse
from DDA.model_adapt.settings import Gate, Prediction
from DDA.progress import Progress, Show
from DDA.sources.cells import cells_of, fit_of, one_severity, orientation_of
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier
from DistilledClassifier.classifiers.scoring import check_scores

if TYPE_CHECKING:
    from DDA.image_adapt.cache import CachedAdapter

CHUNK = 4096  # images whose scores are held at once
COLUMNS = ("key", "class", "probability", "degraded", "adapted", "status")
DONE = "ok"  # the status of an image that has a class


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
    classifier = classifiers.load(settings.classifier, setting="classifier")
    classifier.network.to(pick_device(settings.device))
    severity = one_severity(settings.severity)
    orientation = settings.orientation or orientation_of(settings.layout)
    upright = orientation == "apply"
    source = sources.open_source(settings.source, classifier.classes, severity, upright=upright)
    cells = cells_of(
        source, settings.layout, settings.corruption, settings.severity, train=settings.train
    )
    names = [name for cell in cells for name in source.list(cell)[0]]
    if not names:
        raise ValueError(
            f"no images in {settings.source} (suffixes: {', '.join(tree.SUFFIXES)})"
            f"{sources.found_instead(source, cells)}"
        )
    progress = show.progress(len(names))
    keys = doubtful(classifier, source, names, gate, settings.batch_size, progress)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    tree.write_keys(settings.out, keys)
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


@dataclass(frozen=True)
class Predicted:
    """The classes of images.

    rows: a mapping for each image, with the columns of the CSV file. names: of both classifiers.
    cache: the folder of the copies that were made.
    """

    rows: Sequence[Mapping[str, str]]
    names: tuple[str, str]
    rule: str
    out: Path
    cache: Path | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Return why an image has no class, by its key."""
        return {row["key"]: row["status"] for row in self.rows if row["status"] != DONE}

    def __str__(self) -> str:
        what = f"{self.rule} of {self.names[0]} and {self.names[1]}"
        text = f"written     {self.out}: {len(self.rows):,} images, {what}"
        if self.cache is None:
            return text
        copied = sum(row["adapted"] != "" for row in self.rows)
        return f"{text}\ncopies      {copied:,}, kept in {self.cache}"


def classify(settings: Prediction, show: Show) -> Predicted:
    """Write the class of each image to a CSV file. Raises FileNotFoundError and ValueError.

    An image that cannot be read, or that has no copy, has a row with its reason.
    """
    pair = open_classifiers({"first": settings.first, "second": settings.second or settings.first})
    rule = settings.rule or _default_rule(settings, pair, show)
    adapter = _adapter(settings)
    both = Ensemble(
        *pair,
        adapter=adapter,
        rule=rule,
        classes=settings.classes,
        device=settings.device,
        batch_size=settings.batch_size,
    )
    if both.classes is None:
        raise ValueError(f"{settings.first} does not tell its classes; name them with `classes`")
    rows = predict(both, _open_views(settings, both.classes), show)
    write_csv(settings.out, rows)
    folder = None if adapter is None else adapter.folder
    return Predicted(rows, (pair[0].name, pair[1].name), rule, settings.out, folder)


def _open_views(settings: Prediction, classes: Sequence[str]) -> list[sources.Source]:
    """Open the images, and their copies if there are some."""
    orientation, copies = settings.orientation or "apply", []
    if settings.adapted is not None:
        orientation = agreed_orientation(settings.orientation, settings.adapted)
        copies = [sources.open_source(settings.adapted, classes, settings.severity)]
    upright = orientation == "apply"
    degraded = sources.open_source(settings.degraded, classes, settings.severity, upright=upright)
    return [degraded, *copies]


def _default_rule(settings: Prediction, pair: Sequence[Classifier], show: Show) -> str:
    """Return the gate where copies are made and one is fitted for these classifiers, else sum."""
    if settings.prior is None:
        return "sum"
    try:
        fitted.parameters(None, *pair, ["gate"])
    except FileNotFoundError:
        return "sum"
    except ValueError as error:
        show.note(f"no gate is used: {error}")
        return "sum"
    return "gate"


def _adapter(settings: Prediction) -> CachedAdapter | None:
    """Return what makes the copies, if the settings name a prior."""
    if settings.prior is None:
        return None
    from DDA.image_adapt.adapter import Adapter
    from DDA.image_adapt.cache import CachedAdapter

    speed, seed = settings.speed or "one-shot", settings.seed or 0
    fit = settings.fit or fit_of("folder")
    adapter = Adapter(settings.prior, speed=speed, seed=seed, fit=fit, device=settings.device)
    return CachedAdapter(adapter, settings.cache)


def predict(both: Ensemble, views: Sequence[sources.Source], show: Show) -> list[dict[str, str]]:
    """Return the class of each image, by key, as both classifiers and their combination have it.

    A row has ``key``, ``class`` and ``probability`` of the combination, the classes that the
    classifiers alone give their views, ``degraded`` and ``adapted``, and a ``status``: ok, or why
    there is no class. views: the images, and their adapted copies unless the ensemble makes them.
    Raises ValueError where images of a tree have no copy that the rule needs.
    """
    names = [named(view, ".") for view in views]
    keys = sorted(names[0])
    if not keys:
        raise ValueError(
            f"no images in {views[0].path} (suffixes: {', '.join(tree.SUFFIXES)})"
            f"{sources.found_instead(views[0])}"
        )
    if len(views) > 1:
        if both.rule not in ("gate", "first"):
            advice = "adapt them too, or give `rule` gate"
            refuse(keys, names[1], f"have no copy in {views[1].path}", advice)
        if isinstance(views[1], sources.Folder):
            both.classifiers[1].check_adapted(views[1].path)

    def read(chunk: Sequence[str]) -> list[_Image]:
        return [_read(key, views, [own.get(key) for own in names]) for key in chunk]

    size = both.batch_size
    chunks = [keys[first : first + size] for first in range(0, len(keys), size)]
    threads = int(both.classifiers[0].device.type != "cpu")
    progress, rows = show.progress(len(keys)), []
    for batch in ahead.prepared(read, chunks, threads=threads, most=3):
        rows += _rows(both, batch)
        failed = sum(row["status"] != DONE for row in rows[-len(batch) :])
        progress.add([(len(batch) - failed, failed)])
    return rows


class _Image(NamedTuple):
    """An image's pixels and those of its copy, if it has one; or why they cannot be read."""

    key: str
    pixels: np.ndarray | None
    copy: np.ndarray | None
    fault: str = ""


def _read(key: str, views: Sequence[sources.Source], names: Sequence[str | None]) -> _Image:
    """Read an image, and its copy where the second view has one."""
    try:
        pixels = [
            None if name is None else sources.read_pixels(view, name)
            for view, name in zip(views, names, strict=True)
        ]
    except (ValueError, OSError) as error:
        return _Image(key, None, None, f"{error}")
    return _Image(key, pixels[0], pixels[1] if len(pixels) > 1 else None)


def _rows(both: Ensemble, batch: Sequence[_Image]) -> list[dict[str, str]]:
    """Return the rows of some images, those that fail among them.

    Raises ValueError where scores are not finite: then the weights are damaged.
    """
    rows = {image.key: _failed_row(image.key, image.fault) for image in batch if image.fault}
    for part, outcome in _scores(both, [image for image in batch if not image.fault]):
        if isinstance(outcome, str):
            rows[part[0].key] = _failed_row(part[0].key, outcome)
        else:
            rows |= _scored_rows(both, [image.key for image in part], outcome)
    return [rows[image.key] for image in batch]


def _scores(
    both: Ensemble, batch: Sequence[_Image]
) -> Iterator[tuple[Sequence[_Image], Scored | str]]:
    """Yield images with their scores, and images that have none with the reason, one by one."""
    if not batch:
        return
    pixels = [image.pixels for image in batch]
    keys, copies = [image.key for image in batch], [image.copy for image in batch]
    if both.adapter is not None:  # a renamed image keeps its copy
        keys, copies = inputs.keys(pixels), None
    try:
        yield batch, both.score_views(pixels, keys, copies)
    except ValueError as error:
        if len(batch) == 1:
            yield batch, f"{error}"
            return
        for image in batch:  # one of them is to blame
            yield from _scores(both, [image])


def _scored_rows(both: Ensemble, keys: Sequence[str], scored: Scored) -> dict[str, dict[str, str]]:
    """Return the rows of images with scores, by key."""
    classes, copied = both.classes, scored.copied.tolist()
    for classifier, scores in zip(both.classifiers, scored[:2], strict=True):
        is_second = scores is scored.second
        shown = [i for i in range(len(keys)) if copied[i] or not is_second]
        check_scores(classifier.name, scores[shown].numpy(), classes, [keys[i] for i in shown])
    chances = scored.combined.softmax(1)
    rows = {}
    for i, key in enumerate(keys):
        rows[key] = {
            "key": key,
            "class": classes[chances[i].argmax()],
            "probability": f"{chances[i].max():.4f}",
            "degraded": classes[scored.first[i].argmax()],
            "adapted": classes[scored.second[i].argmax()] if copied[i] else "",
            "status": DONE,
        }
    return rows


def _failed_row(key: str, reason: str) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "key": key, "status": " ".join(reason.split())}


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the rows of `predict`, a line for each image."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.make_folder(path.parent)
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
