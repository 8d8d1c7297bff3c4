"""Evaluate an ensemble with RobustBench and torch-uncertainty: the code of other_benchmarks.md.

  python other_benchmarks.py every_cell PRIOR CLASSIFIER DEGRADED EVAL OUT
  python other_benchmarks.py gradient PRIOR CLASSIFIER DEGRADED EVAL OUT

DEGRADED is an .npz of CIFAR-10-C's form, EVAL what test_ensemble.py wrote of it, OUT the JSON file
that gets the results. It runs where both packages are installed.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import Adapter, Ensemble, inputs, tree
from DDA.model_adapt import results
from DDA.sources import open_source

PAGE = Path(__file__).parents[1] / "docs" / "other_benchmarks.md"
SETUP, ROBUSTBENCH, TORCH_UNCERTAINTY = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
SEEDS = (0, 1, 2)


class Keyed(torch.nn.Module):
    """An ensemble that finds the key of each image by the image's pixels.

    pixels: uint8 (H,W,3) of all images, which differ. keys: their keys.
    """

    def __init__(self, ensemble: Ensemble, pixels: list[np.ndarray], keys: list[str]):
        super().__init__()
        self.ensemble = ensemble
        self.keys = dict(zip(inputs.keys(pixels), keys, strict=True))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        digests = inputs.keys(inputs.read(images))
        return self.ensemble(images, keys=[self.keys[digest] for digest in digests])


def main(task: str, prior: str, classifier: str, degraded: str, folder: str, out: str) -> None:
    """Evaluate cells that test_ensemble.py evaluated, and write what the benchmarks say."""
    source, settings = open_source(degraded), {"prior": prior, "first": classifier}
    contents = {}
    for cell in json.loads((Path(folder) / "summary.json").read_text())["facts"]["cells"]:
        stored = results.read(Path(folder), cell)
        names = {tree.key_of(name): name for name in source.list(cell)[0]}
        keys = stored["keys"].tolist()
        images = {
            "pixels": np.stack([source.pixels(names[key]) for key in keys]),
            "labels": stored["labels"].astype(np.uint8),  # as the files of CIFAR-10-C hold them
        }
        contents[cell] = ({**settings, "second": classifier, **images}, keys)
    answers = {cell: TASKS[task](*content) for cell, content in contents.items()}
    Path(out).write_text(json.dumps(answers))


def every_cell(content: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Return RobustBench's answers for three seeds and without keys, and torch-uncertainty's."""
    return {
        "seeds": [robustbench(content, seed, keys) for seed in SEEDS],
        "without_keys": robustbench(content, 0),
        "torch_uncertainty": torch_uncertainty(content, keys),
    }


def set_up(content: dict[str, Any], seed: int, keys: list[str] | None = None) -> dict[str, Any]:
    """Return the names that the page's first block defines; keys are passed to ``both``."""
    names = {**content, "seed": seed}
    exec(SETUP, names)
    if keys is not None:
        names["both"] = Keyed(names["both"], list(names["pixels"]), keys)
    return names


def robustbench(
    content: dict[str, Any], seed: int, keys: list[str] | None = None
) -> dict[str, Any]:
    """Return the top-1 that RobustBench finds, and the scores (N,K) that it was given."""
    names = set_up(content, seed, keys)
    scores: list[torch.Tensor] = []
    names["both"].register_forward_hook(lambda module, images, output: scores.append(output))
    exec(ROBUSTBENCH, names)
    return {"top1": names["top1"], "scores": torch.cat(scores).tolist()}


def torch_uncertainty(content: dict[str, Any], keys: list[str]) -> dict[str, float]:
    """Return the metrics of torch-uncertainty's classification routine."""
    names = set_up(content, 0, keys)
    exec(TORCH_UNCERTAINTY, names)
    return names["result"]


def gradient(content: dict[str, Any], keys: list[str]) -> list[float]:
    """Return the loss on four images that are adapted with a gradient.

    The first number is that of torch-uncertainty, which turns inference mode on; the second is that
    of a plain call.
    """
    few = {name: content[name][:4] for name in ("pixels", "labels")}
    names = set_up({**content, **few}, 0)
    names["both"] = Ensemble(content["first"], adapter=Adapter(content["prior"], N=2))
    exec(TORCH_UNCERTAINTY, names)
    scores = names["both"](names["images"])
    loss = torch.nn.functional.cross_entropy(scores, names["targets"])
    return [names["result"]["test/cls/NLL"], float(loss)]


TASKS = {"every_cell": every_cell, "gradient": gradient}

if __name__ == "__main__":
    main(*sys.argv[1:])
