"""The scores of every image on disk, and the columns that are made of them.

``<out>/<severity>/<corruption>.npz`` holds ``keys``, ``labels`` and the logits (N,K) of each column
that was asked for. Tables are made of these files, without the classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

import numpy as np
import torch

from DDA import files, tree
from DDA.model_adapt.choices import FUSE_RULES
from DDA.model_adapt.ensemble import combine
from DDA.model_adapt.paired import Cell
from DDA.model_adapt.settings import Facts
from DDA.progress import printable

TITLES = {
    "source": "source",
    "source_adapted": "adapted + source",
    "self_ensemble": "self-ensemble",
    "control": "control (degraded)",
    "first": "first (degraded)",
    "second": "second (adapted)",
}
WHOLE = ("source", "control", "first", "combined")  # columns of images that all have scores
REMEDY = "run test_ensemble.py again"
BASES = (
    "source",
    "self_ensemble",
    "control",
    "first",
)  # columns from which the others are subtracted


def path_of(out: Path, cell: str) -> Path:
    """Return where the scores of a cell lie. Raises ValueError for a name that leads elsewhere."""
    if cell != ".":
        tree.check_name(cell, out / "summary.json")
    corruption, _, severity = cell.partition("/")
    return out / (severity or "0") / f"{'all' if corruption == '.' else corruption}.npz"


def write(out: Path, cell: Cell, columns: Mapping[str, np.ndarray], digest: str = "") -> None:
    """Write the scores of a cell's images. digest: of everything that decided them."""
    path = path_of(out, cell.name)
    files.make_folder(path.parent)
    content = {"keys": np.array(cell.keys), "labels": cell.labels, "digest": np.array(digest)}
    files.write_with(path, lambda file: np.savez(file, **content, **columns))


def is_complete(out: Path, cell: Cell, digest: str) -> bool:
    """Tell whether the scores of a cell from an earlier run have this digest."""
    try:
        return str(read(out, cell.name).get("digest")) == digest
    except (FileNotFoundError, ValueError):
        return False


def read(out: Path, cell: str, facts: Facts | None = None) -> dict[str, np.ndarray]:
    """Return ``keys``, ``labels`` and columns of a cell.

    facts: those of the evaluation, whose columns must be there. Raises FileNotFoundError, and
    BadFile where the file holds anything else.
    """
    path = path_of(out, cell)
    place = printable(str(path))  # the summary tells the cell
    if not path.is_file():
        raise FileNotFoundError(f"{place} does not exist; {REMEDY}")
    with files.parsing(place, "file of scores", REMEDY), np.load(path, allow_pickle=False) as data:
        # `write` does not compress, so no array is larger than the file
        if any(member.compress_type != ZIP_STORED for member in data.zip.infolist()):
            raise files.BadFile(f"{place} is compressed, as no file of scores is; {REMEDY}")
        stored = {name: data[name] for name in data.files}
    fault = _fault_of(stored) or _missing(stored, facts)
    if fault is not None:
        raise files.BadFile(f"{place} is damaged: {fault}; {REMEDY}")
    return stored


def _fault_of(stored: Mapping[str, np.ndarray]) -> str | None:
    """Return in words why arrays are not the scores of images, or None."""
    keys, labels = (stored.get(name, np.zeros(0)) for name in ("keys", "labels"))
    if keys.dtype.kind != "U" or keys.ndim != 1 or not len(keys):
        return f"keys are {keys.dtype} {keys.shape}, but they should be text (N,)"
    if labels.dtype.kind not in "iu" or labels.shape != keys.shape:
        expected = f"whole numbers ({len(keys)},)"
        return f"labels are {labels.dtype} {labels.shape}, but they should be {expected}"
    shape = None
    for name in stored.keys() - {"keys", "labels", "digest"}:
        scores = stored[name]
        shape = shape or scores.shape
        if scores.dtype.kind != "f" or scores.ndim != 2 or scores.shape != (len(keys), shape[1]):
            expected = f"numbers ({len(keys)},K), of the same K classes in each column"
            return f"{name} is {scores.dtype} {scores.shape}, but it should be {expected}"
        if np.isinf(scores).any() or (name in WHOLE and np.isnan(scores).any()):
            return f"{name} holds scores that are not finite"
    if shape is not None and not (labels.min() >= 0 and labels.max() < shape[1]):
        return f"labels are {labels.min()} to {labels.max()}, but there are {shape[1]} classes"
    return None


def _missing(stored: Mapping[str, np.ndarray], facts: Facts | None) -> str | None:
    """Return in words what the columns of an evaluation lack, or None."""
    if facts is None:
        return None
    needed = {"first", "second"} | ({"combined"} if facts.ensemble in FUSE_RULES else set())
    if "source" in stored:
        needed.add("source_adapted")
    if missing := sorted(needed - stored.keys()):
        return f"it has no column {missing[0]}"
    classes = stored["first"].shape[1]
    if facts.classes and len(facts.classes) != classes:
        return f"its scores are of {classes} classes, but the evaluation has {len(facts.classes)}"
    return None


def as_scores(logits: torch.Tensor, kind: str) -> torch.Tensor:
    """Return logits as they are, or as probabilities."""
    return logits.softmax(1) if kind == "probabilities" else logits


def columns(stored: Mapping[str, np.ndarray], facts: Facts) -> dict[str, np.ndarray]:
    """Return the scores (N,K) of each column of a cell: those on disk, and their combinations."""
    if facts.partial:
        return _partial(stored, facts)
    scores = {name: stored[name] for name in TITLES if name in stored}
    if "source" in stored:
        degraded, adapted = (
            part.softmax(1) for part in tensors(stored, "source", "source_adapted")
        )
        scores["self_ensemble"] = ((degraded + adapted) / 2).numpy()
    if facts.ensemble in FUSE_RULES:
        return scores | {"combined": stored["combined"]}
    pair = [as_scores(part, facts.scores) for part in tensors(stored, "first", "second")]
    for name, rule in facts.rules.items():
        scores[name] = combine(*pair, rule, **facts.params.get(rule, {})).numpy()
    return scores


def tensors(stored: Mapping[str, np.ndarray], *names: str) -> list[torch.Tensor]:
    """Return some columns of a cell as tensors."""
    return [torch.from_numpy(stored[name]) for name in names]


def _partial(stored: Mapping[str, np.ndarray], facts: Facts) -> dict[str, np.ndarray]:
    """Return the columns that exist for all images where only some were adapted.

    Raises ValueError where an image that the gate asks for has no copy.
    """
    gated = combine(*tensors(stored, "first", "second"), "gate", **facts.params["gate"]).numpy()
    missing = stored["keys"][np.isnan(gated).any(1)].tolist()
    if missing:
        raise ValueError(
            f"{len(missing)} images have no adapted copy, but the gate asks for one: "
            f"{', '.join(missing[:3])}; gate.py lists them, image_sample.py with `keys` adapts "
            "them"
        )
    scores = {name: stored[name] for name in WHOLE if name in stored}
    return scores | {"combined": gated}


def title(name: str, facts: Facts) -> str:
    """Return the title of a column."""
    return facts.rules.get(name) or TITLES[name]


def probabilities(name: str, scores: np.ndarray, facts: Facts) -> np.ndarray:
    """Return the scores of a column as probabilities.

    Sums of probabilities are divided by their sum; logits go through softmax.
    """
    sums = facts.scores == "probabilities" and facts.ensemble not in FUSE_RULES
    if name == "self_ensemble" or (name in facts.rules and sums):
        return scores / scores.sum(1, keepdims=True)
    return torch.from_numpy(scores).softmax(1).numpy()


def shown(row: Mapping[str, Any], facts: Facts) -> list[str]:
    """Return the columns that a row has, in the order in which people see them."""
    return [name for name in (*TITLES, *facts.rules) if name in row]


@dataclass(frozen=True)
class Answers:
    """The answers of each column to some images.

    labels: (N,). predicted, confidence: of each column, the classes (N,) and the probabilities
    (N,) that it gives them.
    """

    keys: np.ndarray
    labels: np.ndarray
    predicted: Mapping[str, np.ndarray]
    confidence: Mapping[str, np.ndarray]

    def right(self, column: str) -> np.ndarray:
        """Tell for each image whether a column predicts its class: bool (N,)."""
        return self.predicted[column] == self.labels


def answers(out: Path, cell: str, facts: Facts) -> Answers:
    """Return the answers to the images of a cell. Raises FileNotFoundError, ValueError."""
    stored = read(out, cell)
    scores = columns(stored, facts)
    chances = {name: probabilities(name, values, facts) for name, values in scores.items()}
    return Answers(
        stored["keys"],
        stored["labels"],
        {name: values.argmax(1) for name, values in scores.items()},
        {name: values.max(1) for name, values in chances.items()},
    )


def joined(parts: Sequence[Answers]) -> Answers:
    """Return the answers to the images of several cells as one."""
    names = parts[0].predicted
    return Answers(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.labels for part in parts]),
        {name: np.concatenate([part.predicted[name] for part in parts]) for name in names},
        {name: np.concatenate([part.confidence[name] for part in parts]) for name in names},
    )
