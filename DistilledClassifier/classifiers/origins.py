"""Classifiers of any origin, as users name them: files, weights for a model that a config
describes, models of timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import files
from DistilledClassifier.classifiers.checkpoints import initialise, load, read, tells_itself
from DistilledClassifier.classifiers.libraries import build, quietly
from DistilledClassifier.classifiers.network import still
from DistilledClassifier.classifiers.preprocess import Preprocess
from DistilledClassifier.classifiers.scoring import Classifier


class Pipeline:
    """A pipeline of mmcls, in place of a `Preprocess`, but for its loading step: we read the
    images.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]):
        with quietly():
            from mmcls.datasets.pipelines import Compose

        self._steps = Compose([step for step in steps if step["type"] != "LoadImageFromFile"])

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 RGB (H,W,3) to float (3,H,W)."""
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        return self._steps(
            {
                "img": bgr,
                "img_shape": bgr.shape,
                "ori_shape": bgr.shape,
                "filename": None,
                "ori_filename": None,
                "img_fields": ["img"],
            }
        )["img"].numpy()

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """They are already."""
        return pixels


def open_classifier(
    text: str | Path,
    model: Mapping[str, Any] | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
) -> Classifier:
    """A classifier: ``timm/<name>`` pretrained, a checkpoint that tells itself, or weights for
    ``model``, if one is given.

    steps: the pipeline of mmcls behind which such weights see images. Raises FileNotFoundError and
    ValueError.
    """
    if str(text).startswith("timm/") and not Path(text).exists():
        return _pretrained(str(text).removeprefix("timm/"))
    path = files.find(text)
    content = read(path)
    if model is None or tells_itself(content):
        return load(path, content)
    return with_weights(path, content, model, Pipeline(steps))


def with_weights(
    path: Path, content: dict[str, Any], model: Mapping[str, Any], preprocess: Any
) -> Classifier:
    """The classifier that a model dict describes, with the weights that `read` gave of a file.
    Raises ValueError.
    """
    network = build(model)
    unfilled = initialise(network, path, content)
    if unfilled:
        raise ValueError(
            f"{path} has another number of classes than the config's model ({unfilled[0]})"
        )
    meta = content.get("meta")
    classes = tuple(meta["CLASSES"]) if isinstance(meta, dict) and meta.get("CLASSES") else None
    return Classifier(still(network), preprocess, classes, path=path)


def _pretrained(name: str) -> Classifier:
    """A model of timm with its pretrained weights and its own preprocessing."""
    config = {"type": "timm", "name": name}
    network = build({**config, "pretrained": True})
    wants = network.model.pretrained_cfg
    size = wants["input_size"][1]
    interpolation = "bilinear" if wants.get("interpolation") == "bilinear" else "bicubic"
    resize = round(size / (wants.get("crop_pct") or 1))
    preprocess = Preprocess(size, resize, tuple(wants["mean"]), tuple(wants["std"]), interpolation)
    return Classifier(still(network), preprocess, config={"classifier": config})
