"""The summary of an evaluation, read again: ``summary.json`` in the folder of its scores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, TypedDict

from DDA import files, shapes
from DDA.model_adapt import fitted, results
from DDA.model_adapt.choices import FITTED_RULES, FUSE_RULES, METRICS, RULES, SCORES
from DDA.model_adapt.settings import Facts
from DDA.settings import check_one_of
from DDA.shapes import Share

NAME = "summary.json"
REMEDY = "run test_ensemble.py again, which writes it anew"


Difference = Annotated[float, (-1, 1)]


class Gain(TypedDict):
    """The difference of two columns."""

    top1: Difference
    interval: tuple[Difference, Difference]


# numbers that some evaluations have
Measures = TypedDict(
    "Measures",
    {"ECE": float, "NLL": float, "mCE": float, "relative mCE": float, "adapted": Share},
    total=False,
)


class Overall(Measures):
    """The numbers of a column over all cells."""

    top1: Share
    interval: tuple[Share, Share]
    minus: dict[str, Gain]


class Flips(TypedDict):
    """The shares of images that one column breaks and mends, compared with another."""

    NFR: Share
    PFR: Share


class Point(TypedDict):
    """A point of the curve of the gate."""

    threshold: float
    adapted: Share
    top1: Share


class Curve(TypedDict, total=False):
    """The curve of the gate, where there is one."""

    gate: list[Point]


class Summary(Curve):
    """The content of ``summary.json``. A row of ``cells``, and ``all``, has a part a column."""

    protocol: str
    facts: Facts
    cells: dict[str, dict[str, Any]]
    all: dict[str, dict[str, Any]]


def read(out: Path) -> dict[str, Any]:
    """Return the summary of the evaluation whose scores are in a folder.

    Raises FileNotFoundError that says what is there instead, and BadFile for a summary of another
    form.
    """
    path = out / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{out} has no {NAME}; test_ensemble.py writes it. {files.content_of(out)}"
        )
    summary = shapes.read_json(path, Summary, REMEDY)
    fault = _fault_of(summary)
    if fault is not None:
        raise files.BadFile(f"{path} is damaged: {fault}; {REMEDY}")
    return summary


def _fault_of(summary: dict[str, Any]) -> str | None:
    """Return in words the first fault of a summary whose parts do not go together, or None."""
    facts = Facts.read(summary["facts"])
    try:
        _check_facts(facts)
    except ValueError as error:
        return f"facts: {error}"
    cells, overall = summary["cells"], summary["all"]
    first = next(iter(cells.values()), {})
    names = results.shown(first, facts)
    if not names:
        return "the entry cells has no columns"
    for column in ("first", "combined"):  # every evaluation has these two
        if column not in names:
            return f"the entry cells has no column {column}"
    leading = first[names[0]].items() if isinstance(first[names[0]], dict) else ()
    measures = {key: float for key, value in leading if isinstance(value, float)}
    column = TypedDict("Row", {**measures, "top1": Share})  # each column has those of the first
    row = TypedDict("Cell", {"N": Annotated[int, (1, 1e12)], **dict.fromkeys(names, column)})
    everything = {"cells": cells, "all": overall}
    wanted = {"cells": dict[str, row], "all": TypedDict("All", dict.fromkeys(names, Overall))}
    if "flips" in overall:
        pairs = [f"{one} to {two}" for one, two in itertools.combinations(names, 2)]
        everything["flips"] = overall["flips"]
        wanted["flips"] = TypedDict("Pairs", dict.fromkeys(pairs, Flips))
    fault = shapes.fault_of(everything, TypedDict("Parts", wanted))
    for name, base in itertools.product(names, results.BASES):
        if fault is None and base in names and base not in {name, *overall[name]["minus"]}:
            fault = f"the entry all.{name}.minus has no {base}"
    return fault


def _check_facts(facts: Facts) -> None:
    """Raise ValueError for rules, scores or metrics that are unknown, and for wrong parameters."""
    for rule in facts.rules.values():
        check_one_of("rules", rule, (*RULES, *FITTED_RULES, *FUSE_RULES))
        if rule in FITTED_RULES:
            fitted.of_rule(facts.params, rule, name="params")
    if facts.partial:  # the gate chose which images have a copy
        fitted.of_rule(facts.params, "gate", name="params")
    check_one_of("scores", facts.scores, SCORES)
    for metric in facts.metrics:
        check_one_of("metrics", metric, METRICS)
