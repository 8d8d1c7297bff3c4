"""Classifiers of any origin, as users name them.

They are files, weights for a model that a config describes, or models of timm.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from DDA import files, tree
from DistilledClassifier.classifiers.checkpoints import initialise, load, read, tells_itself
from DistilledClassifier.classifiers.libraries import build, quietly
from DistilledClassifier.classifiers.network import still, undivided
from DistilledClassifier.classifiers.preprocess import Preprocess
from DistilledClassifier.classifiers.scoring import Classifier
from DistilledClassifier.classifiers.transforms import of_timm, of_transform


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
    if not model or tells_itself(content):
        return load(path, content)
    if not steps:
        raise ValueError(f"{path} is read with the config's model, which lacks data.test.pipeline")
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
    return Classifier(still(network), of_timm(network.model), config={"classifier": config})


def wrap(model: nn.Module, transform: Any, classes: Sequence[str] | None = None) -> Classifier:
    """Return a classifier of any network of torch, with the transform behind which it sees images.

    Args:
        model: from normalised images (N,3,H,W) to logits (N,K), or to an answer with ``.logits``.
            It is copied, and stays as it is.
        transform: that of its evaluation: a Compose of torchvision, what timm's create_transform
            gives, or a `Preprocess`.
        classes: the names of the classes, in the order of the logits.

    Raises:
        ValueError: the transform has a step that a `Preprocess` cannot express.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
        >>> classifiers.wrap(model, classifiers.Preprocess(8)).scores(
        ...     np.zeros((2, 20, 30, 3), np.uint8)
        ... ).shape
        torch.Size([2, 5])
    """
    preprocess = transform if isinstance(transform, Preprocess) else of_transform(transform)
    names = None if classes is None else tree.check_classes(list(classes), "`classes`")
    config = {"classifier": {"type": type(model).__name__, "name": type(model).__name__}}
    return Classifier(still(undivided(copy.deepcopy(model))), preprocess, names, config)
