"""The numbers of an evaluation, made of the scores on disk: summary.json and summary.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from DDA import commands, files, metrics
from DDA.model_adapt import results
from DDA.model_adapt.ensemble import combine, is_doubtful
from DDA.model_adapt.results import BASES, shown, title
from DDA.model_adapt.settings import Facts

# the files of report.py
REPORT = ("report.html", "report.csv", "report.md", "gallery.png")
# numbers of columns that some evaluations have, and their formats
FORMATS = {"ECE": ".3f", "NLL": ".3f", "mCE": ".1f", "relative mCE": ".1f"}
# numbers of each class: their names here and in `metrics.per_class`
PER_CLASS = {"precision": "precision", "recall": "recall", "f1_score": "f1", "support": "support"}
# thresholds of the gate: at the first no image is adapted, at the last every image
THRESHOLDS = (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.01)


def summarise(out: Path, facts: Facts) -> dict[str, Any]:
    """Make the summary of the scores on disk, write summary.json and summary.md, and return it."""
    cells, images, hits, curves = {}, [], [], []
    for cell in facts.cells:
        stored = results.read(out, cell, facts)
        scores, labels = results.columns(stored, facts), stored["labels"]
        measured = {name: _measure(name, value, stored, facts) for name, value in scores.items()}
        cells[cell] = {"N": len(labels), **measured}
        if cell not in corrupted(facts.cells):  # clean images have a line of their own
            continue
        images.append([str(key).removeprefix(f"{cell}/") for key in stored["keys"]])
        hits.append({name: metrics.hits(value, labels) for name, value in scores.items()})
        if "gate" in facts.rules.values() and not facts.partial:
            curves.append(_gate_curve(stored, facts.params["gate"]))
    summary = {
        "protocol": protocol(facts, cells),
        "facts": asdict(facts),
        "cells": cells,
        "all": _overall(cells, images, hits, facts),
    }
    if curves:
        points = zip(THRESHOLDS, *np.mean(curves, axis=0).T.tolist(), strict=True)
        names = ("threshold", "adapted", "top1")
        summary["gate"] = [dict(zip(names, point, strict=True)) for point in points]
    for name in REPORT:  # an earlier report shows other numbers
        (out / name).unlink(missing_ok=True)
    files.write_json(out / "summary.json", summary)
    files.write_text(out / "summary.md", markdown(summary))
    return summary


def in_order(severities: Iterable[str]) -> list[str]:
    """Return severities in order: numbers by their value, then the rest by name."""

    def rank(severity: str) -> tuple[int, float, str]:
        is_number = severity.replace(".", "", 1).isdigit()
        return (0, float(severity), severity) if is_number else (1, 0.0, severity)

    return sorted(set(severities), key=rank)


def corrupted(cells: Iterable[str]) -> list[str]:
    """Return the cells whose mean is the result: all but clean images, where there are others."""
    cells = list(cells)
    return [cell for cell in cells if cell.partition("/")[0] != "clean"] or cells


# -------------------------------------------------------------------------------------- numbers


def _adapted(stored: Mapping[str, np.ndarray], gate: Mapping[str, Any]) -> float:
    """Return the share of a cell's images that the gate sends to adaptation."""
    (first,) = results.tensors(stored, "first")
    doubtful = is_doubtful(first, gate["threshold"], gate["temperatures"][0])
    return float(doubtful.double().mean())


def _gate_curve(
    stored: Mapping[str, np.ndarray], fitted: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Return the share of a cell's images that is adapted, and the accuracy, at each threshold."""
    pair = results.tensors(stored, "first", "second")
    curve = []
    for threshold in THRESHOLDS:
        gate = {**fitted, "threshold": threshold}
        scores = combine(*pair, "gate", **gate).numpy()
        top1 = float(metrics.hits(scores, stored["labels"]).mean())
        curve.append((_adapted(stored, gate), top1))
    return curve


def _measure(
    name: str, scores: np.ndarray, stored: Mapping[str, np.ndarray], facts: Facts
) -> dict[str, Any]:
    """Return the numbers of one column in one cell."""
    labels, wanted = stored["labels"], set(facts.metrics)
    k = min(facts.topk, scores.shape[1])
    numbers: dict[str, Any] = {}
    for n in (1, k):
        numbers[f"top{n}"] = float(metrics.hits(scores, labels, n).mean())
    if wanted & PER_CLASS.keys():
        each = metrics.per_class(scores.argmax(1), labels, scores.shape[1])
        names = [metric for metric in PER_CLASS if metric in wanted]
        numbers |= {metric: _per_class(metric, each[PER_CLASS[metric]]) for metric in names}
    if "calibration" in wanted:
        chances = results.probabilities(name, scores, facts)
        numbers["ECE"] = metrics.calibration_error(chances, labels)
        numbers["NLL"] = metrics.negative_log_likelihood(chances, labels)
    if facts.rules.get(name) == "gate":
        numbers["adapted"] = _adapted(stored, facts.params["gate"])
    return numbers


def _per_class(metric: str, values: np.ndarray) -> dict[str, Any]:
    """Return a number of each class (None where it is undefined), and their mean."""
    known = values[~np.isnan(values)]
    each = [None if np.isnan(value) else float(value) for value in values]
    numbers: dict[str, Any] = {"per_class": each}
    if metric != "support" and len(known):
        numbers["macro"] = float(known.mean())
    return numbers


def _overall(
    cells: Mapping[str, Any],
    images: Sequence[list[str]],
    hits: Sequence[dict[str, np.ndarray]],
    facts: Facts,
) -> dict[str, Any]:
    """Return means over cells of equal weight, with bootstrap intervals over images.

    images: the names of the images of each cell that counts. hits: for each such cell, whether each
    column is right about each image.
    """
    weights = np.concatenate([np.full(len(names), 1 / len(names)) for names in images])
    groups = np.concatenate(images)
    right = {name: np.concatenate([part[name] for part in hits]) for name in hits[0]}

    def interval(values: np.ndarray) -> list[float]:
        return list(metrics.interval(values, groups, weights))

    rows = [cells[cell] for cell in corrupted(cells)]
    overall: dict[str, Any] = {}
    for name, values in right.items():
        numbers = [key for key, value in rows[0][name].items() if isinstance(value, float)]
        overall[name] = {key: float(np.mean([row[name][key] for row in rows])) for key in numbers}
        overall[name]["interval"] = interval(values.astype(float))
    for name, values in right.items():
        overall[name]["minus"] = {}
        for base in BASES:
            if base in right and base != name:
                # both columns have the same images, so the differences are paired
                gain = overall[name]["top1"] - overall[base]["top1"]
                span = interval(values - 1.0 * right[base])
                overall[name]["minus"][base] = {"top1": gain, "interval": span}
        if facts.baseline == "alexnet":
            top1 = {cell: row[name]["top1"] for cell, row in cells.items()}
            overall[name] |= _relative_to_alexnet(top1)
    if "flips" in facts.metrics:
        overall["flips"] = {}
        for one, two in itertools.permutations(right, 2):
            overall["flips"][f"{one} to {two}"] = metrics.flips(right[one], right[two])
    return overall


def _relative_to_alexnet(top1: Mapping[str, float]) -> dict[str, Any]:
    """Return CE and mCE in per cent, and the relative ones where a clean cell was evaluated too."""
    baseline = {name: value / 100 for name, value in metrics.ALEXNET.items()}
    rows: dict[str, dict[str, float]] = {}
    for cell, value in top1.items():
        corruption, _, severity = cell.partition("/")
        rows.setdefault(corruption, {})[severity] = value
    clean = rows.pop("clean", None)
    error = None if clean is None else 1 - float(np.mean(list(clean.values())))
    errors = metrics.corruption_errors(rows, baseline, error, metrics.ALEXNET_CLEAN / 100)
    means = {}
    for name, each in errors.items():
        means[name.replace("CE", "mCE")] = float(np.mean(list(each.values())))
    return errors | means


# ----------------------------------------------------------------------------- words and tables


def protocol(facts: Facts, cells: Mapping[str, Any]) -> str:
    """Return one sentence that tells the images and the rules of the numbers."""
    chosen = corrupted(cells)
    corruptions = list(dict.fromkeys(cell.partition("/")[0] for cell in chosen))
    severities = in_order(cell.partition("/")[2] for cell in chosen)
    images = f"{sum(cells[cell]['N'] for cell in chosen):,} images of {facts.degraded}"
    if chosen != ["."]:
        images += f": {len(corruptions)} corruptions ({', '.join(corruptions)})"
        images += f", severities {', '.join(severities) or 'none'}"
    if facts.num_samples:
        images += f", the first {facts.num_samples} of each by key"
    fitted = "; ".join(f"{rule}: {say_params(params)}" for rule, params in facts.params.items())
    combined = f"combined: {', '.join(facts.rules.values())} of {facts.scores}"
    parts = [
        images,
        "means over cells of equal weight",
        f"{combined} (fitted: {fitted})" if fitted else combined,
        "95 % bootstrap intervals over images",
    ]
    if facts.baseline:
        parts.append(f"mCE relative to {facts.baseline}'s published errors")
    return "; ".join(parts)


def say_params(params: Mapping[str, Any]) -> str:
    """Return parameters as text, such as ``weight 0.4, temperatures 1.12, 0.94``."""
    texts = []
    for name, value in params.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        texts.append(f"{name} {', '.join(f'{number:.3g}' for number in numbers)}")
    return ", ".join(texts)


def say_gain(gain: Mapping[str, Any] | None) -> str:
    """Return a difference of two columns in points, such as ``+14.5 (12.9 to 16.1)``.

    A column has no difference from itself (None).
    """
    if gain is None:
        return ""
    low, high = (100 * value for value in gain["interval"])
    return f"{100 * gain['top1']:+.1f} ({low:.1f} to {high:.1f})"


def verdict(summary: Mapping[str, Any]) -> str:
    """Return in one sentence the result, and what adaptation adds to it."""
    facts, overall = Facts.read(summary["facts"]), summary["all"]
    text = f"{title('combined', facts)} {100 * overall['combined']['top1']:.1f} %"
    if "source" in overall:
        text += f" against {100 * overall['source']['top1']:.1f} % of your classifier"
    alone = "the classifier of degraded images"
    if facts.source is not None:
        is_own = facts.first == facts.source
        alone = "your classifier" if is_own else "the student of degraded images"
    gain = overall["combined"]["minus"]["first"]
    low, high = gain["interval"]
    outcome = "a gain" if low > 0 else "a loss" if high < 0 else "no sure difference"
    return f"{text}; adaptation adds {say_gain(gain)} points to {alone}: {outcome}"


def measures(
    overall: Mapping[str, Any], names: Sequence[str], facts: Facts
) -> dict[str, list[str]]:
    """Return the measures that are shown beside top-1: the text of each column, by their names."""
    rows = [overall[name] for name in names]
    spans = [[100 * value for value in row["interval"]] for row in rows]
    texts = {"95 % interval": [f"{low:.1f} to {high:.1f}" for low, high in spans]}
    for base in BASES:
        if base in names:
            gains = [say_gain(row["minus"].get(base)) for row in rows]
            texts[f"minus {title(base, facts)}"] = gains
    for key, form in FORMATS.items():
        if key in rows[0]:
            texts[key] = [format(row[key], form) if key in row else "" for row in rows]
    if any("adapted" in row for row in rows):
        shares = [f"{100 * row['adapted']:.1f}" if "adapted" in row else "" for row in rows]
        texts["adapted images %"] = shares
    return texts


def markdown(summary: Mapping[str, Any], flips: bool = True) -> str:
    """Return the protocol, and a table of top-1 for each corruption and on average.

    The row of a corruption is its mean over severities; means have intervals.

    flips: whether the images that a column breaks and mends are shown too, where they were counted.
    """
    cells, overall = summary["cells"], summary["all"]
    facts = Facts.read(summary["facts"])
    names = shown(next(iter(cells.values())), facts)
    titles = [title(name, facts) for name in names]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell, row in cells.items():
        groups.setdefault(cell.partition("/")[0], []).append(row)
    rows = []
    for corruption, group in groups.items():
        means = [f"{100 * np.mean([row[name]['top1'] for row in group]):.1f}" for name in names]
        rows.append((corruption, sum(row["N"] for row in group), *means))
    counted = [cells[cell]["N"] for cell in corrupted(cells)]
    means = [f"**{100 * overall[name]['top1']:.1f}**" for name in names]
    rows.append((f"**mean of {len(counted)} cells**", sum(counted), *means))
    text = commands.grid(("top-1 %", "N", *titles), rows)
    for head, texts in measures(overall, names, facts).items():
        text += f"| {head} | | {' | '.join(texts)} |\n"
    if flips and "flips" in overall:
        text += f"\n{_flips_table(overall['flips'], names, facts)}"
    return f"{commands.inert(summary['protocol'])}.\n\n{text}"


def _flips_table(
    flips: Mapping[str, Mapping[str, float]], names: Sequence[str], facts: Facts
) -> str:
    """Return the shares of images that each later column breaks and mends, as a table."""
    rows = []
    for one, two in itertools.combinations(names, 2):
        rates = flips[f"{one} to {two}"]
        numbers = [f"{100 * rates[rate]:.1f}" for rate in ("NFR", "PFR")]
        rows.append((title(one, facts), title(two, facts), *numbers))
    return commands.grid(("from", "to", "broken %", "mended %"), rows)
