#!/usr/bin/env python3
"""The classes of images without labels: what two classifiers say of the images as they are and of their adapted copies.

  image_sample.py --model_path prior.pt --base_samples photos --save_dir photos_adapted
  predict.py STUDENT1.pth --second_model_prefix STUDENT2.pth --data_prefix1 photos --data_prefix2 photos_adapted --out said.csv

OUT has a line for each image: its key, the class of the combination and its probability (the softmax of the combined logits),
the class by each of the two alone. Without a second classifier the first one sees both; --ensemble gate needs the copies of the
images alone that gate.py lists. With labels, test_ensemble.py says how good the classes are.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch

from DDA import commands, files, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import models, results
from DDA.model_adapt.ensemble import OURS, RULES
from DDA.model_adapt.models import Model
from DDA.model_adapt.paired import named, refuse
from DDA.progress import Progress

PROGRAM = "predict.py"


def main(argv: list[str] | None = None) -> int:
    """Write the classes; returns 0, 2 for wrong input, 130 when it was interrupted."""
    args = parser().parse_args(argv)
    return commands.run(lambda: _main(args), PROGRAM, "nothing was written, run the same command again")


def parser() -> argparse.ArgumentParser:
    p = commands.Parser(PROGRAM, description=__doc__)
    p.add_argument("checkpoint", metavar="FIRST", help="the classifier of the images as they are: a checkpoint, or timm/<name>")
    p.add_argument("--second_model_prefix", metavar="SECOND", help="the classifier of adapted copies (default: the first one)")
    p.add_argument("--data_prefix1", type=Path, required=True, metavar="PATH", help="the images: a folder, or arrays")
    p.add_argument("--data_prefix2", type=Path, required=True, metavar="PATH", help="their adapted copies")
    rules = (*RULES, *OURS)
    p.add_argument("--ensemble", choices=rules, default="sum", metavar="RULE", help=f"{', '.join(rules)} (default: sum)")
    p.add_argument("--classes", metavar="LIST", help="a built-in list or a file, where FIRST does not tell its classes")
    p.add_argument("--severity", type=int, metavar="1..5", help="that of a .npy of a corruption that holds one")
    p.add_argument("--out", type=Path, required=True, metavar="CSV")
    p.add_argument("--batch_size", type=int, default=64, metavar="INT", help="(default: %(default)s)")
    p.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="(default: %(default)s)")
    return p


def _main(args: argparse.Namespace) -> int:
    device = pick_device(args.device, 0)
    first = models.load(args.checkpoint, None, [], device)
    second = models.load(args.second_model_prefix, None, [], device) if args.second_model_prefix else first
    classes = tree.class_list(args.classes) if args.classes else first.classes
    if classes is None:
        raise ValueError(f"{args.checkpoint} does not tell its classes; name them with --classes")
    params = models.read_fitted(first, second, [args.ensemble] if args.ensemble in OURS else [])
    opened = [sources.open_source(files.find(path), classes, args.severity) for path in (args.data_prefix1, args.data_prefix2)]
    names = [named(source, ".") for source in opened]
    keys = sorted(names[0])
    if args.ensemble != "gate":
        refuse(set(keys) - set(names[1]), f"have no copy in {opened[1].path}", "adapt them too, or give --ensemble gate")
    if isinstance(opened[1], sources.Folder):
        second.check_adapted(opened[1].path)
    args.out.parent.mkdir(parents=True, exist_ok=True)

    found: dict[str, list[np.ndarray]] = {"first": [], "second": []}
    progress = Progress(len(keys))
    for i in range(0, len(keys), args.batch_size):
        part = keys[i : i + args.batch_size]
        for name, model, source, there in zip(found, (first, second), opened, names, strict=True):
            found[name].append(_logits(model, source, [there.get(key) for key in part], classes))
        progress.add([(len(part), 0)])
    scores = {"keys": np.array(keys), **{name: np.concatenate(parts) for name, parts in found.items()}}
    facts = {
        "partial": not set(keys) <= set(names[1]),
        "ensemble": args.ensemble,
        "beside": [],
        "params": params,
        "scores": "logits",
    }
    _write(args.out, scores | results.columns(scores, facts), facts, classes)
    print(f"written     {args.out}: {len(keys):,} images, {args.ensemble} of {first.name} and {second.name}", flush=True)
    return 0


@torch.inference_mode()
def _logits(model: Model, source: sources.Source, names: list[str | None], classes: Sequence[str]) -> np.ndarray:
    """(N,K) of some images, NaN where there is no image."""
    there = [i for i, name in enumerate(names) if name is not None]
    found = np.full((len(names), len(classes)), np.nan, np.float32)
    if there:
        prepared = [model.prepare(sources.read_pixels(source, names[i])) for i in there]
        logits = model.logits(model.batch(prepared)).cpu().numpy()
        models.check_scores(model.name, logits, classes, [names[i] for i in there])
        found[there] = logits
    return found


def _write(path: Path, scores: dict[str, np.ndarray], facts: dict, classes: tuple[str, ...]) -> None:
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["key", "class", "probability", "degraded", "adapted"])
    chances = results.probabilities("combined", scores["combined"], facts)
    alone = [[classes[row.argmax()] if np.isfinite(row).all() else "" for row in scores[name]] for name in ("first", "second")]
    for key, row, *others in zip(scores["keys"], chances, *alone, strict=True):
        table.writerow([key, classes[row.argmax()], f"{row.max():.4f}", *others])
    files.write_bytes(path, file.getvalue().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    sys.exit(main())
