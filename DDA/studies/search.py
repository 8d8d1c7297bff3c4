"""Choose the sampler's settings on known degradations of training images.

They are never chosen on the degradations by which they will be judged.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from DDA import commands, sources
from DDA.progress import Show
from DDA.sources.cells import cells_of, orientation_of
from DDA.studies import ladder
from DDA.studies.ladder import Study
from DistilledClassifier import classifiers
from DistilledClassifier.degradations import DEGRADATIONS

# the settings that can be searched, and their kinds
GRID: dict[str, type] = {
    "N": int,
    "D": int,
    "k": float,
    "scale": float,
    "steps": int,
    "eta": float,
    "sampler": str,
}


def run(
    study: Study, axes: Mapping[str, Sequence[str]], flags: str, *, command: str, show: Show
) -> dict[str, Any]:
    """Adapt and score each combination of values; write search.json, search.md and search.png.

    axes: the values to try, by the names of GRID. flags: the flags of image_sample.py that all
    combinations share. command: the command that the result names as its maker. Raises ValueError
    for wrong settings and for trees that hold other than known degradations, and
    `ladder.FailedJob`.
    """
    combinations, shared = grid(axes), shlex.split(flags)
    ladder.check_flags("`flags`", shared)
    chosen = {}
    for name, own in combinations.items():
        chosen[name] = [*shared, *(f"--{flag}={value}" for flag, value in own.items())]
    if not study.source.is_dir():
        raise ValueError(f"`source` {study.source} is no folder; make_data.py degrade makes a tree")
    classifier = classifiers.load(study.classifier, setting="classifier")
    upright = orientation_of(study.layout) == "apply"
    source = sources.Folder(study.source, upright=upright)
    cells = cells_of(source, study.layout, study.corruption, study.severity, train=True)
    check_known(cells, study.source)
    examples = ladder.label(source, cells, classifier)
    ladder.adapt_all(study, study.source, chosen, show)
    degraded, *scored = ladder.score(examples, classifier, chosen, study.out, show)
    rows = [summed(row, combinations[row["setting"]]) for row in scored]
    result = {
        **ladder.protocol(study, command, examples, cells),
        "flags": flags,
        "degraded": degraded["adapted"]["accuracy"],
        "rows": sorted(rows, key=lambda row: -row["mean"]),
    }
    ladder.write(study.out / "search", result, table(result))
    chart(result, study.out / "search.png")
    return result


def grid(axes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Return the values of each combination, by its name. Raises ValueError for no values."""
    given = {name: values for name, values in axes.items() if values}
    if not given:
        raise ValueError(f"give values to try: {', '.join(f'`{name}`' for name in GRID)}")
    combinations = {}
    for values in itertools.product(*given.values()):
        chosen = dict(zip(given, values, strict=True))
        combinations["-".join(f"{axis}{value}" for axis, value in chosen.items())] = chosen
    return combinations


def check_known(cells: Sequence[str], root: Path) -> None:
    """Raise ValueError for a degradation that is not known: settings are not chosen on it."""
    unknown = sorted({cell.partition("/")[0] for cell in cells} - set(DEGRADATIONS))
    if unknown:
        known = ", ".join(DEGRADATIONS)
        rule = f"settings are chosen on known degradations only, {known}"
        raise ValueError(f"{root} holds {unknown[0]}: {rule}")


def summed(row: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """Return the flags of a setting in the grid, the accuracy of each view, and their mean."""
    views = {view: row[view]["accuracy"] for view in ladder.VIEWS}
    flags = " ".join(f"--{flag} {value}" for flag, value in own.items())
    return {"flags": flags, **views, "mean": sum(views.values()) / len(views)}


def table(result: Mapping[str, Any]) -> str:
    """Return a table in Markdown, the best setting first."""
    names = (*ladder.VIEWS, "mean")
    rows = []
    for row in result["rows"]:
        rows.append((f"`{row['flags']}`", *(f"{row[name]:.1f}" for name in names)))
    head = f"{result['protocol']}: {', '.join(result['cells'])}."
    shared = f"All with `{result['flags'] or 'the default flags'}`."
    columns = commands.grid(("flags", "adapted %", "self-ensemble %", "mean %"), rows)
    return f"{head} Degraded: {result['degraded']:.1f} %. {shared}\n\n{columns}"


def chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw the mean of both views against the first setting.

    The values of the other settings have a curve each.
    """
    curves: dict[str, list[tuple[float | str, float]]] = {}
    axis = ""
    for row in result["rows"]:
        axis, value, *others = row["flags"].split()
        point = (GRID[axis.removeprefix("--")](value), row["mean"])
        curves.setdefault(" ".join(others), []).append(point)
    name = axis.removeprefix("--")
    axes = ladder.empty_chart(result["protocol"], name, "accuracy, mean of both views, %")
    for label in sorted(curves):
        text = label.replace("--", "") or None
        axes.plot(*zip(*sorted(curves[label]), strict=True), marker="o", label=text)
    axes.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
    line = {"color": "dimgray", "linestyle": "--", "linewidth": 1}
    axes.axhline(result["degraded"], label="not adapted", **line)
    axes.legend(fontsize=8)
    ladder.write_chart(path, axes)
