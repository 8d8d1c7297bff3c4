"""The scores of every image on disk, and the columns that are made of them.

``<out>/<severity>/<corruption>.npz`` holds ``keys``, ``labels`` and the logits (N,K) of each column
that was asked for. Tables are made of these files, without the classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from DDA import files, tree
from DDA.model_adapt.choices import FUSE_RULES
from DDA.model_adapt.ensemble import combine
from DDA.model_adapt.paired import Cell
from DDA.model_adapt.settings import Facts

TITLES = {
    "source": "source",
    "source_adapted": "adapted + source",
    "self_ensemble": "self-ensemble",
    "first": "first (degraded)",
    "second": "second (adapted)",
}
BASES = ("source", "self_ensemble", "first")  # columns from which the others are subtracted


def path_of(out: Path, cell: str) -> Path:
    """Return where the scores of a cell lie. Raises ValueError for a name that leads elsewhere."""
    if cell != ".":
        tree.check_name(cell, out / "summary.json")
    corruption, _, severity = cell.partition("/")
    return out / (severity or "0") / f"{'all' if corruption == '.' else corruption}.npz"


def write(out: Path, cell: Cell, columns: Mapping[str, np.ndarray], digest: str = "") -> None:
    """Write the scores of a cell's images. digest: of everything that decided them."""
    path = path_of(out, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"keys": np.array(cell.keys), "labels": cell.labels, "digest": np.array(digest)}
    files.write_with(path, lambda file: np.savez(file, **content, **columns))


def is_complete(out: Path, cell: Cell, digest: str) -> bool:
    """Tell whether the scores of a cell from an earlier run have this digest."""
    try:
        return str(read(out, cell.name).get("digest")) == digest
    except (FileNotFoundError, ValueError):
        return False


def read(out: Path, cell: str) -> dict[str, np.ndarray]:
    """Return ``keys``, ``labels`` and columns of a cell. Raises FileNotFoundError, ValueError."""
    path = path_of(out, cell)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run test_ensemble.py again")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); run test_ensemble.py again") from None


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
    scores = {name: stored[name] for name in ("source", "first") if name in stored}
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
