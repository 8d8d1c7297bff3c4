"""The scores of every image on disk, and the columns that are made of them, with or without the classifiers at hand.

``<out>/<severity>/<corruption>.npz`` holds ``keys``, ``labels`` and the logits (N,K) of each column that was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from DDA import files, tree
from DDA.model_adapt.ensemble import FUSE_RULES, combine
from DDA.model_adapt.paired import Cell

TITLES = {
    "source": "source",
    "source_adapted": "adapted + source",
    "self_ensemble": "self-ensemble",
    "first": "first (degraded)",
    "second": "second (adapted)",
}
BASES = ("source", "self_ensemble", "first")  # columns from which the others are subtracted


def path_of(out: Path, cell: str) -> Path:
    """Where the scores of a cell lie. Raises ValueError for a name that leads out of the folder."""
    if cell != ".":
        tree.check_name(cell, out / "summary.json")
    corruption, _, severity = cell.partition("/")
    return out / (severity or "0") / f"{'all' if corruption == '.' else corruption}.npz"


def write(out: Path, cell: Cell, columns: Mapping[str, np.ndarray], digest: str = "") -> None:
    """The scores of a cell's images. digest: of all that decided them."""
    path = path_of(out, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(
        path,
        lambda file: np.savez(
            file, keys=np.array(cell.keys), labels=cell.labels, digest=np.array(digest), **columns
        ),
    )


def is_there(out: Path, cell: Cell, digest: str) -> bool:
    """Whether a cell's scores of an earlier run are these."""
    try:
        return str(read(out, cell.name).get("digest")) == digest
    except (FileNotFoundError, ValueError):
        return False


def read(out: Path, cell: str) -> dict[str, np.ndarray]:
    """``keys``, ``labels`` and columns of a cell. Raises FileNotFoundError, ValueError."""
    path = path_of(out, cell)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run test_ensemble.py again")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); run test_ensemble.py again") from None


def as_scores(logits: torch.Tensor, kind: str) -> torch.Tensor:
    """Logits as they are, or as probabilities."""
    return logits.softmax(1) if kind == "probabilities" else logits


def columns(stored: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Column to scores (N,K) of a cell: those on disk, and those that are combined of them."""
    if facts["partial"]:
        return _partial(stored, facts)
    scores = {name: stored[name] for name in TITLES if name in stored}
    if "source" in stored:
        degraded, adapted = (
            part.softmax(1) for part in tensors(stored, "source", "source_adapted")
        )
        scores["self_ensemble"] = ((degraded + adapted) / 2).numpy()
    if facts["ensemble"] in FUSE_RULES:
        return scores | {"combined": stored["combined"]}
    pair = [as_scores(part, facts["scores"]) for part in tensors(stored, "first", "second")]
    params = facts["params"]
    combined = {
        name: combine(*pair, rule, **params.get(rule, {})) for name, rule in rules(facts).items()
    }
    return scores | {name: value.numpy() for name, value in combined.items()}


def tensors(stored: Mapping[str, np.ndarray], *names: str) -> list[torch.Tensor]:
    """Some columns of a cell as tensors."""
    return [torch.from_numpy(stored[name]) for name in names]


def _partial(stored: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What can be said of all images where only those that the gate asks for were adapted.

    Raises ValueError where one of these is missing.
    """
    gated = combine(*tensors(stored, "first", "second"), "gate", **facts["params"]["gate"]).numpy()
    missing = stored["keys"][np.isnan(gated).any(1)].tolist()
    if missing:
        raise ValueError(
            f"{len(missing)} images have no adapted copy, but the gate asks for one: {', '.join(missing[:3])}; "
            "gate.py lists them, image_sample.py --keys adapts them"
        )
    scores = {name: stored[name] for name in ("source", "first") if name in stored}
    return scores | {"combined": gated}


def rules(facts: Mapping[str, Any]) -> dict[str, str]:
    """The combined columns and their rules: the result is ``combined``, those beside it have the rule's name."""
    return {"combined": facts["ensemble"], **{rule: rule for rule in facts["beside"]}}


def title(name: str, facts: Mapping[str, Any]) -> str:
    """What a column is called."""
    return rules(facts).get(name) or TITLES[name]


def probabilities(name: str, scores: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """What a column says as probabilities: sums of probabilities are divided by their sum, logits go through softmax."""
    if name == "self_ensemble" or (
        name in rules(facts)
        and facts["scores"] == "probabilities"
        and facts["ensemble"] not in FUSE_RULES
    ):
        return scores / scores.sum(1, keepdims=True)
    return torch.from_numpy(scores).softmax(1).numpy()


def shown(row: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The columns that a row has, in the order in which people see them."""
    return [name for name in (*TITLES, *rules(facts)) if name in row]
