"""Parameters of rules that were fitted on known degradations: a JSON file beside the second
classifier's weights.

They are of two files of weights, which they name by their SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from DDA import files
from DDA.model_adapt.ensemble import OURS
from DistilledClassifier.classifiers import Classifier

Digests = Mapping[Path, str]


def digests_of(*classifiers: Classifier) -> dict[Path, str]:
    """The SHA-256 of each file that classifiers come from."""
    return {
        path: files.sha256(path)
        for path in {classifier.path for classifier in classifiers}
        if path is not None
    }


def path_of(first: Classifier, second: Classifier) -> Path:
    """Where the parameters for two classifiers lie. Raises ValueError where these are no files."""
    if first.path is None or second.path is None:
        raise ValueError(
            f"{', '.join(OURS)} are fitted for two files of weights, and stored beside the second: give files for "
            "FIRST and --second_model_prefix, not timm/…"
        )
    return second.path.with_suffix(".fitted.json")


def write(
    first: Classifier, second: Classifier, params: Mapping[str, Any], digests: Digests
) -> Path:
    """Store parameters, and what stands beside them; returns where."""
    path = path_of(first, second)
    files.write_json(path, {**params, **_weights(first, second, digests)})
    return path


def read(
    first: Classifier, second: Classifier, rules: Sequence[str], digests: Digests
) -> dict[str, dict[str, Any]]:
    """What was stored for these of the rules that have parameters. Raises FileNotFoundError,
    ValueError.
    """
    rules = [rule for rule in rules if rule in OURS]
    if not rules:
        return {}
    path = path_of(first, second)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: fit it first, on known degradations, with test_ensemble.py --fit"
        )
    stored, weights = files.read_json(path), _weights(first, second, digests)
    if not weights.items() <= stored.items():
        raise ValueError(
            f"{path} was fitted for other checkpoints; fit it anew with test_ensemble.py --fit"
        )
    return {rule: stored[rule] for rule in rules}


def read_gate(path: Path, first: Path) -> tuple[float, float]:
    """The gate's threshold and temperature for the file of the first classifier. Raises
    FileNotFoundError, ValueError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--fitted {path} does not exist; test_ensemble.py --fit writes it")
    stored = files.read_json(path)
    if stored.get("first_sha256") != files.sha256(first) or "gate" not in stored:
        raise ValueError(
            f"--fitted {path} was fitted for another classifier than {first}; fit it anew with "
            "test_ensemble.py --fit"
        )
    return stored["gate"]["threshold"], stored["gate"]["temperatures"][0]


def _weights(first: Classifier, second: Classifier, digests: Digests) -> dict[str, str]:
    return {"first_sha256": digests[first.path], "second_sha256": digests[second.path]}
