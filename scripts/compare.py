#!/usr/bin/env python3
"""What adaptation does for a classifier: accuracy on degraded images and on their adapted copies, cell by cell.

  scripts/compare.py --classifier model_best.pth --degraded dataset/CIFAR-10-C --adapted generated/cifar10c --out look

DEGRADED holds labelled images as <corruption>/<severity>/…; ADAPTED their copies under the same keys. OUT gets compare.md,
compare.json and gallery.png. self-ensemble: the mean of the classifier's probabilities on both views (DDA). Intervals are 95 %
normal intervals of the paired difference.
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
VIEWS = ("degraded", "adapted", "self-ensemble")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 for wrong input."""
    args = parser().parse_args(argv)
    try:
        classifier = classifiers.load(args.classifier)
        found = cells(Folder(args.degraded), "imagenetc", ["all"], ["all"], train=True)
        compared = {cell: compare(args, cell, classifier) for cell in found}
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
    p.add_argument("--degraded", type=Path, required=True, metavar="TREE")
    p.add_argument("--adapted", type=Path, required=True, metavar="TREE")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--columns", type=int, default=8, metavar="INT", help="images a row of the gallery (default: %(default)s)")
    return p


def compare(args: argparse.Namespace, cell: str, classifier: classifiers.Classifier) -> tuple[dict, dict]:
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
    scores = {view: classifier.scores(images_) for view, images_ in pixels.items()}
    scores["self-ensemble"] = scores["degraded"].softmax(1) + scores["adapted"].softmax(1)
    right = {view: (score.argmax(1) == torch.from_numpy(labels)).numpy() for view, score in scores.items()}
    row = {"count": len(labels), **{view: float(100 * right[view].mean()) for view in VIEWS}}
    gain = 100.0 * right["adapted"] - 100.0 * right["degraded"]
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
    """Markdown: a line a cell, and their mean."""
    lines = ["| corruption | N | degraded % | adapted % | gain | self-ensemble % |", "|---|---|---|---|---|---|"]
    for cell, row in rows.items():
        lines.append(f"| {cell} | {row['count']} | {row['degraded']:.1f} | {row['adapted']:.1f} | {row['gain']:+.1f} ± "
                     f"{row['interval']:.1f} | {row['self-ensemble']:.1f} |")  # fmt: skip
    mean = {name: np.mean([row[name] for row in rows.values()]) for name in (*VIEWS, "gain")}
    count = sum(row["count"] for row in rows.values())
    lines.append(f"| **mean** | {count} | {mean['degraded']:.1f} | {mean['adapted']:.1f} | "
                 f"{mean['gain']:+.1f} | {mean['self-ensemble']:.1f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


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
