"""Classifiers of any origin, as users name them.

They are files, weights for a model that a config describes, or models of timm.
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
    """A pipeline of mmcls in the place of a `Preprocess`.

    Its loading step is left out, because images are read here.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]):
        with quietly():
            from mmcls.datasets.pipelines import Compose

        self._steps = Compose([step for step in steps if step["type"] != "LoadImageFromFile"])

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """Return float (3,H,W) of an image, uint8 RGB (H,W,3)."""
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        names = {"filename": None, "ori_filename": None, "img_fields": ["img"]}
        shapes = {"img_shape": bgr.shape, "ori_shape": bgr.shape}
        return self._steps({"img": bgr, **shapes, **names})["img"].numpy()

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the images as they are, because `fit` has normalised them."""
        return pixels


def open_classifier(
    text: str | Path,
    model: Mapping[str, Any] | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
    setting: str = "",
) -> Classifier:
    """Return the classifier that a text names.

    text: ``timm/<name>``, a pretrained model; a checkpoint that tells its architecture; or weights
    for ``model``, a model dict. steps: the pipeline of mmcls behind which such weights see images.
    setting: the setting that names the file, for messages. Raises FileNotFoundError and ValueError.
    """
    if str(text).startswith("timm/") and not Path(text).exists():
        return _pretrained(str(text).removeprefix("timm/"))
    path = files.find(text)
    content = read(path, setting)
    if model is None or tells_itself(content):
        return load(path, content)
    return with_weights(path, content, model, Pipeline(steps))


def with_weights(
    path: Path, content: dict[str, Any], model: Mapping[str, Any], preprocess: Any
) -> Classifier:
    """Return the classifier that a model dict describes, with the weights of a file.

    content: what `read` gave of the file. Raises ValueError where they do not fit.
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
    """Return a model of timm with its pretrained weights and its own preprocessing."""
    config = {"type": "timm", "name": name}
    network = build({**config, "pretrained": True})
    wants = network.model.pretrained_cfg
    size = wants["input_size"][1]
    interpolation = "bilinear" if wants.get("interpolation") == "bilinear" else "bicubic"
    resize = round(size / (wants.get("crop_pct") or 1))
    preprocess = Preprocess(size, resize, tuple(wants["mean"]), tuple(wants["std"]), interpolation)
    return Classifier(still(network), preprocess, config={"classifier": config})
