"""The one scorer: images are read, prepared, run in batches through a classifier, and checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import ahead, inputs, ledger, settings, sources
from DDA.devices import Parts
from DDA.progress import Progress
from DistilledClassifier.classifiers.network import Network
from DistilledClassifier.classifiers.preprocess import Preprocess


@dataclass(frozen=True, repr=False)
class Classifier:
    """A trained network with all that its checkpoint tells; `classifiers.load` makes one.

    Args:
        network: in eval mode.
        preprocess: a `Preprocess`, or an object with its two methods.
        classes: the names of the classes in the order of the logits, None where nobody says them.
        config: the config that trained it.
        adapted: the settings of the adapted copies that it learnt from.
        path: its file, if it comes from one.

    Example:
        >>> network = classifiers.build({"type": "CifarResNet", "depth": 8, "num_classes": 3})
        >>> classifier = Classifier(classifiers.still(network), Preprocess(8))
        >>> classifier.scores([np.zeros((20, 30, 3), np.uint8)]).shape
        torch.Size([1, 3])
    """

    network: Network
    preprocess: Preprocess
    classes: tuple[str, ...] | None = None
    config: dict = field(default_factory=dict)
    adapted: dict | None = None
    path: Path | None = None
    _parts: Parts = field(default_factory=Parts, init=False, compare=False)

    def __repr__(self) -> str:
        kind = self.config.get("classifier", {}).get("type", type(self.network.model).__name__)
        classes = "unnamed classes" if self.classes is None else f"{len(self.classes)} classes"
        return f"<Classifier {self.name}: {kind}, {classes}, on {self.device}>"

    @property
    def name(self) -> str:
        """Return the name for messages and tables."""
        if self.path is not None:
            return self.path.stem
        return self.config.get("classifier", {}).get("name", "the classifier")

    @property
    def held_out(self) -> float | None:
        """Return the share of the training images that was kept from it for validation."""
        return self.config.get("data", {}).get("held_out")

    @property
    def device(self) -> torch.device:
        """Return the device of its network."""
        return next(self.network.parameters()).device

    def batch(self, fitted: Sequence[np.ndarray]) -> torch.Tensor:
        """Return float (N,3,H,W), on its device, of images that its preprocessing has fitted."""
        return self.preprocess.normalise(torch.from_numpy(np.stack(fitted)).to(self.device))

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the logits (N,K), float32, of a batch (N,3,H,W), as `batch` makes it.

        The network computes in the precision of its weights, in parts where the batch does not fit
        into the memory.
        """
        dtype = next(self.network.parameters()).dtype

        def judge(part: slice) -> torch.Tensor:
            return self.network(batch[part].to(dtype))[1].float()

        return torch.cat(self._parts.work(judge, len(batch), self.device))

    @torch.no_grad()
    def scores(self, images: Any, batch_size: int = 128) -> torch.Tensor:
        """Return the logits of images.

        Args:
            images: uint8 (N,H,W,3) or float (N,3,H,W) in [0,1] as an array or a tensor, a PIL
                image, or a list of images of any sizes (`DDA.inputs.read`). Floats are rounded to
                256 levels.
            batch_size: images at once. It changes speed and memory only.

        Returns:
            Float32 (N,K) on the CPU; (0,K) for no images.

        Raises:
            ValueError: images of another form, or a batch size below 1.

        Example:
            >>> network = classifiers.build({"type": "CifarResNet", "depth": 8, "num_classes": 3})
            >>> classifier = Classifier(network.eval(), Preprocess(32))
            >>> classifier.scores(np.zeros((2, 8, 8, 3), np.uint8)).shape
            torch.Size([2, 3])
        """
        settings.check_at_least(1, batch_size=batch_size)
        pixels = inputs.read(images)
        if not pixels:  # a blank image tells the number of classes
            return self.scores(np.zeros((1, 32, 32, 3), np.uint8))[:0]
        parts = []
        for first in range(0, len(pixels), batch_size):
            fitted = [self.preprocess.fit(image) for image in pixels[first : first + batch_size]]
            parts.append(self.logits(self.batch(fitted)).cpu())
        return torch.cat(parts)

    def check_adapted(self, copies: Path) -> None:
        """Raise ValueError where copies were adapted otherwise than those it learnt from.

        How photographs were turned and fitted belongs to the images, not to their adaptation.
        """
        theirs = None if self.adapted is None else ledger.read_settings(copies)
        if theirs is None:
            return
        own = self.adapted | {name: theirs.get(name, ledger.ABSENT[name]) for name in ledger.ABSENT}
        if differ := ledger.differences(theirs, own, "in training"):
            raise ValueError(
                f"{copies} was adapted with other settings than the training copies of "
                f"{self.path}: {'; '.join(differ)}; adapt both alike"
            )


def score(
    classifier: Classifier,
    source: sources.Source,
    names: Sequence[str],
    *,
    batch_size: int = 128,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the logits, float32 (N,K), of images of a source, of which there is at least one.

    names: the names of the images in the source. classes: those of the images (default: the
    classifier's). progress: counts these images too (default: a new count). Raises ValueError as
    `check_scores` does, and for images that cannot be read.
    """
    progress = progress or Progress(len(names))
    groups = score_views(
        {"": (classifier, 0)},
        [source],
        [[(name,) for name in names]],
        batch_size=batch_size,
        classes=classes or classifier.classes,
        report=lambda count: progress.add([(count, 0)]),
    )
    return next(groups)[""]


Columns = Mapping[str, tuple[Classifier, int]]  # which classifier sees which view
Row = Sequence[str | None]  # an image's name in each view; None where it has none
Batch = tuple[int, Sequence[Row]]  # the number of a group, and some of its rows


@torch.inference_mode()
def score_views(
    columns: Columns,
    views: Sequence[sources.Source],
    groups: Iterable[Sequence[Row]],
    *,
    batch_size: int,
    classes: Sequence[str] | None,
    report: Callable[[int], object],
    judge: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield, for each group of images, the logits of each column.

    The logits are float32 (N,K), NaN where a view lacks the image. Each image is read once for each
    view. While a GPU works the next batches are read, also those of the next group; a CPU has no
    core to spare for that. A group without images gives no columns.

    columns: which classifier sees which view. classes: those of the images. report: is told how
    many images each batch had. judge: makes the logits of each column of the batches of all columns
    (default: each column's own classifier). Raises ValueError as `check_scores` does, and for
    images that cannot be read.
    """

    def own_logits(batches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: columns[name][0].logits(batch) for name, batch in batches.items()}

    threads = int(any(classifier.device.type != "cpu" for classifier, _ in columns.values()))
    fitted = ahead.prepared(
        partial(_fit, columns, views), _batches(groups, batch_size), threads=threads, most=3
    )
    for _, batches in itertools.groupby(fitted, key=lambda batch: batch[0]):
        parts = []
        for _, rows, images in batches:
            seen = {name: columns[name][0].batch(images[name]) for name in columns if images[name]}
            logits = (judge or own_logits)(seen) if seen else {}
            parts.append(_checked(columns, rows, logits, classes))
            report(len(rows))
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batches(groups: Iterable[Sequence[Row]], size: int) -> Iterator[Batch]:
    """Yield the batches of all groups; a group without images has one batch without."""
    for number, rows in enumerate(groups):
        for first in range(0, max(1, len(rows)), size):
            yield number, rows[first : first + size]


def _fit(
    columns: Columns, views: Sequence[sources.Source], batch: Batch
) -> tuple[int, Sequence[Row], dict[str, list]]:
    """Return a batch with its images, read and fitted for each column."""
    number, rows = batch
    pixels = [
        [sources.read_pixels(source, row[view]) for row in rows if row[view] is not None]
        for view, source in enumerate(views)
    ]
    fitted = {
        name: list(map(classifier.preprocess.fit, pixels[view]))
        for name, (classifier, view) in columns.items()
    }
    return number, rows, fitted


def _checked(
    columns: Columns,
    rows: Sequence[Row],
    logits: Mapping[str, torch.Tensor],
    classes: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """Return checked logits on the CPU, NaN where the view of a column lacks the image."""
    scores = {}
    for name, (classifier, view) in columns.items() if rows else ():
        width = next(iter(logits.values())).shape[1]
        scores[name] = np.full((len(rows), width), np.nan, np.float32)
        present = [i for i, row in enumerate(rows) if row[view] is not None]
        if present:
            values = logits[name].cpu().numpy()
            check_scores(classifier.name, values, classes, [rows[i][view] for i in present])
            scores[name][present] = values
    return scores


def check_scores(
    name: str, scores: np.ndarray, classes: Sequence[str] | None, images: Sequence[Any]
) -> None:
    """Raise ValueError where scores (N,K) have another number of classes, or are not finite.

    name: of the classifier. classes: None where any number is right. images: their names.
    """
    if classes is not None and scores.shape[1] != len(classes):
        raise ValueError(
            f"{name} gives scores of {scores.shape[1]} classes, but the images have "
            f"{len(classes)}; take a classifier of these classes, or give its own class list"
        )
    damaged = [
        image
        for image, finite in zip(images, np.isfinite(scores).all(1), strict=True)
        if not finite
    ]
    if damaged:
        raise ValueError(
            f"the scores of {name} are not finite numbers, first those of {damaged[0]}: weights "
            "are damaged; get them again"
        )
