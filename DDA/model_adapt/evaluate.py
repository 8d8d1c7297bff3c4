"""Two classifiers on two views of the same images: in memory (`Ensemble`), and of whole trees."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from DDA import files, inputs, metrics, ranks, sources, tree
from DDA import settings as checks
from DDA.devices import pick_device
from DDA.model_adapt import fitted, results, tables
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, RULES
from DDA.model_adapt.ensemble import FITS, combine, fuse_images, fuse_weights, is_doubtful
from DDA.model_adapt.opening import common_classes, open_classifiers, open_columns
from DDA.model_adapt.paired import Cell, agreed_orientation, join, named
from DDA.model_adapt.settings import Facts, Settings
from DDA.progress import Show
from DDA.sources import Source
from DDA.sources.cells import SPLITS, cells_of, one_severity
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier
from DistilledClassifier.classifiers.scoring import check_scores

if TYPE_CHECKING:
    from DDA.image_adapt.adapter import Adapter

# a classifier as Python names it: its file, or it, or a network and its transform
Named = str | PathLike[str] | Classifier | tuple[nn.Module, Any]

__all__ = ["Ensemble", "Evaluation", "Result", "Settings", "evaluate"]


@dataclass(frozen=True, repr=False)
class Result:
    """The numbers of an evaluation.

    markdown: the tables, or what was fitted. summary: the content of summary.json. out: the folder
    of the scores.
    """

    markdown: str
    out: Path
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def top1(self) -> dict[str, float]:
        """Return the mean accuracy of each column in per cent, by its title."""
        if not self.summary:
            return {}
        facts, overall = Facts.read(self.summary["facts"]), self.summary["all"]
        names = results.shown(overall, facts)
        return {results.title(name, facts): 100 * overall[name]["top1"] for name in names}

    def __repr__(self) -> str:
        columns = ", ".join(f"{title} {value:.1f}" for title, value in self.top1.items())
        return f"<Result {self.out}: top-1 % {columns or 'not counted'}>"

    def _repr_markdown_(self) -> str:
        """Return the tables, as a notebook shows them."""
        return self.markdown


class Scored(NamedTuple):
    """The scores (N,K) of both views of N images, float32 on the CPU, and their combination.

    copied: (N,) tells which images have a copy; second is NaN for the others.
    """

    first: torch.Tensor
    second: torch.Tensor
    combined: torch.Tensor
    copied: torch.Tensor


class Ensemble(nn.Module):
    """Sum what two classifiers say of two views: the degraded image and its adapted copy (DiffAUD).

    It is a torch module from images to logits, so other tools can evaluate it. It stays in
    evaluation mode, its weights are frozen, and its result has no gradient.

    Args:
        first: the classifier of degraded images: a checkpoint, ``timm/<name>``, a `Classifier`, or
            a network of torch and the transform of its evaluation, as a pair.
        second: the classifier of adapted copies (default: the first one, as in DDA's
            self-ensemble).
        adapter: makes the adapted copies. Scores of the rule ``first`` need none.
        rule: a name in `DDA.model_adapt.choices`: sum, entropy, confidence, gate, and so on. The
            rule ``gate`` adapts only the images of which the first classifier is unsure.
        fitted: parameters of the rules weighted_sum and gate, or the JSON file of a fit that holds
            them (default: the file beside the second classifier's weights).
        classes: class names, where the classifiers do not tell them: a list of names, the name of
            a built-in list, or a file.
        device: of the classifiers; the adapter has its own.
        batch_size: images that are scored at once.

    Raises:
        FileNotFoundError: a checkpoint or the fitted parameters are missing.
        ValueError: the classifiers have other classes, the parameters were fitted for other
            weights, or a setting is unknown.

    Example:
        >>> from DDA import Ensemble
        >>> both = Ensemble(first, second, adapter=adapter)
        >>> both(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        first: Named,
        second: Named | None = None,
        *,
        adapter: Adapter | None = None,
        rule: str = "sum",
        fitted: str | PathLike[str] | Mapping[str, Any] | None = None,
        classes: str | PathLike[str] | Sequence[str] | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        checks.check_one_of("rule", rule, (*RULES, *FITTED_RULES, *FUSE_RULES))
        checks.check_at_least(1, batch_size=batch_size)
        is_adapter = callable(getattr(adapter, "pixels", None)) and not isinstance(adapter, type)
        if adapter is not None and not is_adapter:
            raise ValueError(f"`adapter` must be an Adapter, not {tree.shown(adapter)}")
        self.rule, self.adapter, self.batch_size = rule, adapter, batch_size
        opened = open_classifiers({"first": first, "second": first if second is None else second})
        self.classifiers: tuple[Classifier, Classifier] = (opened[0], opened[1])
        self.classes = common_classes(opened, classes)
        self._fitted = fitted
        self._params = self._rule_parameters([rule]).get(rule, {})
        self.networks = nn.ModuleList(classifier.network for classifier in opened)
        self.to(pick_device(device))
        self.eval()
        if self.classes is not None:
            for classifier in opened:
                check_scores(classifier.name, classifier.scores([]).numpy(), self.classes, [])

    def _rule_parameters(self, rules: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the parameters of those of the rules that have some."""
        return fitted.parameters(self._fitted, *self.classifiers, rules)

    def train(self, mode: bool = True) -> Ensemble:
        """Stay in evaluation mode: the weights are frozen and copies are judged as they are."""
        del mode
        return super().train(False)

    def forward(self, images: Any, keys: Sequence[str] | None = None) -> torch.Tensor:
        """Return the logits (N,K) of images, on the device of ``images`` where that is a tensor.

        images, keys: as in `scores`.
        """
        scores = self.scores(images, keys)
        return scores.to(images.device) if isinstance(images, torch.Tensor) else scores

    @torch.no_grad()
    def scores(
        self, images: Any, keys: Sequence[str] | None = None, adapted: Any = None
    ) -> torch.Tensor:
        """Adapt images, score both views and combine the scores.

        Args:
            images: uint8 (N,H,W,3), float (N,3,H,W) in [0,1], PIL images, or a list of images
                of any sizes.
            keys: the key of each image, which seeds the noise of its copy (default: the SHA-256 of
                its uint8 pixels).
            adapted: the copies, where they were made before.

        Returns:
            The combined scores (N,K), float32, on the CPU.

        Raises:
            ValueError: images of another form, or no adapter where the rule needs copies.

        Example:
            >>> both.scores([np.zeros((20, 30, 3), np.uint8)], keys=["photo"]).shape
            torch.Size([1, 10])
        """
        pixels = inputs.read(images)
        names = inputs.keys(pixels, keys)
        copies = None if adapted is None else inputs.read(adapted)
        if copies is not None and len(copies) != len(pixels):
            raise ValueError(f"`adapted` has {len(copies)} images for {len(pixels)} images")
        parts = [] if pixels else [self.classifiers[0].scores([])]
        for first in range(0, len(pixels), self.batch_size):
            part = slice(first, first + self.batch_size)
            own_copies = None if copies is None else copies[part]
            parts.append(self.score_views(pixels[part], names[part], own_copies).combined)
        return torch.cat(parts)

    @torch.no_grad()
    def score_views(
        self,
        pixels: Sequence[np.ndarray],
        keys: Sequence[str],
        copies: Sequence[np.ndarray | None] | None = None,
    ) -> Scored:
        """Return the scores of both views of one batch of images, and their combination.

        pixels: uint8 (H,W,3) of any sizes. keys: as in `scores`. copies: the copies that were made
        before; those that the rule does not ask for may be None. Raises ValueError where a copy is
        missing.
        """
        classifier = self.classifiers[0]
        degraded = classifier.batch([classifier.preprocess.fit(image) for image in pixels])
        first = self._logits(0, degraded)
        wanted = self._wanted(first)
        second = torch.full_like(first, torch.nan)
        if wanted.any():
            own = self._copies(pixels, keys, copies, wanted.nonzero()[:, 0].tolist())
            other = self.classifiers[1]
            second[wanted] = self._logits(1, other.batch([*map(other.preprocess.fit, own)]))
        if self.rule in FUSE_RULES:
            adapted = classifier.batch([*map(classifier.preprocess.fit, own)])
            weights = fuse_weights(first, second, self.rule).to(degraded.device)
            combined = self._logits(0, fuse_images(degraded, adapted, weights))
        else:
            combined = combine(first, second, self.rule, **self._params)
        return Scored(first, second, combined, wanted)

    def _wanted(self, first: torch.Tensor) -> torch.Tensor:
        """Return which images need a copy (N,), given the scores of the first classifier."""
        if self.rule == "gate":
            return is_doubtful(first, self._params["threshold"], self._params["temperatures"][0])
        return torch.full((len(first),), self.rule != "first")

    def _logits(self, view: int, batch: torch.Tensor) -> torch.Tensor:
        return self.classifiers[view].logits(batch).cpu()

    def _copies(
        self, pixels: Sequence[np.ndarray], keys: Sequence[str], copies: Any, wanted: Sequence[int]
    ) -> Sequence[np.ndarray]:
        """Return the adapted copies of the wanted images."""
        if copies is not None:
            missing = [keys[i] for i in wanted if copies[i] is None]
            if missing:
                raise ValueError(
                    f"{missing[0]} has no adapted copy, but the rule {self.rule} asks for one"
                )
            return [copies[i] for i in wanted]
        if self.adapter is None:
            raise ValueError(
                f"the rule {self.rule} needs adapted copies: give the ensemble an `adapter`, or "
                "the copies as `adapted`"
            )
        return list(self.adapter.pixels([pixels[i] for i in wanted], [keys[i] for i in wanted]))

    def evaluate(
        self,
        degraded: str | PathLike[str],
        adapted: str | PathLike[str] | None = None,
        *,
        layout: str = "folder",
        corruption: str | Sequence[str] | None = None,
        severity: int | str | Sequence[int | str] = "all",
        train: bool = False,
        num_samples: int | None = None,
        orientation: str | None = None,
        source: Named | None = None,
        control: Named | None = None,
        beside: Sequence[str] = (),
        scores: str = "logits",
        metrics: Sequence[str] = ("accuracy",),
        out: str | PathLike[str] = "eval",
        quiet: bool = False,
    ) -> Result:
        """Evaluate the ensemble on labelled trees; finished cells are not scored again.

        Args:
            degraded: a tree of degraded images, or a data set's files.
            adapted: the tree of their copies (default: ``out/adapted``, where the adapter makes a
                copy of every image that is evaluated; so every column is there for every rule).
            layout: imagenet, imagenetc, cifar10, cifar10c, digits or folder.
            corruption: one or several folders of the tree (default: all; for ``folder`` the whole
                tree).
            severity: one or several numbers, or ``all``.
            train: the split, for layouts that have one.
            num_samples: at most so many images a cell, the first by key.
            orientation: how photographs are turned, as in `Adapter.folder` (default: as the copies
                were made; ignore where they do not tell).
            source: a classifier of clean images, for columns to compare with.
            control: a classifier of degraded images, trained as long as the first without teachers
                and without adaptation, for a column to compare with.
            beside: other rules whose columns stand beside the result. Their parameters come from
                ``fitted`` too.
            scores: logits, or probabilities as the published code has them.
            metrics: accuracy, calibration, flips and others (`DDA.model_adapt.choices`).
            out: the folder that gets the scores of every image, summary.json and summary.md.
            quiet: print nothing.

        Returns:
            The tables and the numbers of every cell and column.

        Raises:
            FileNotFoundError, ValueError: a view is missing, images have no partner or no class, or
                settings do not go together.

        Example:
            >>> result = both.evaluate(photos, copies, out=out, quiet=True)
            >>> list(result.top1)
            ['first (degraded)', 'second (adapted)', 'sum']
        """
        settings = self._settings(
            degraded,
            adapted,
            layout=layout,
            corruption=corruption,
            severity=severity,
            out=out,
            **_opened(source=source, control=control),
            rules=(self.rule, *_texts(beside)),
            scores=scores,
            metrics=_texts(metrics),
            train=train,
            num_samples=num_samples,
            orientation=orientation,
        )
        return self._run(settings, adapted is None, quiet)

    def fit(
        self,
        degraded: str | PathLike[str],
        adapted: str | PathLike[str] | None = None,
        *,
        layout: str,
        corruption: str | Sequence[str],
        severity: int | str | Sequence[int | str] = "all",
        train: bool = False,
        num_samples: int | None = None,
        orientation: str | None = None,
        out: str | PathLike[str] = "fit",
        quiet: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """Fit the parameters of the rules weighted_sum and gate on known degradations.

        They are stored beside the second classifier's file, where an `Ensemble` with one of these
        rules finds them.

        Args:
            corruption: known degradations only: jpeg, blur, noise, saltpepper, clean.
            degraded, adapted, layout, severity, train, num_samples, orientation, out, quiet: as in
                `evaluate`. Images from which a classifier learnt are left out.

        Returns:
            The parameters of each rule by their names.

        Raises:
            FileNotFoundError, ValueError: as `evaluate`; a corruption is no known degradation, or a
                classifier comes from no file.

        Example:
            >>> params = both.fit(
            ...     known, known, layout="imagenetc", corruption="jpeg", out=out, quiet=True
            ... )
            >>> sorted(params["gate"])
            ['temperatures', 'threshold', 'weight']
        """
        settings = self._settings(
            degraded,
            adapted,
            layout=layout,
            corruption=corruption,
            severity=severity,
            out=out,
            fit=True,
            train=train,
            num_samples=num_samples,
            orientation=orientation,
        )
        self._run(settings, adapted is None, quiet)
        return fitted.parameters(None, *self.classifiers, list(FITTED_RULES))

    def _settings(
        self,
        degraded: str | PathLike[str],
        adapted: str | PathLike[str] | None,
        *,
        layout: str,
        corruption: str | Sequence[str] | None,
        severity: int | str | Sequence[int | str],
        out: str | PathLike[str],
        rules: Sequence[str] = ("sum",),
        **more: Any,
    ) -> Settings:
        """Return the settings of an evaluation or a fit, checked before any work."""
        if self.classes is None:
            raise ValueError(
                f"{self.classifiers[0].name} does not tell its classes; name them with `classes`"
            )
        target = checks.as_path("out", out)
        copies = target / "adapted" if adapted is None else checks.as_path("adapted", adapted)
        chosen = ([] if layout == "folder" else ["all"]) if corruption is None else corruption
        checks.check_writable("out", target)
        return Settings(
            first=self.classifiers[0],
            second=self.classifiers[1],
            degraded=files.find(checks.as_path("degraded", degraded)),
            adapted=files.find(copies),
            out=target,
            layout=layout,
            corruption=_texts(chosen),
            severity=_texts(severity),
            rules=rules,
            batch_size=self.batch_size,
            classes=self.classes,
            params=self._rule_parameters(rules),
            **more,
        )

    def _run(self, settings: Settings, makes_copies: bool, quiet: bool) -> Result:
        """Make the copies if these are wanted, and evaluate or fit."""
        _check_exists("degraded", settings.degraded)
        if makes_copies:
            self._make_copies(settings, quiet)
        device, show = f"{self.classifiers[0].device}", Show(quiet=quiet)
        return ranks.alone(lambda world: evaluate(settings, device, world, show))

    def _make_copies(self, settings: Settings, quiet: bool) -> None:
        """Make the copies of the images that are evaluated.

        Raises ValueError without an adapter, and where a copy failed.
        """
        if self.adapter is None:
            raise ValueError("give the tree of copies as `adapted`, or the ensemble an `adapter`")
        keys = None
        if settings.num_samples is not None:
            view = _open_view("degraded", settings.degraded, self.classes, settings.severity)
            cells = [sorted(named(view, cell)) for cell in _cells(view, settings)]
            keys = {key for names in cells for key in names[: settings.num_samples]}
        has_severities = settings.layout in ("imagenetc", "cifar10c")
        means_all = "all" in settings.severity and not has_severities
        report = self.adapter.folder(
            settings.degraded,
            settings.adapted,
            layout=settings.layout,
            corruption=settings.corruption,
            severity=() if means_all else settings.severity,
            train=settings.train if settings.layout in SPLITS else None,
            keys=keys,
            orientation=settings.orientation,
            quiet=quiet,
        )
        if not report.complete:
            faults = "; ".join(report.faults())
            raise ValueError(
                f"every image that is evaluated needs a copy: {faults}. Mend or remove the images, "
                "and call it again"
            )


# ---------------------------------------------------------------------------------------- trees


def evaluate(
    settings: Settings,
    device: str = "auto",
    world: ranks.World | None = None,
    show: Show | None = None,
) -> Result:
    """Score what is missing, write it, and make the tables, or fit what has parameters.

    device: as `DDA.devices.pick_device` takes it. show: is told the plan. Every process of
    ``world`` takes part; the result is that of rank 0, others get an empty one. Raises what
    `ranks.World.together` raises.
    """
    world, show = world or ranks.World(), show or Show()
    evaluation = world.together(lambda: Evaluation(settings, pick_device(device, world.local_rank)))
    missing = world.on_root(evaluation.missing)
    cells = [cell for cell in evaluation.cells if cell.name in missing]
    if world.rank == 0:
        show.say(evaluation.plan(world.size))
        if len(cells) < len(evaluation.cells):
            finished = len(evaluation.cells) - len(cells)
            show.say(f"done        {finished} cells are in {settings.out} already")
    progress = show.progress(sum(len(cell.keys) for cell in cells), world.size)
    for cell, part in zip(cells, evaluation.score(cells, world), strict=True):
        parts = world.gather(part)
        if world.rank == 0:
            columns = interleaved(parts, len(cell.keys))
            results.write(settings.out, cell, columns, missing[cell.name])
            progress.add(world.reports())
    if world.rank:
        return Result("", settings.out)
    progress.add(world.reports())
    if settings.fit:
        return Result(evaluation.fit(), settings.out)
    summary = tables.summarise(settings.out, evaluation.facts())
    return Result(tables.markdown(summary), settings.out, summary)


def interleaved(parts: Sequence[Mapping[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Return the columns of all images of a cell from those of each rank.

    Rank r of n had the rows r, r + n, and so on. A rank without rows has no columns.
    """
    rows = np.concatenate([np.arange(rank, count, len(parts)) for rank in range(len(parts))])
    order = rows.argsort()
    return {
        name: np.concatenate([part[name] for part in parts if part])[order] for name in parts[0]
    }


class Evaluation:
    """The cells, the classifiers, and the scores that these give.

    columns: which classifier sees which view (0 degraded, 1 adapted). Raises ValueError and
    FileNotFoundError for what is missing or does not go together.
    """

    def __init__(self, settings: Settings, device: torch.device):
        self.settings = settings
        self.columns = open_columns(settings, device)
        self._first, self._second = (self.columns[name][0] for name in ("first", "second"))
        opened = [classifier for classifier, _ in self.columns.values()]
        classes = common_classes(opened, settings.classes)
        if classes is None:
            raise ValueError(
                f"{self._first.name} does not tell its classes; name them with `classes`"
            )
        self.classes = classes
        self.orientation = agreed_orientation(settings.orientation, settings.adapted)
        self.views = (
            _open_view("degraded", settings.degraded, classes, settings.severity, self.orientation),
            _open_view("adapted", settings.adapted, classes, settings.severity),
        )
        if isinstance(self.views[1], sources.Folder):
            self._second.check_adapted(self.views[1].path)
        self._digests = fitted.digests_of(*opened)
        if settings.fit:
            fitted.path_of(self._first, self._second)  # before the work
        self.params = settings.params or fitted.read(
            self._first, self._second, settings.rules, self._digests
        )
        self.cells = self._join()

    def _join(self) -> list[Cell]:
        """Return the cells with their pairs of images."""
        settings = self.settings
        names = _cells(self.views[0], settings)
        if "mCE" in settings.metrics:
            metrics.check_mce(names)
        gated = list(settings.rules) == ["gate"]
        return [
            join(*self.views, name, self.classes, partial(self._choose, name), gated)
            for name in names
        ]

    def _choose(self, cell: str, keys: list[str]) -> list[str]:
        """Return the keys that are evaluated.

        To fit, these are only images that neither classifier learnt from, where checkpoints tell
        which.
        """
        share = self._held_out() if self.settings.fit else None
        if share is not None:
            keys = [key for key in keys if tree.is_held_out(key.removeprefix(f"{cell}/"), share)]
        return keys[: self.settings.num_samples]

    def _held_out(self) -> float | None:
        shares = {self._first.held_out, self._second.held_out} - {None}
        return min(shares, default=None)

    # ------------------------------------------------------------------------------------ scores

    def missing(self) -> dict[str, str]:
        """Return the cells without scores of these weights and images: name to digest."""
        held = [
            None if isinstance(view, sources.Folder) else _stamps(view.files) for view in self.views
        ]
        digests = {cell.name: self._digest(cell, held) for cell in self.cells}
        return {
            cell.name: digests[cell.name]
            for cell in self.cells
            if not results.is_complete(self.settings.out, cell, digests[cell.name])
        }

    def _digest(self, cell: Cell, held: Sequence[list | None]) -> str:
        """Return a digest of everything that decides a cell's scores.

        These are the weights, the images and what is blended. Files are told by size and time.
        held: the files of each view that is no folder of images.
        """
        settings = self.settings
        blends = [settings.rules[0], settings.scores] if self._blends else []
        looks = [
            [classifier.name, self._digest_of(classifier), view]
            for classifier, view in self.columns.values()
        ]
        pipelines = [[str(step) for step in steps] for steps in settings.pipelines]
        stamps = []
        for view, names, own in zip(self.views, (cell.first, cell.second), held, strict=True):
            paths = (view.where(name) for name in names if name is not None)
            stamps += _stamps(paths) if own is None else own
        content = [looks, blends, pipelines, cell.keys, cell.second, stamps]
        if self.orientation != "ignore":  # what older versions did, whose digests stay
            content.append(self.orientation)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _digest_of(self, classifier: Classifier) -> str | None:
        """Return what tells a classifier's weights from others."""
        if classifier.path is not None:
            return self._digests[classifier.path]
        return fitted.digest_of_weights(classifier)

    @property
    def _blends(self) -> bool:
        return self.settings.rules[0] in FUSE_RULES

    def score(self, cells: Sequence[Cell], world: ranks.World) -> Iterator[dict[str, np.ndarray]]:
        """Yield for each cell the logits (n,K) of each column for this rank's images."""
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

    def _judge_blends(self, batches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return each column's logits; combined: those of the first classifier for the blends."""
        logits = {
            name: classifier.logits(batches[name]) for name, (classifier, _) in self.columns.items()
        }
        pair = (
            results.as_scores(logits[name], self.settings.scores) for name in ("first", "second")
        )
        weights = fuse_weights(*pair, self.settings.rules[0])
        blended = fuse_images(batches["first"], batches["combined"], weights)
        return {**logits, "combined": self._first.logits(blended)}

    # ------------------------------------------------------------------------ what comes of them

    def fit(self) -> str:
        """Fit what has parameters on the cells' scores, store it, and return it as text."""
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
        words = "; ".join(f"{rule}: {tables.say_params(own)}" for rule, own in params.items())
        return f"fitted      {words}\n            on {len(labels):,} images: {path}"

    def facts(self) -> Facts:
        """Return what stands beside every number."""
        settings = self.settings
        return Facts(
            first=_text(settings.first),
            second=_text(settings.second),
            source=None if settings.source is None else _text(settings.source),
            control=None if settings.control is None else _text(settings.control),
            scores=settings.scores,
            topk=settings.topk,
            baseline=settings.baseline,
            layout=settings.layout,
            num_samples=settings.num_samples,
            ensemble=settings.rules[0],
            beside=list(settings.rules[1:]),
            params=self.params,
            partial=any(None in cell.second for cell in self.cells),
            metrics=list(settings.metrics),
            degraded=str(settings.degraded),
            adapted=str(settings.adapted),
            severity=one_severity(settings.severity),
            orientation=self.orientation,
            classes=list(self.classes),
            cells=[cell.name for cell in self.cells],
            versions=versions(),
        )

    def plan(self, size: int) -> str:
        """Return what will be done, for people. size: processes."""
        settings, count = self.settings, sum(len(cell.keys) for cell in self.cells)
        words = ("degraded", "adapted")
        looks = [
            f"{name:11} {classifier.name} on {words[view]} images"
            for name, (classifier, view) in self.columns.items()
        ]
        where = f"{len(self.cells)} cells of {settings.degraded} and {settings.adapted}"
        threads = f"{torch.get_num_threads()} threads each"
        lines = [
            f"images      {count:,} in {where}",
            *looks,
            f"combined    {', '.join(settings.rules)} of {settings.scores}",
            f"machine     {size} process(es), {threads}",
        ]
        return "\n".join(lines)


def _opened(**named: Named | None) -> dict[str, Classifier]:
    """Open the classifiers that are given."""
    given = {name: value for name, value in named.items() if value is not None}
    return dict(zip(given, open_classifiers(given, views=(0, 0)), strict=True))


def _open_view(
    name: str,
    path: Path,
    classes: Sequence[str] | None,
    severity: Sequence[str],
    orientation: str = "ignore",
) -> Source:
    """Open a view of the images. Raises FileNotFoundError, which names the setting."""
    _check_exists(name, path)
    return sources.open_source(
        path,
        None if path.is_dir() else classes,
        one_severity(severity),
        upright=orientation == "apply",
    )


def _check_exists(name: str, path: Path) -> None:
    """Raise FileNotFoundError, which names the setting, where there is no such view."""
    if not sources.exists(path):
        makers = "make_data.py and image_sample.py make such trees"
        raise FileNotFoundError(f"`{name}` {path} does not exist; {makers}")


def _texts(values: Any) -> tuple[str, ...]:
    """Return the names or numbers of a setting that holds one or several, as texts."""
    return checks.names_of(checks.as_list(values))


def _cells(view: Source, settings: Settings) -> list[str]:
    """Return the names of the cells that are evaluated. Raises FileNotFoundError for a missing one.

    All corruptions are those without clean images, unless these are named.
    """
    names = cells_of(
        view,
        settings.layout,
        settings.corruption,
        [] if settings.layout in SPLITS else settings.severity,
        train=settings.train,
        leave_out=settings.adapted,
    )
    if "all" in settings.corruption and "clean" not in settings.corruption:
        return [name for name in names if name.split("/")[0] != "clean"]
    return names


def _text(classifier: Any) -> str:
    """Return how a summary names a classifier: its file, or its name."""
    if isinstance(classifier, Classifier):
        return str(classifier.path or classifier.name)
    return str(classifier)


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return by what files are told apart without reading them: name, size and time."""
    return [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths]


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    numbers = {}
    for name in ("diffaud", "torch", "numpy", "mmcls", "timm"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            numbers[name] = metadata.version(name)
    return numbers
