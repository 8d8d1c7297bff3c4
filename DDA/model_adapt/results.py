"""The scores of every image on disk, and the tables that are made of them, with or without the models at hand.

``<out>/<severity>/<corruption>.npz`` holds ``keys``, ``labels`` and the logits (N,K) of each column; ``summary.json`` the
facts of the run and its numbers; ``summary.md`` the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from DDA import files, tree
from DDA.model_adapt import metrics
from DDA.model_adapt.ensemble import FUSE_RULES, combine, is_doubtful
from DDA.model_adapt.paired import Cell

TITLES = {
    "source": "source",
    "source_adapted": "adapted + source",
    "self_ensemble": "self-ensemble",
    "first": "first (degraded)",
    "second": "second (adapted)",
}


REPORT = ("report.html", "report.csv", "report.md", "gallery.png")  # what report.py writes beside the scores
BASES = ("source", "self_ensemble", "first")  # columns from which the others are subtracted


def in_order(severities: Iterable[str]) -> list[str]:
    """Numbers by their value, then the rest."""
    return sorted(set(severities), key=lambda s: (0, float(s), s) if s.replace(".", "", 1).isdigit() else (1, 0.0, s))


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
    files.write_with(path, lambda file: np.savez(
        file, keys=np.array(cell.keys), labels=cell.labels, digest=np.array(digest), **columns))  # fmt: skip


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


def columns(found: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Column to scores (N,K) of a cell: those on disk, and those that are combined of them."""
    if facts["partial"]:
        return _partial(found, facts)
    scores = {name: found[name] for name in ("source", "source_adapted") if name in found}
    if "source" in found:
        both = [torch.from_numpy(found[name]).softmax(1) for name in ("source", "source_adapted")]
        scores["self_ensemble"] = ((both[0] + both[1]) / 2).numpy()
    scores |= {name: found[name] for name in ("first", "second")}
    if facts["ensemble"] in FUSE_RULES:
        return scores | {"combined": found["combined"]}
    pair = [as_scores(torch.from_numpy(found[name]), facts["scores"]) for name in ("first", "second")]
    params = facts["params"]
    return scores | {name: combine(*pair, rule, **params.get(rule, {})).numpy() for name, rule in rules(facts).items()}


def _partial(found: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where only the images that the gate asks for were adapted: what can be said of all. Raises ValueError where one lacks."""
    one, two = (torch.from_numpy(found[name]) for name in ("first", "second"))
    gated = combine(one, two, "gate", **facts["params"]["gate"]).numpy()
    lacking = [str(key) for key, row in zip(found["keys"], gated, strict=True) if np.isnan(row).any()]
    if lacking:
        raise ValueError(f"{len(lacking)} images have no adapted copy, but the gate asks for one: {', '.join(lacking[:3])}; "
                         "gate.py lists them, image_sample.py --keys adapts them")  # fmt: skip
    return {name: found[name] for name in ("source", "first") if name in found} | {"combined": gated}


def rules(facts: Mapping[str, Any]) -> dict[str, str]:
    """The combined columns and their rules: the result is ``combined``, those beside it have the rule's name."""
    return {"combined": facts["ensemble"], **{rule: rule for rule in facts["beside"]}}


def title(name: str, facts: Mapping[str, Any]) -> str:
    """What a column is called."""
    return rules(facts).get(name) or TITLES[name]


def probabilities(name: str, scores: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """What a column says as probabilities: sums of probabilities are divided by their sum, logits go through softmax."""
    if name == "self_ensemble" or (
        name in rules(facts) and facts["scores"] == "probabilities" and facts["ensemble"] not in FUSE_RULES
    ):
        return scores / scores.sum(1, keepdims=True)
    return torch.from_numpy(scores).softmax(1).numpy()


# ---------------------------------------------------------------------------------------------- numbers


def summarise(out: Path, facts: Mapping[str, Any]) -> str:
    """Write summary.json and summary.md of the scores on disk; returns the text."""
    cells, right, groups, weights = {}, {}, [], []
    for cell in facts["cells"]:
        found = read(out, cell)
        scores = columns(found, facts)
        labels = found["labels"]
        cells[cell] = {"N": len(labels), **{name: _measure(name, value, labels, facts) for name, value in scores.items()}}
        for name, rule in rules(facts).items():
            if rule == "gate":
                cells[cell][name]["adapted"] = _adapted(found, facts["params"]["gate"])
        if cell not in corrupted(facts["cells"]):
            continue  # clean images beside corrupted ones have a line of their own, and no part in the means
        groups.extend(str(key)[len(cell) + 1 :] if cell != "." else str(key) for key in found["keys"])
        weights.append(np.full(len(labels), 1 / len(labels)))
        for name, value in scores.items():
            right.setdefault(name, []).append(metrics.hits(value, labels))
    hits = {name: np.concatenate(parts) for name, parts in right.items()}
    summary = {
        "protocol": protocol(facts, cells),
        "facts": dict(facts),
        "cells": cells,
        "all": _overall(cells, hits, np.array(groups), np.concatenate(weights), facts),
    }
    if "gate" in rules(facts).values() and not facts["partial"]:
        summary["gate"] = _gate_curve(out, corrupted(facts["cells"]), facts["params"]["gate"])
    for name in REPORT:  # of other numbers
        (out / name).unlink(missing_ok=True)
    files.write_json(out / "summary.json", summary)
    text = markdown(summary)
    files.write_bytes(out / "summary.md", text.encode())
    return text


def _adapted(found: Mapping[str, np.ndarray], gate: Mapping[str, Any]) -> float:
    """The share of a cell's images that the gate sends to adaptation."""
    doubtful = is_doubtful(torch.from_numpy(found["first"]), gate["threshold"], gate["temperatures"][0])
    return float(doubtful.double().mean())


def _gate_curve(out: Path, cells: Sequence[str], fitted: Mapping[str, Any]) -> list[dict[str, float]]:
    """What the gate would give with other thresholds, from never to always: means over cells."""
    parts, curve = [read(out, cell) for cell in cells], []
    for threshold in (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.01):
        gate = {**fitted, "threshold": threshold}
        gated = [combine(*(torch.from_numpy(part[name]) for name in ("first", "second")), "gate", **gate) for part in parts]
        hits = [metrics.hits(scores.numpy(), part["labels"]).mean() for scores, part in zip(gated, parts, strict=True)]
        shares = [_adapted(part, gate) for part in parts]
        curve.append({"threshold": threshold, "adapted": float(np.mean(shares)), "top1": float(np.mean(hits))})
    return curve


def corrupted(cells: Iterable[str]) -> list[str]:
    """The cells whose mean is the result: without clean images, where there are others."""
    cells = list(cells)
    return [cell for cell in cells if cell.partition("/")[0] != "clean"] or cells


def _measure(name: str, scores: np.ndarray, labels: np.ndarray, facts: Mapping[str, Any]) -> dict[str, Any]:
    k = min(facts["topk"], scores.shape[1])
    found: dict[str, Any] = {
        "top1": float(metrics.hits(scores, labels).mean()),
        f"top{k}": float(metrics.hits(scores, labels, k).mean()),
    }
    wanted = set(facts["metrics"])
    if wanted & {"precision", "recall", "f1_score", "support"}:
        each = metrics.per_class(scores.argmax(1), labels, scores.shape[1])
        for metric, key in (("precision", "precision"), ("recall", "recall"), ("f1_score", "f1"), ("support", "support")):
            if metric in wanted:
                values = [None if np.isnan(value) else float(value) for value in each[key]]
                present = [value for value in values if value is not None]
                found[metric] = {"per_class": values} | (
                    {"macro": float(np.mean(present))} if metric != "support" and present else {}
                )
    if "calibration" in wanted:
        chances = probabilities(name, scores, facts)
        found |= {"ECE": metrics.calibration_error(chances, labels), "NLL": metrics.negative_log_likelihood(chances, labels)}
    return found


def _overall(
    cells: Mapping[str, Any], hits: Mapping[str, np.ndarray], groups: np.ndarray, weights: np.ndarray, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Means over cells, every cell counting alike, with bootstrap intervals over images."""
    found: dict[str, Any] = {}
    for name in hits:
        low, high = metrics.interval(hits[name].astype(float), groups, weights)
        rows = [cells[cell][name] for cell in corrupted(cells)]
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        found[name] = {key: float(np.mean([row[key] for row in rows])) for key in numbers} | {"interval": [low, high]}
    for name in hits:  # the same images, so that the intervals are those of paired differences
        found[name]["minus"] = {
            base: {"top1": found[name]["top1"] - found[base]["top1"],
                   "interval": metrics.interval(hits[name].astype(float) - hits[base], groups, weights)}
            for base in BASES if base in hits and base != name
        }  # fmt: skip
    if "flips" in facts["metrics"]:
        found["flips"] = {f"{one} to {two}": metrics.flips(hits[one], hits[two]) for one in hits for two in hits if one != two}
    if facts.get("baseline") == "alexnet":
        for name in hits:
            found[name] |= _relative_to_alexnet({cell: row[name]["top1"] for cell, row in cells.items()})
    return found


def say_gain(gain: Mapping[str, Any] | None) -> str:
    """A difference of two columns such as ``+14.5 (12.9 to 16.1)``, in points; nothing for a column itself."""
    if gain is None:
        return ""
    low, high = (100 * value for value in gain["interval"])
    return f"{100 * gain['top1']:+.1f} ({low:.1f} to {high:.1f})"


def _relative_to_alexnet(top1: Mapping[str, float]) -> dict[str, Any]:
    """CE and mCE in per cent; their relative kin where a clean cell was evaluated too."""
    baseline = {name: value / 100 for name, value in metrics.ALEXNET.items()}
    rows: dict[str, dict[str, float]] = {}
    for cell, value in top1.items():
        corruption, _, severity = cell.partition("/")
        rows.setdefault(corruption, {})[severity] = value
    clean = rows.pop("clean", None)
    error = None if clean is None else 1 - float(np.mean(list(clean.values())))
    errors = metrics.corruption_errors(rows, baseline, error, metrics.ALEXNET_CLEAN / 100)
    return errors | {f"m{name}" if name == "CE" else "relative mCE": float(np.mean(list(each.values())))
                     for name, each in errors.items()}  # fmt: skip


def protocol(facts: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
    """One sentence that says what the numbers are of."""
    chosen = corrupted(cells)
    corruptions = list(dict.fromkeys(cell.partition("/")[0] for cell in chosen))
    severities = in_order(cell.partition("/")[2] for cell in chosen)
    part = f", the first {facts['num_samples']} of each by key" if facts["num_samples"] else ""
    of = f": {len(corruptions)} corruptions ({', '.join(corruptions)}), severities {', '.join(severities) or 'none'}"
    return (
        f"{sum(cells[cell]['N'] for cell in chosen):,} images of {facts['degraded']}{'' if chosen == ['.'] else of}{part}; "
        "means over cells of equal weight; "
        f"combined: {', '.join(rules(facts).values())} of {facts['scores']}{_fitted(facts)}; "
        "95 % bootstrap intervals over images"
        + (f"; mCE relative to {facts['baseline']}'s published errors" if facts.get("baseline") else "")
    )


def _fitted(facts: Mapping[str, Any]) -> str:
    said = "; ".join(f"{rule}: {say_params(params)}" for rule, params in facts["params"].items())
    return f" (fitted: {said})" if said else ""


def say_params(params: Mapping[str, Any]) -> str:
    """Such as ``weight 0.4, temperatures 1.12, 0.94``."""
    return ", ".join(f"{name} {', '.join(f'{v:.3g}' for v in value) if isinstance(value, list) else f'{value:.3g}'}"
                     for name, value in params.items())  # fmt: skip


def shown(row: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The columns that a row has, in the order in which people see them."""
    return [name for name in (*TITLES, *rules(facts)) if name in row]


def markdown(summary: Mapping[str, Any], flips: bool = True) -> str:
    """The protocol, a table of top-1 per corruption (mean over severities), and the means with their intervals."""
    cells, facts = summary["cells"], summary["facts"]
    names = shown(next(iter(cells.values())), facts)
    titles = [title(name, facts) for name in names]
    lines = [summary["protocol"] + ".", "", f"| top-1 % | N | {' | '.join(titles)} |", "|---" * (len(names) + 2) + "|"]
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for cell, row in cells.items():
        rows.setdefault(cell.partition("/")[0], []).append(row)
    for corruption, group in rows.items():
        values = [f"{100 * np.mean([row[name]['top1'] for row in group]):.1f}" for name in names]
        lines.append(f"| {corruption} | {sum(row['N'] for row in group)} | {' | '.join(values)} |")
    means = [f"**{100 * summary['all'][name]['top1']:.1f}**" for name in names]
    counted = [cells[cell]["N"] for cell in corrupted(cells)]
    lines.append(f"| **mean of {len(counted)} cells** | {sum(counted)} | {' | '.join(means)} |")
    spans = [[100 * value for value in summary["all"][name]["interval"]] for name in names]
    lines.append(f"| 95 % interval | | {' | '.join(f'{low:.1f} to {high:.1f}' for low, high in spans)} |")
    for base in (base for base in BASES if base in names):
        gains = [say_gain(summary["all"][name]["minus"].get(base)) for name in names]
        lines.append(f"| minus {title(base, facts)} | | {' | '.join(gains)} |")
    for key, digits in (("ECE", ".3f"), ("NLL", ".3f"), ("mCE", ".1f"), ("relative mCE", ".1f")):
        if key in summary["all"][names[0]]:
            lines.append(f"| {key} | | {' | '.join(format(summary['all'][name][key], digits) for name in names)} |")
    if any("adapted" in summary["all"][name] for name in names):
        shares = [summary["all"][name].get("adapted") for name in names]
        lines.append(f"| adapted images % | | {' | '.join('' if s is None else f'{100 * s:.1f}' for s in shares)} |")
    if flips and "flips" in summary["all"]:
        lines += ["", "| from | to | broken % | mended % |", "|---|---|---|---|"]
        for pair, rates in summary["all"]["flips"].items():
            one, two = pair.split(" to ")
            if names.index(one) < names.index(two):
                lines.append(
                    f"| {title(one, facts)} | {title(two, facts)} | {100 * rates['NFR']:.1f} | {100 * rates['PFR']:.1f} |"
                )
    return "\n".join(lines) + "\n"
