#!/usr/bin/env python3
"""What adaptation and distillation do: accuracy on degraded images and on their adapted copies, cell by cell.

  scripts/compare.py --classifier model_best.pth --degraded dataset/CIFAR-10-C --adapted generated/cifar10c --out look

DEGRADED holds labelled images as <corruption>/<severity>/…; ADAPTED their copies under the same keys. OUT gets compare.md,
compare.json and gallery.png. gain: of the last column over the first, with the 95 % normal interval of the paired difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from DDA import images
from DDA.datasets import Folder, cells
from DistilledClassifier import classifiers, trees

PROGRAM = "compare.py"
COLUMNS = {
    "degraded": "the classifier on degraded images",
    "adapted": "the classifier on adapted copies",
    "self-ensemble": "the mean of its probabilities on both (DDA)",
    "degraded student": "the first student on degraded images",
    "adapted student": "the second student on adapted copies",
    "sum": "the sum of the students' logits (DiffAUD)",
}


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 for wrong input."""
    args = parser().parse_args(argv)
    try:
        networks = [classifiers.load(path) for path in (args.classifier, *(args.students or ()))]
        networks[-1].check_adapted(args.adapted)
        found = cells(Folder(args.degraded), "imagenetc", ["all"], ["all"], train=True)
        compared = {cell: compare(args, cell, networks) for cell in found}
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    rows = {cell: row for cell, (row, _) in compared.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    protocol = f"{sum(row['count'] for row in rows.values())} images in {len(rows)} cells of {args.degraded}; {args.classifier}"
    images.write_json(args.out / "compare.json", {"protocol": protocol, "cells": rows})
    images.write_bytes(args.out / "compare.md", f"{protocol}\n\n{text}".encode())
    images.write_image(args.out / "gallery.png", gallery({cell: look for cell, (_, look) in compared.items()}))
    print(f"{text}\ntable       {args.out / 'compare.md'}\ngallery     {args.out / 'gallery.png'}", flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--classifier", type=Path, required=True, metavar="FILE", help="a classifier's checkpoint")
    p.add_argument("--students", type=Path, nargs=2, metavar="FILE", help="checkpoints of the two distilled students")
    p.add_argument("--degraded", type=Path, required=True, metavar="TREE")
    p.add_argument("--adapted", type=Path, required=True, metavar="TREE")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--columns", type=int, default=8, metavar="INT", help="images a row of the gallery (default: %(default)s)")
    return p


def compare(args: argparse.Namespace, cell: str, networks: list[classifiers.Classifier]) -> tuple[dict, dict]:
    """The accuracies of a cell in per cent, and what the gallery shows of it. Raises ValueError where copies are missing."""
    paths, labels = trees.labelled(args.degraded, [cell])
    copies = images.saved_images(args.adapted, [cell])
    missing = [key for key in paths if key not in copies]
    if missing:
        raise ValueError(
            f"--adapted {args.adapted} lacks {len(missing)} of {len(paths)} images of {cell}, such as {missing[0]}; run the "
            "adaptation again"
        )
    pixels = {"degraded": _read(args.degraded, paths.values()), "adapted": _read(args.adapted, [copies[key] for key in paths])}
    source, *students = networks
    scores = {view: source.scores(pixels[view]) for view in pixels}
    scores["self-ensemble"] = scores["degraded"].softmax(1) + scores["adapted"].softmax(1)
    for student, view in zip(students, pixels, strict=False):
        scores[f"{view} student"] = student.scores(pixels[view])
    if students:
        scores["sum"] = scores["degraded student"] + scores["adapted student"]
    right = {column: (score.argmax(1) == torch.from_numpy(labels)).numpy() for column, score in scores.items()}
    row = {"count": len(labels), **{column: float(100 * hits.mean()) for column, hits in right.items()}}
    last = "sum" if students else "adapted"
    gain = 100.0 * right[last] - 100.0 * right["degraded"]
    row["gain"], row["interval"] = (
        float(gain.mean()),
        float(1.96 * gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0,
    )
    shown = np.linspace(0, len(labels) - 1, min(args.columns, len(labels))).round().astype(int)
    classes = images.read_classes(args.degraded)
    look = {
        view: [(pixels[view][i], bool(right[view][i]), classes[labels[i]]) for i in shown] for view in ("degraded", "adapted")
    }
    return row, look


def _read(root: Path, paths) -> list[np.ndarray]:
    return [np.asarray(images.read_rgb(root / path)) for path in paths]


def table(rows: dict[str, dict]) -> str:
    """Markdown: a line a cell, and their mean; then what the columns are."""
    columns = [column for column in COLUMNS if column in next(iter(rows.values()))]
    lines = [f"| corruption | N | {' | '.join(columns)} | gain |", "|---" * (len(columns) + 3) + "|"]
    for cell, row in rows.items():
        values = [f"{row[column]:.1f}" for column in columns]
        lines.append(f"| {cell} | {row['count']} | {' | '.join(values)} | {row['gain']:+.1f} ± {row['interval']:.1f} |")
    means = [f"{np.mean([row[column] for row in rows.values()]):.1f}" for column in columns]
    gain = np.mean([row["gain"] for row in rows.values()])
    count = sum(row["count"] for row in rows.values())
    lines.append(f"| **mean** | {count} | {' | '.join(means)} | {gain:+.1f} |")
    return "\n".join(lines) + "\n\n" + "\n".join(f"* {column}: {COLUMNS[column]}" for column in columns) + "\n"


def gallery(looks: dict[str, dict]) -> np.ndarray:
    """Each cell's images before and after, in a green frame where the classifier is right and a red one where it is wrong."""
    rows, frames = {}, {}
    for cell, look in looks.items():
        for view, shown in look.items():
            title = f"{cell} {view}"
            rows[title] = [pixels for pixels, _, _ in shown]
            frames[title] = ["seagreen" if right else "crimson" for _, right, _ in shown]
    labels = {tuple(label for _, _, label in look["degraded"]) for look in looks.values()}  # of each row
    captions = labels.pop() if len(labels) == 1 else [""] * max(map(len, rows.values()))
    return np.asarray(images.contact_sheet(rows, captions, side=80, frames=frames))


if __name__ == "__main__":
    sys.exit(main())
