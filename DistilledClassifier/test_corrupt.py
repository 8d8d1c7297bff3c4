#!/usr/bin/env python3
"""Accuracy of one classifier on corrupted images, corruption by corruption and severity by severity.

  test_corrupt.py -c configs/deg_all/CIFAR10/ResNet18/degDistill.yaml -r model_best.pth
  test_corrupt.py -c configs/deg_all/CIFAR10/ResNet18/degDistill.yaml -r model_best.pth --ct sequence --dd dataset/cifar_10_seq
  test_corrupt.py -c configs/ind/CIFAR10/ResNet20/clean.yaml -r resnet20.th --dd cifar10c.npz --sev 3,5 --out eval

-r is a checkpoint of this project, or weights of any origin that fit the config's classifier. --dd is a tree
<corruption>/<severity>/…, or a data set's files. OUT gets corrupt.json and corrupt.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from DDA import commands, files, metrics, sources, tree
from DDA.devices import pick_device
from DDA.progress import Progress
from DDA.sources.cells import cells_of, one_severity
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier
from DistilledClassifier.degradations import SEQUENCES
from DistilledClassifier.experiments import config

PROGRAM = "test_corrupt.py"


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 for wrong input."""
    parser = commands.parser(PROGRAM, __doc__, FLAGS)
    return commands.run(
        lambda: _main(parser.parse_args(argv)), PROGRAM, "run the same command again"
    )


def _main(args: argparse.Namespace) -> int:
    given = [f"--{name}" for name in ("dl", "lr", "dt", "rs") if getattr(args, name) is not None]
    if given:
        print(
            f"{PROGRAM}: note: {', '.join(given)} changes nothing; what lies at --dd is recognised",
            file=sys.stderr,
        )
    experiment = config.load(args.config)
    classifier = load(args.resume, experiment)
    classifier.network.to(pick_device(args.device))
    classes = classifier.classes or tree.class_list(experiment.data.classes)
    source, cells = open_cells(args, experiment, classes)
    result = evaluate(classifier, source, cells, classes, args.bs)
    count = sum(result["counts"].values())
    protocol = f"top-1 in %, {count} images in {len(cells)} cells of {source.path}, classifier {args.resume}"
    text = f"{protocol}\n\n{table(result)}"
    print(text, flush=True)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_json(args.out / "corrupt.json", {"protocol": protocol, **result})
        files.write_bytes(args.out / "corrupt.md", text.encode())
    return 0


FLAGS = """
-c, --config YAML!  an experiment, or a config of your own
-r, --resume FILE!  the classifier
-d, --device INDICES = auto  auto, cpu, or the number of a GPU (default: auto)
--bs, --batch_size INT = 128  batch size
--ct {single,sequence} = single  common corruptions, or the sequences
--sev 1,2,3,4,5 = all  severities (default: those that are there)
--corruption NAME+ = [all]  (default: those that are there)
--dd find:PATH  corrupted images (default: data.corrupted, data.sequences)
--dl LOADER  accepted, and changes nothing: layouts are recognised
--lr, --learning_rate LR  accepted, and changes nothing: it is for training
--dt, --deg_type DT  accepted, and changes nothing: it is for training
--rs, --random_seed RS  accepted, and changes nothing: it is for training
--out DIR  also write the table there
"""


def load(path: Path, experiment: config.Config) -> Classifier:
    """A checkpoint of this project; other weights into the config's classifier. Raises FileNotFoundError, ValueError."""
    content = classifiers.read(path)
    if classifiers.is_ours(content):
        return classifiers.load(path, content)
    unfetched = {"pretrained": False} if "pretrained" in experiment.classifier else {}
    return classifiers.with_weights(
        path, content, {**experiment.classifier, **unfetched}, experiment.preprocess
    )


def open_cells(
    args: argparse.Namespace, experiment: config.Config, classes: Sequence[str]
) -> tuple[sources.Source, list[str]]:
    """The corrupted images, and the cells that are wanted. Raises FileNotFoundError, ValueError."""
    default = experiment.data.corrupted if args.ct == "single" else experiment.data.sequences
    if args.dd is None and default is None:
        raise ValueError("--dd is missing: where are the corrupted images?")
    root = args.dd or files.find(default)
    if not root.exists():
        how = "corrupt" if args.ct == "single" else "sequence"
        raise FileNotFoundError(
            f"--dd {root} does not exist; make_data.py {how} makes such a tree (dataset/README.md)"
        )
    severities = args.sev.split(",") if args.ct == "single" else ["0"]
    source = sources.open_source(root, None if root.is_dir() else classes, one_severity(severities))
    wanted = args.corruption
    if args.ct == "sequence" and wanted == ["all"]:
        wanted = [name for name in source.folders(".") if name in SEQUENCES]
    cells = cells_of(source, "imagenetc", wanted, severities, train=True)
    return source, [cell for cell in cells if wanted != ["all"] or cell.split("/")[0] != "clean"]


def evaluate(
    classifier: Classifier,
    source: sources.Source,
    cells: Sequence[str],
    classes: Sequence[str],
    batch_size: int = 128,
) -> dict:
    """Top-1 in per cent of each corruption and severity, their mean, and the number of images. Raises ValueError."""
    names = {cell: source.list(cell)[0] for cell in cells}
    counts = {cell: len(images) for cell, images in names.items()}
    top1: dict[str, dict[str, float]] = {}
    progress = Progress(sum(counts.values()))
    for cell, images in names.items():
        if not images:
            raise ValueError(f"there are no images in {source.path}/{cell}")
        labels = tree.labels_of(images, classes, source.where)
        scores = classifiers.score(
            classifier, source, images, batch_size=batch_size, classes=classes, progress=progress
        )
        corruption, severity = cell.split("/")
        top1.setdefault(corruption, {})[severity] = 100 * float(metrics.hits(scores, labels).mean())
    return {
        "top1": top1,
        "counts": counts,
        "mean": float(np.mean([value for row in top1.values() for value in row.values()])),
    }


def table(result: dict) -> str:
    """Markdown: a line a corruption, a column a severity."""
    severities = sorted({severity for row in result["top1"].values() for severity in row})
    rows = []
    for corruption, row in result["top1"].items():
        cells = [f"{row[severity]:.1f}" if severity in row else "" for severity in severities]
        rows.append((corruption, *cells, f"{np.mean(list(row.values())):.1f}"))
    rows.append(("**mean of all cells**", *[""] * len(severities), f"{result['mean']:.1f}"))
    return commands.grid(("corruption", *severities, "mean"), rows)


if __name__ == "__main__":
    sys.exit(main())
