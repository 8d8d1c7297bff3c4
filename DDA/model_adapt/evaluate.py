"""The evaluation of two classifiers on two views of the same images, over any number of processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import metrics, ranks, sources, tree
from DDA.model_adapt import fitted, results, tables
from DDA.model_adapt.ensemble import FITS, FUSE_RULES, fuse_images, fuse_weights
from DDA.model_adapt.paired import Cell, join
from DDA.progress import Progress
from DDA.sources import Source
from DDA.sources.cells import SPLITS, cells_of, one_severity
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and of what.

    first, second, source: the classifiers of degraded images, of adapted copies and of clean images
    (or None), as `classifiers.open_classifier` takes them; model, pipelines: for weights of mmcls,
    the pipelines of both views. rules: the first is the result, the others stand beside it.
    classes: a list by its name, where the first classifier tells none. num_samples: at most so many
    images a cell. fit: fit the rules that have parameters, instead of making tables.
    """

    first: str
    second: str
    degraded: Path
    adapted: Path
    out: Path
    layout: str
    corruptions: Sequence[str]
    severities: Sequence[str]
    source: str | None = None
    rules: Sequence[str] = ("sum",)
    scores: str = "logits"
    metrics: Sequence[str] = ("accuracy",)
    topk: int = 5
    baseline: str | None = None
    train: bool = False
    num_samples: int | None = None
    batch_size: int = 64
    classes: str | None = None
    fit: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    pipelines: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] = ((), ())


def evaluate(
    settings: Settings,
    device: torch.device,
    world: ranks.World | None = None,
    say: Callable[[str], object] = print,
) -> str:
    """Score what is missing, write it, and return the tables as Markdown, or what was fitted.

    say: is told the plan. Every process of ``world`` takes part; the text is that of rank 0, others
    get an empty one. Raises what `ranks.World.together` raises.
    """
    world = world or ranks.World()
    evaluation = world.together(lambda: Evaluation(settings, device))
    missing = world.on_root(evaluation.missing)
    cells = [cell for cell in evaluation.cells if cell.name in missing]
    if world.rank == 0:
        say(evaluation.plan(world.size))
        if len(cells) < len(evaluation.cells):
            say(
                f"done        {len(evaluation.cells) - len(cells)} cells are in {settings.out} already"
            )
    progress = Progress(sum(len(cell.keys) for cell in cells), world.size)
    for cell, part in zip(cells, evaluation.score(cells, world), strict=True):
        parts = world.gather(part)
        if world.rank == 0:
            results.write(
                settings.out, cell, interleaved(parts, len(cell.keys)), missing[cell.name]
            )
            progress.add(world.reports())
    if world.rank:
        return ""
    progress.add(world.reports())
    return evaluation.fit() if settings.fit else tables.summarise(settings.out, evaluation.facts())


def interleaved(parts: Sequence[Mapping[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The columns of all images of a cell, of which rank r of n had the rows r, r + n, …

    A rank without rows has no columns.
    """
    rows = np.concatenate([np.arange(rank, count, len(parts)) for rank in range(len(parts))])
    return {
        name: np.concatenate([part[name] for part in parts if part])[rows.argsort()]
        for name in parts[0]
    }


class Evaluation:
    """The cells, the classifiers, and what these say of the images.

    columns: which classifier sees which view (0 degraded, 1 adapted). Raises ValueError and
    FileNotFoundError for what is missing or does not go together.
    """

    def __init__(self, settings: Settings, device: torch.device):
        self.settings = settings
        self.columns = open_columns(settings, device)
        self._first, self._second = (self.columns[name][0] for name in ("first", "second"))
        self.classes = self._first.classes or tree.class_list(settings.classes)
        for classifier, _ in self.columns.values():
            if classifier.classes and tuple(classifier.classes) != tuple(self.classes):
                raise ValueError(
                    f"{classifier.name} has other classes than {self._first.name}: train both on one class list"
                )
        self.views = (
            self._open("--data_prefix1", settings.degraded),
            self._open("--data_prefix2", settings.adapted),
        )
        if isinstance(self.views[1], sources.Folder):
            self._second.check_adapted(self.views[1].path)
        self._digests = fitted.digests_of(*(classifier for classifier, _ in self.columns.values()))
        if settings.fit:
            fitted.path_of(self._first, self._second)  # before the work
        self.params = fitted.read(self._first, self._second, settings.rules, self._digests)
        self.cells = self._join()

    def _open(self, flag: str, path: Path) -> Source:
        if not path.exists():
            raise FileNotFoundError(
                f"{flag} {path} does not exist; make_data.py and image_sample.py make such trees"
            )
        return sources.open_source(
            path, None if path.is_dir() else self.classes, one_severity(self.settings.severities)
        )

    def _join(self) -> list[Cell]:
        """The cells with their pairs of images."""
        settings = self.settings
        severities = [] if settings.layout in SPLITS else settings.severities
        names = cells_of(
            self.views[0],
            settings.layout,
            settings.corruptions,
            severities,
            train=settings.train,
            leave_out=settings.adapted,
        )
        if "all" in settings.corruptions and "clean" not in settings.corruptions:
            names = [name for name in names if name.split("/")[0] != "clean"]
        if "mCE" in settings.metrics:
            metrics.check_mce(names)
        gated = list(settings.rules) == ["gate"]
        return [
            join(*self.views, name, self.classes, partial(self._choose, name), gated)
            for name in names
        ]

    def _choose(self, cell: str, keys: list[str]) -> list[str]:
        """To fit, only images that neither classifier learnt from, where checkpoints tell which."""
        share = self._held_out() if self.settings.fit else None
        if share is not None:
            keys = [key for key in keys if tree.is_held_out(key.removeprefix(f"{cell}/"), share)]
        return keys[: self.settings.num_samples]

    def _held_out(self) -> float | None:
        shares = {self._first.held_out, self._second.held_out} - {None}
        return min(shares, default=None)

    # ------------------------------------------------------------------------------------------ scores

    def missing(self) -> dict[str, str]:
        """The cells without scores, or with those of other weights or images: name to digest."""
        held = [
            None if isinstance(view, sources.Folder) else _stamps(_files_of(view))
            for view in self.views
        ]
        digests = ((cell, self._digest(cell, held)) for cell in self.cells)
        return {
            cell.name: digest
            for cell, digest in digests
            if not results.is_there(self.settings.out, cell, digest)
        }

    def _digest(self, cell: Cell, held: Sequence[list | None]) -> str:
        """Of all that decides a cell's scores: the weights, the images, what is blended. Files are
        told by size and time.

        held: the files of each view that is no folder of images.
        """
        settings = self.settings
        blends = [settings.rules[0], settings.scores] if self._blends else []
        looks = [
            [classifier.name, self._digests.get(classifier.path), view]
            for classifier, view in self.columns.values()
        ]
        pipelines = [[str(step) for step in steps] for steps in settings.pipelines]
        stamps = []
        for view, names, own in zip(self.views, (cell.first, cell.second), held, strict=True):
            stamps += (
                _stamps(view.path / name for name in names if name is not None)
                if own is None
                else own
            )
        return hashlib.sha256(
            json.dumps([looks, blends, pipelines, cell.keys, cell.second, stamps]).encode()
        ).hexdigest()

    @property
    def _blends(self) -> bool:
        return self.settings.rules[0] in FUSE_RULES

    def score(self, cells: Sequence[Cell], world: ranks.World) -> Iterator[dict[str, np.ndarray]]:
        """For each cell the logits (n,K) of each column, and of blends, of this rank's images."""
        columns = {**self.columns, "combined": (self._first, 1)} if self._blends else self.columns
        groups = (
            list(zip(cell.first, cell.second, strict=True))[world.rank :: world.size]
            for cell in cells
        )
        return classifiers.score_views(
            columns,
            self.views,
            groups,
            batch_size=self.settings.batch_size,
            classes=self.classes,
            judge=self._judge_blends if self._blends else None,
            report=lambda count: world.report((count, 0)),
        )

    def _judge_blends(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each column's logits; combined: those of the first classifier for the blended images."""
        logits = {
            name: classifier.logits(inputs[name]) for name, (classifier, _) in self.columns.items()
        }
        pair = (
            results.as_scores(logits[name], self.settings.scores) for name in ("first", "second")
        )
        blended = fuse_images(
            inputs["first"], inputs["combined"], fuse_weights(*pair, self.settings.rules[0])
        )
        return {**logits, "combined": self._first.logits(blended)}

    # ------------------------------------------------------------------------------------------ what comes of them

    def fit(self) -> str:
        """Fit what has parameters on the cells' scores, store it, and say what it is."""
        parts = [results.read(self.settings.out, cell.name) for cell in self.cells]
        first, second, labels = (
            torch.from_numpy(np.concatenate([part[name] for part in parts]))
            for name in ("first", "second", "labels")
        )
        params = {rule: fit(first, second, labels) for rule, fit in FITS.items()}
        facts = {
            "images": len(labels),
            "cells": [cell.name for cell in self.cells],
            "degraded": str(self.settings.degraded),
            "held_out": self._held_out(),
        }
        path = fitted.write(self._first, self._second, {**params, **facts}, self._digests)
        said = "; ".join(f"{rule}: {tables.say_params(own)}" for rule, own in params.items())
        return f"fitted      {said}\n            on {len(labels):,} images: {path}"

    def facts(self) -> dict[str, Any]:
        """What stands beside every number."""
        settings = self.settings
        kept = ("first", "second", "source", "scores", "topk", "baseline", "layout", "num_samples")
        return {
            **{name: getattr(settings, name) for name in kept},
            "ensemble": settings.rules[0],
            "beside": list(settings.rules[1:]),
            "params": self.params,
            "partial": any(None in cell.second for cell in self.cells),
            "metrics": list(settings.metrics),
            "degraded": str(settings.degraded),
            "adapted": str(settings.adapted),
            "severity": one_severity(settings.severities),
            "classes": list(self.classes),
            "cells": [cell.name for cell in self.cells],
            "versions": versions(),
        }

    def plan(self, size: int) -> str:
        """What will be done, for people. size: processes."""
        settings, count = self.settings, sum(len(cell.keys) for cell in self.cells)
        looks = [
            f"{name:11} {classifier.name} on {('degraded', 'adapted')[view]} images"
            for name, (classifier, view) in self.columns.items()
        ]
        return "\n".join(
            [
                f"images      {count:,} in {len(self.cells)} cells of {settings.degraded} and {settings.adapted}",
                *looks,
                f"combined    {', '.join(settings.rules)} of {settings.scores}",
                f"machine     {size} process(es), {torch.get_num_threads()} threads each",
            ]
        )


def open_columns(settings: Settings, device: torch.device) -> dict[str, tuple[Classifier, int]]:
    """Which classifier sees which view (0 degraded, 1 adapted); a file named twice is read once."""
    opened: dict[str, Classifier] = {}

    def classifier(text: str, view: int) -> Classifier:
        steps = settings.pipelines[view]
        if text not in opened:
            opened[text] = classifiers.open_classifier(text, settings.model, steps)
            opened[text].network.to(device)
        own = opened[text]
        piped = isinstance(
            own.preprocess, classifiers.Pipeline
        )  # each view has a pipeline of its own
        return replace(own, preprocess=classifiers.Pipeline(steps)) if piped else own

    columns = {
        "first": (classifier(settings.first, 0), 0),
        "second": (classifier(settings.second, 1), 1),
    }
    if settings.source:
        source = classifier(settings.source, 0)
        columns |= {"source": (source, 0), "source_adapted": (source, 1)}
    return columns


def _files_of(view: Source) -> list[Path]:
    """The files of a view that is no folder of images."""
    return (
        [view.path]
        if view.path.is_file()
        else sorted(path for path in view.path.glob("*") if path.is_file())
    )


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """By what files are told apart without reading them."""
    return [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths]


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    numbers = {}
    for name in ("diffaud", "torch", "numpy", "mmcls", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            numbers[name] = metadata.version(name)
    return numbers
