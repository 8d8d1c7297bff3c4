"""The accuracy of one classifier on corrupted images, by corruption and severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DDA import commands, files, metrics, sources, tree
from DDA.devices import pick_device
from DDA.progress import Show
from DDA.sources.cells import cells_of, one_severity
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier
from DistilledClassifier.degradations import SEQUENCES
from DistilledClassifier.experiments.config import Config, load
from DistilledClassifier.experiments.settings import Evaluation


@dataclass(frozen=True)
class Accuracy:
    """The top-1 accuracy of a classifier in per cent.

    protocol: what was measured, as a sentence. top1: by corruption, then by severity. counts: the
    number of images of each cell <corruption>/<severity>. mean: the mean of all cells.
    """

    protocol: str
    top1: dict[str, dict[str, float]]
    counts: dict[str, int]
    mean: float

    @property
    def markdown(self) -> str:
        """Return a table in Markdown: a line for each corruption, a column for each severity."""
        severities = sorted({severity for row in self.top1.values() for severity in row})
        rows = []
        for corruption, row in self.top1.items():
            cells = [f"{row[severity]:.1f}" if severity in row else "" for severity in severities]
            rows.append((corruption, *cells, f"{np.mean(list(row.values())):.1f}"))
        rows.append(("**mean of all cells**", *[""] * len(severities), f"{self.mean:.1f}"))
        return commands.grid(("corruption", *severities, "mean"), rows)

    def __str__(self) -> str:
        return f"{self.protocol}\n\n{self.markdown}"

    def as_dict(self) -> dict[str, Any]:
        """Return the plain values that ``corrupt.json`` holds."""
        return asdict(self)


def evaluate(settings: Evaluation, show: Show | None = None) -> Accuracy:
    """Measure a classifier on each cell <corruption>/<severity> of a tree or of a data set's files.

    Args:
        settings: the classifier, the images, and which of them are wanted. With ``out``, that
            folder gets ``corrupt.json`` and ``corrupt.md``.
        show: where the progress is shown.

    Returns:
        The accuracy of each cell, and the mean.

    Raises:
        FileNotFoundError: the config, the classifier or the images are missing.
        ValueError: the weights do not fit, an image has no label or cannot be read, or a setting is
            wrong.
    """
    config = load(settings.config)
    classifier = open_classifier(settings.resume, config)
    classifier.network.to(pick_device(settings.device))
    classes = classifier.classes or config.data.class_names
    source, cells = open_cells(settings, config, classes)
    top1, counts = _measure(classifier, source, cells, classes, settings.batch_size, show or Show())
    protocol = (
        f"top-1 in %, {sum(counts.values())} images in {len(cells)} cells of {source.path}, "
        f"classifier {settings.resume}"
    )
    mean = float(np.mean([value for row in top1.values() for value in row.values()]))
    accuracy = Accuracy(protocol, top1, counts, mean)
    if settings.out is not None:
        files.make_folder(settings.out)
        files.write_json(settings.out / "corrupt.json", accuracy.as_dict())
        files.write_text(settings.out / "corrupt.md", f"{accuracy}")
    return accuracy


def open_classifier(path: Path, config: Config) -> Classifier:
    """Return a classifier that tells itself, or the config's classifier with other weights.

    A checkpoint of this project and a published CIFAR ResNet tell what they want to see. Raises
    FileNotFoundError and ValueError.
    """
    content = classifiers.read(path, "resume")
    if classifiers.is_ours(content):
        return classifiers.load(path, content)
    model = classifiers.unfilled(config.classifier)
    classifier = classifiers.with_weights(path, content, model, config.preprocess)
    return classifiers.load(path, content) if classifiers.tells_itself(content) else classifier


def open_cells(
    settings: Evaluation, config: Config, classes: Sequence[str]
) -> tuple[sources.Source, list[str]]:
    """Return the corrupted images, and the cells that are wanted.

    Raises FileNotFoundError and ValueError.
    """
    data = config.data
    default = data.sequences if settings.sequences else data.corrupted
    if settings.images is None and default is None:
        raise ValueError("`images` is missing: where are the corrupted images?")
    root = settings.images or files.find(default)
    if not root.exists():
        command = "sequence" if settings.sequences else "corrupt"
        raise FileNotFoundError(
            f"`images` {root} does not exist; make_data.py {command} makes such a tree "
            "(dataset/README.md)"
        )
    severities = ("0",) if settings.sequences else settings.severity
    source = sources.open_source(root, None if root.is_dir() else classes, one_severity(severities))
    wanted = list(settings.corruption)
    if settings.sequences and wanted == ["all"]:
        wanted = [name for name in source.folders(".") if name in SEQUENCES]
    cells = cells_of(source, "imagenetc", wanted, severities, train=True)
    if wanted == ["all"]:
        cells = [cell for cell in cells if cell.split("/")[0] != "clean"]
    return source, cells


def _measure(
    classifier: Classifier,
    source: sources.Source,
    cells: Sequence[str],
    classes: Sequence[str],
    batch_size: int,
    show: Show,
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Return the top-1 in per cent of each corruption and severity, and the images of each cell."""
    names = {cell: source.list(cell)[0] for cell in cells}
    counts = {cell: len(images) for cell, images in names.items()}
    progress = show.progress(sum(counts.values()))
    top1: dict[str, dict[str, float]] = {}
    for cell, images in names.items():
        if not images:
            instead = sources.found_instead(source, [cell])
            raise ValueError(f"there are no images in {source.path}/{cell}{instead}")
        labels = tree.labels_of(images, classes, source.where)
        logits = classifiers.score(
            classifier, source, images, batch_size=batch_size, classes=classes, progress=progress
        )
        corruption, severity = cell.split("/")
        top1.setdefault(corruption, {})[severity] = 100 * float(metrics.hits(logits, labels).mean())
    return top1, counts
