#!/usr/bin/env python3
"""Write a classifier of another library as a checkpoint of this project, with the same logits.

  import_classifier.py --arch torchvision/resnet18 --weights w.pt --classes names.txt --out mine.pth
  import_classifier.py --arch timm/resnet50.a1_in1k --classes imagenet --out resnet50.pth
  import_classifier.py --arch hf/FOLDER --out mine.pth
  import_classifier.py --arch CONFIG.py --weights w.pt --classes names.txt --out mine.pth

Nothing is trained. The checkpoint holds the network, its weights, its classes, and the size and the
range in which it sees images. Its library knows these: timm by the model's data config, torchvision
by the transforms of its default weights, Hugging Face by preprocessor_config.json, mmcls by the
pipeline of data.test. Flags change single entries. Every command takes such a file where it takes a
classifier. FOLDER has config.json and model.safetensors. CONFIG.py is of mmcls; it is code and is
run.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("DDA")  # from here on both signals wait

from dataclasses import asdict
from typing import Any

from DDA import commands

PROGRAM = "import_classifier.py"
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
FLAGS = """
--arch ARCH!  timm/NAME, torchvision/NAME, hf/FOLDER, or a config of mmcls
--weights FILE  its weights, .pt, .pth or .safetensors (default: those of FOLDER, or the pretrained
    ones that timm or torchvision fetch)
--classes LIST  the names of the classes in the order of its scores: a file, one a line, or a
    built-in list (default: those that FOLDER or the weights tell)
--out FILE!  the checkpoint to write
[images] as the classifier sees them; what is not given is what its library knows
--size INT  the side of its square images in pixels
--resize INT  the pixels to which the shorter side is scaled before the middle is taken
    (default: as many times the size as its library has it)
--mean FLOAT+  of red, green and blue in 0..1
--std FLOAT+  of red, green and blue in 0..1
--interpolation {INTERPOLATIONS}
"""


def main(argv: list[str] | None = None) -> int:
    """Write the checkpoint and return the exit status."""
    return commands.run(parser(), argv, _work, "nothing was written, run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS, INTERPOLATIONS=INTERPOLATIONS)


def _work(values: dict[str, Any], output: commands.Output) -> int:
    from DistilledClassifier.classifiers import import_classifier

    imported = import_classifier(**values)
    output.result(f"{imported}", asdict(imported))
    return 0


if __name__ == "__main__":
    sys.exit(main())
