"""Write a cell of ../shared/data/cifar10c_open.npz out as a tree: <root>/<corruption>/<severity>/<class>_<index>.png.

python tests/make_tree.py gaussian_noise 5 /tmp/cifar10c [COUNT]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
OPEN = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10c_open.npz"


def write_cell(corruption: str, severity: int, root: Path, count: int = 250) -> list[int]:
    """Write the first ``count`` images of a cell; returns their labels."""
    with np.load(OPEN, allow_pickle=False) as data:
        pixels, labels = data[corruption][severity - 1][:count], data["labels"][:count]
    folder = Path(root) / corruption / str(severity)
    folder.mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{CLASSES[label]}_{i:05}.png")
    (Path(root) / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return labels.tolist()


if __name__ == "__main__":
    corruption, severity, root, *count = sys.argv[1:]
    write_cell(corruption, int(severity), Path(root), *map(int, count))
