"""Parameters of rules that were fitted on known degradations.

They lie in a JSON file beside the second classifier's weights, and name both files of weights by
their SHA-256.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypedDict

from DDA import files, settings, shapes
from DDA.model_adapt.choices import FITTED_RULES
from DDA.shapes import Share
from DistilledClassifier.classifiers import Classifier, Preprocess

Digests = Mapping[Path, str]
Temperature = Annotated[float, (sys.float_info.min, sys.float_info.max)]


class Parameters(TypedDict, total=False):
    """The parameters of a rule.

    weight: of the second classifier. temperatures: of both. threshold: of the largest probability,
    below which an image is adapted; a fit may give 1.01, which adapts every image.
    """

    weight: Share
    temperatures: Annotated[tuple[Temperature, Temperature], "two numbers above 0"]
    threshold: Annotated[float, (0, 1.01)]


def digests_of(*classifiers: Classifier) -> dict[Path, str]:
    """Return the SHA-256 of each file that classifiers come from."""
    paths = {classifier.path for classifier in classifiers}
    return {path: files.sha256(path) for path in paths if path is not None}


def digest_of_weights(classifier: Classifier) -> str:
    """Return the SHA-256 of the weights and the preprocessing of a classifier without a file."""
    preprocess = classifier.preprocess
    words = f"{preprocess}" if isinstance(preprocess, Preprocess) else ""
    digest = hashlib.sha256(words.encode())
    for name, value in classifier.network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def path_of(first: Classifier, second: Classifier) -> Path:
    """Return where the parameters for two classifiers lie.

    Raises ValueError if these are no files.
    """
    if first.path is None or second.path is None:
        raise ValueError(
            f"{', '.join(FITTED_RULES)} are fitted for two files of weights, and stored beside "
            "the second: give files as `first` and `second`, not timm/…"
        )
    return second.path.with_suffix(".fitted.json")


def write(
    first: Classifier, second: Classifier, params: Mapping[str, Any], digests: Digests
) -> Path:
    """Store parameters and what stands beside them, and return where."""
    path = path_of(first, second)
    files.write_json(path, {**params, **_weights(first, second, digests)})
    return path


def read(
    first: Classifier, second: Classifier, rules: Sequence[str], digests: Digests
) -> dict[str, dict[str, Any]]:
    """Return the stored parameters of those of the rules that have some.

    Raises FileNotFoundError, and ValueError where they were fitted for other weights.
    """
    rules = [rule for rule in rules if rule in FITTED_RULES]
    if not rules:
        return {}
    path = path_of(first, second)
    if not path.is_file():
        how = "fit it first, on known degradations (`Ensemble.fit`, test_ensemble.py with `fit`)"
        raise FileNotFoundError(f"{path} does not exist: {how}")
    stored, weights = _stored(path), _weights(first, second, digests)
    if not weights.items() <= stored.items():
        raise ValueError(
            f"{path} was fitted for other checkpoints; fit it anew (test_ensemble.py with `fit`)"
        )
    return {rule: of_rule(stored, rule, f"{path}: ") for rule in rules}


def parameters(
    given: str | PathLike[str] | Mapping[str, Any] | None,
    first: Classifier,
    second: Classifier,
    rules: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return the parameters of those of the rules that have some.

    given: the parameters of one rule, those of several rules by their names, or the JSON file that
    holds them (default: the file beside the second classifier). Raises FileNotFoundError, and
    ValueError where parameters are missing or were fitted for other weights.
    """
    rules = [rule for rule in rules if rule in FITTED_RULES]
    if not rules:
        return {}
    if given is None:
        return read(first, second, rules, digests_of(first, second))
    if isinstance(given, Mapping):
        return {rule: of_rule(given, rule) for rule in rules}
    path = files.find(settings.as_path("fitted", given))
    stored = _stored(path)
    pair = {"first_sha256": first, "second_sha256": second}
    for name, classifier in pair.items():
        if name in stored and classifier.path is not None:
            _check_weights(path, stored[name], classifier.path)
    return {rule: of_rule(stored, rule, f"{path}: ") for rule in rules}


def of_rule(
    stored: Mapping[str, Any], rule: str, place: str = "", name: str = "fitted"
) -> dict[str, Any]:
    """Return the parameters of a rule. Raises ValueError for one that is missing or wrong.

    stored: the parameters of rules by their names, or those of this rule alone. place: what a
    message begins with. name: what it calls the parameters.
    """
    entries = stored.get(rule, stored)
    settings.check_kinds({rule: entries}, {rule: dict}, f"{place}{name}.")
    missing = [one for one in FITTED_RULES[rule] if one not in entries]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"{place}`{name}` does not tell {names}, which the rule {rule} needs")
    params = {one: entries[one] for one in FITTED_RULES[rule]}
    fault = shapes.first_fault(params, Parameters, name)
    if fault is not None:
        raise ValueError(f"{place}{fault.as_setting()}")
    return params


def read_gate(path: Path, first: Path) -> tuple[float, float]:
    """Return the gate's threshold and temperature for the file of the first classifier.

    Raises FileNotFoundError, and ValueError where they were fitted for another file.
    """
    stored = _stored(path)
    _check_weights(path, stored.get("first_sha256"), first)
    gate = of_rule(stored, "gate", f"{path}: ")
    return gate["threshold"], gate["temperatures"][0]


def _stored(path: Path) -> dict[str, Any]:
    """Return the content of a file of parameters. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`fitted` {path} does not exist or is no file; `Ensemble.fit` and test_ensemble.py "
            "with `fit` write it"
        )
    return shapes.read_json(path, dict, "fit it anew (test_ensemble.py with `fit`)")


def _check_weights(path: Path, sha256: str | None, weights: Path) -> None:
    """Raise ValueError unless a file of parameters names the SHA-256 of these weights."""
    if sha256 != files.sha256(weights):
        raise ValueError(
            f"`fitted` {path} was fitted for another classifier than {weights}; fit it anew "
            "(test_ensemble.py with `fit`)"
        )


def _weights(first: Classifier, second: Classifier, digests: Digests) -> dict[str, str]:
    return {"first_sha256": digests[first.path], "second_sha256": digests[second.path]}
