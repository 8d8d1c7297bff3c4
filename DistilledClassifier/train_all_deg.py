#!/usr/bin/env python3
"""Train a student of all known degradations, distilled from one teacher of each (or from none).

  train_all_deg.py -c configs/deg_all/CIFAR10/ResNet18/degDistill.yaml
  train_all_deg.py -c configs/deg_all/CIFAR10/ResNet18/adaptDistill.yaml \\
      --dt clean,jpeg,blur,noise
  torchrun --nproc_per_node 8 train_all_deg.py …

A batch is one group of images of each degradation; each teacher sees its own group, the student
sees all. The teachers are the latest best of their stages (train.py) unless the config says
otherwise. Flags and results are those of train.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("DDA")  # from here on both signals wait

from DistilledClassifier import train

PROGRAM = "train_all_deg.py"


def main(argv: list[str] | None = None) -> int:
    """Train the student and return the exit status."""
    return train.run(train.parser(PROGRAM, __doc__), argv)


if __name__ == "__main__":
    sys.exit(main())
