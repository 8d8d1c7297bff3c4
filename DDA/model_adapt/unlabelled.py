"""Images without labels: which of them need an adapted copy, and what classes two classifiers give
them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import files, sources, tree
from DDA.model_adapt import results
from DDA.model_adapt.ensemble import is_doubtful
from DDA.model_adapt.paired import named, refuse
from DDA.progress import Progress
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier

CHUNK = 4096  # images whose scores are held at once


def doubtful(
    first: Classifier,
    source: sources.Source,
    names: Sequence[str],
    gate: tuple[float, float],
    batch_size: int,
) -> list[str]:
    """The keys of the images of which the classifier is so unsure that their adapted copies are
    wanted.

    gate: the threshold of the largest probability, and the temperature at which it is taken. Raises
    ValueError.
    """
    keys, progress = [], Progress(len(names))
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        scores = torch.from_numpy(
            classifiers.score(first, source, part, batch_size=batch_size, progress=progress)
        )
        keys += [
            tree.key_of(name)
            for name, asked in zip(part, is_doubtful(scores, *gate).tolist(), strict=True)
            if asked
        ]
    return keys


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Write keys, one a line, as `tree.read_keys` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, "".join(f"{key}\n" for key in keys).encode("utf-8", "surrogateescape"))


def predict(
    first: Classifier,
    second: Classifier,
    views: Sequence[sources.Source],
    classes: Sequence[str],
    rule: str,
    params: Mapping[str, Any],
    batch_size: int,
) -> list[dict[str, str]]:
    """What is said of each image, by key: ``key``, ``class`` of the combination, its
    ``probability``, and the classes that each classifier alone says of its view, ``degraded`` and
    ``adapted``.

    views: the images as they are, and their adapted copies; only the gate leaves images without
    one. params: of rules that are fitted. Raises ValueError for images without copy, and as
    `classifiers.score_views` does.
    """
    names = [named(view, ".") for view in views]
    keys = sorted(names[0])
    if not keys:
        raise ValueError(f"no images in {views[0].path} (suffixes: {', '.join(tree.SUFFIXES)})")
    if rule != "gate":
        refuse(
            set(keys) - set(names[1]),
            f"have no copy in {views[1].path}",
            "adapt them too, or give --ensemble gate",
        )
    if isinstance(views[1], sources.Folder):
        second.check_adapted(views[1].path)
    progress = Progress(len(keys))
    scored = next(
        classifiers.score_views(
            {"first": (first, 0), "second": (second, 1)},
            views,
            [[(names[0][key], names[1].get(key)) for key in keys]],
            batch_size=batch_size,
            classes=classes,
            report=lambda count: progress.add([(count, 0)]),
        )
    )
    facts = {
        "partial": not set(keys) <= set(names[1]),
        "ensemble": rule,
        "beside": [],
        "params": params,
        "scores": "logits",
    }
    combined = results.columns({"keys": np.array(keys), **scored}, facts)["combined"]
    chances = results.probabilities("combined", combined, facts)
    said = zip(keys, chances, scored["first"], scored["second"], strict=True)
    return [
        {
            "key": key,
            "class": classes[row.argmax()],
            "probability": f"{row.max():.4f}",
            "degraded": classes[one.argmax()],
            "adapted": "" if np.isnan(two).any() else classes[two.argmax()],
        }
        for key, row, one, two in said
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write what `predict` gave, a line for each image."""
    text = io.StringIO()
    table = csv.DictWriter(
        text, ("key", "class", "probability", "degraded", "adapted"), lineterminator="\n"
    )
    table.writeheader()
    table.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
