#!/usr/bin/env python3
"""Which images need an adapted copy: those of which the classifier of degraded images is unsure.

  gate.py STUDENT1.pth --fitted STUDENT2.fitted.json --base_samples photos --dataset folder --out keys.txt
  image_sample.py --base_samples photos --dataset folder --keys keys.txt --save_dir adapted …
  test_ensemble.py CONFIG STUDENT1.pth --second_model_prefix STUDENT2.pth --ensemble gate --data_prefix1 photos \\
      --data_prefix2 adapted …

STUDENT2.fitted.json holds the threshold; test_ensemble.py --fit writes it, from known degradations. --threshold names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from DDA import commands, files, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import fitted, unlabelled
from DDA.sources.cells import LAYOUTS, cells_of, one_severity
from DistilledClassifier import classifiers

PROGRAM = "gate.py"


def main(argv: list[str] | None = None) -> int:
    """Write the keys; returns 0, 2 for wrong input, 130 when it was interrupted."""
    parser = commands.parser(PROGRAM, __doc__, FLAGS, LAYOUTS=LAYOUTS)
    return commands.run(
        lambda: _main(parser.parse_args(argv)),
        PROGRAM,
        "nothing was written, run the same command again",
    )


def _main(args: argparse.Namespace) -> int:
    path = files.find(args.classifier)
    if (args.fitted is None) == (args.threshold is None):
        raise ValueError("give one of --fitted and --threshold")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold {args.threshold} is outside 0..1: it is of a probability")
    gate = fitted.read_gate(files.find(args.fitted), path) if args.fitted else (args.threshold, 1.0)
    classifier = classifiers.load(path)
    classifier.network.to(pick_device(args.device))
    source = sources.open_source(
        files.find(args.base_samples), classifier.classes, one_severity(args.severity)
    )
    cells = cells_of(source, args.dataset, args.corruption, args.severity, train=args.train)
    names = [name for cell in cells for name in source.list(cell)[0]]
    if not names:
        raise ValueError(f"no images in {args.base_samples} (suffixes: {', '.join(tree.SUFFIXES)})")
    keys = unlabelled.doubtful(classifier, source, names, gate, args.batch_size)
    unlabelled.write_keys(args.out, keys)
    share = 100 * len(keys) / len(names)
    print(
        f"doubtful    {len(keys):,} of {len(names):,} images ({share:.1f} %): {args.out}",
        flush=True,
    )
    if not keys:
        print(
            "            no image needs an adapted copy: image_sample.py --keys makes an empty tree",
            flush=True,
        )
    return 0


FLAGS = """
classifier path:FIRST  the classifier of degraded images
--base_samples PATH!  degraded images: a tree, or a data set's files
--dataset {LAYOUTS} = folder  layout of the tree
--corruption NAME+ = []  names, or all
--severity 1..5+ = []  numbers, or all (default: 5)
--train bool:True|False = False  split of layouts that have one
--fitted JSON  what test_ensemble.py --fit wrote; this or --threshold
--threshold float:0..1  of the largest probability
--out FILE!  the keys, one a line
--batch_size INT = 128
--device auto|cpu|cuda = auto
"""


if __name__ == "__main__":
    sys.exit(main())
