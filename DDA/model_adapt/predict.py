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
import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from DDA import commands, files, sources, tree
from DDA.devices import pick_device
from DDA.model_adapt import fitted, unlabelled
from DDA.model_adapt.ensemble import OURS, RULES
from DistilledClassifier import classifiers

PROGRAM = "predict.py"


def main(argv: list[str] | None = None) -> int:
    """Write the classes; returns 0, 2 for wrong input, 130 when it was interrupted."""
    parser = commands.parser(PROGRAM, __doc__, FLAGS, RULE=(*RULES, *OURS))
    return commands.run(
        lambda: _main(parser.parse_args(argv)),
        PROGRAM,
        "nothing was written, run the same command again",
    )


FLAGS = """
checkpoint FIRST  the classifier of the images as they are: a checkpoint, or timm/<name>
--second_model_prefix SECOND  the classifier of adapted copies (default: the first one)
--data_prefix1 PATH!  the images: a folder, or arrays
--data_prefix2 PATH!  their adapted copies
--ensemble RULE = sum  how the scores are combined
--classes LIST  a built-in list or a file, where FIRST does not tell its classes
--severity int:1..5  that of a .npy of a corruption that holds one
--out CSV!
--batch_size INT = 64
--device auto|cpu|cuda = auto
"""


def _main(args: argparse.Namespace) -> int:
    device = pick_device(args.device)
    first = classifiers.open_classifier(args.checkpoint)
    same = args.second_model_prefix in (None, args.checkpoint)
    second = first if same else classifiers.open_classifier(args.second_model_prefix)
    for classifier in (first, second):
        classifier.network.to(device)
    classes = tree.class_list(args.classes) if args.classes else first.classes
    if classes is None:
        raise ValueError(f"{args.checkpoint} does not tell its classes; name them with --classes")
    digests = fitted.digests_of(first, second) if args.ensemble in OURS else {}
    params = fitted.read(first, second, [args.ensemble], digests)
    paths = (files.find(path) for path in (args.data_prefix1, args.data_prefix2))
    views = [sources.open_source(path, classes, args.severity) for path in paths]
    rows = unlabelled.predict(first, second, views, classes, args.ensemble, params, args.batch_size)
    unlabelled.write_csv(args.out, rows)
    print(
        f"written     {args.out}: {len(rows):,} images, {args.ensemble} of {first.name} and {second.name}",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
