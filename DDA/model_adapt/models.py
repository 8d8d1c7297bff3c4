"""Classifiers of this project, of mmcls and of timm behind three steps: prepare an image, make a batch, give logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import files
from DDA.model_adapt.ensemble import OURS
from DistilledClassifier import classifiers
from DistilledClassifier.classifiers import Classifier, Preprocess


class Model:
    """``prepare`` an image uint8 (H,W,3) RGB; ``batch`` of prepared ones, float (N,3,H,W); ``logits`` of a batch, (N,K)."""

    name: str
    classes: tuple[str, ...] | None = None
    path: Path | None = None
    held_out: float | None = None  # this share of the training images was kept from it for validation

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def batch(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        raise NotImplementedError

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def check_adapted(self, copies: Path) -> None:
        """Raise ValueError where a tree was adapted otherwise than the copies that it learnt from."""


class Ours(Model):
    """A classifier that tells its own preprocessing."""

    def __init__(self, classifier: Classifier, name: str, device: torch.device):
        self.name, self.classes, self._device, self._classifier = name, classifier.classes, device, classifier
        self._network = classifier.network.to(device)
        self.path, self.held_out = classifier.path, classifier.config.get("data", {}).get("held_out")

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return self._classifier.preprocess.fit(pixels)

    def batch(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        return self._classifier.preprocess.normalise(torch.from_numpy(np.stack(prepared)).to(self._device))

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        return self._network(batch)[1].float()

    def check_adapted(self, copies: Path) -> None:
        self._classifier.check_adapted(copies)


class Mmcls(Model):
    """Weights of mmcls in the config's model, behind the config's pipeline but for its loading step: we read the images."""

    def __init__(self, path: Path, model: Mapping[str, Any], pipeline: Sequence[Mapping[str, Any]], device: torch.device):
        with classifiers.quietly():
            from mmcls.datasets.pipelines import Compose

        network = classifiers.build(plain(model))
        left = classifiers.initialise(network, path)
        if left:
            raise ValueError(f"{path} has another number of classes than the config's model ({left[0]})")
        meta = classifiers.read(path).get("meta", {})
        self.classes = tuple(meta["CLASSES"]) if isinstance(meta, dict) and meta.get("CLASSES") else None
        self.path, self.name, self._device = path, path.stem, device
        self._network = classifiers.still(network).to(device)
        self._pipeline = Compose([plain(step) for step in pipeline if step["type"] != "LoadImageFromFile"])

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        return self._pipeline({"img": bgr, "img_shape": bgr.shape, "ori_shape": bgr.shape, "filename": None,
                               "ori_filename": None, "img_fields": ["img"]})["img"].numpy()  # fmt: skip

    def batch(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(prepared)).to(self._device)

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        return self._network(batch)[1].float()


def load(text: str, config: Mapping[str, Any] | None, pipeline: Sequence[Mapping[str, Any]], device: torch.device) -> Model:
    """A classifier: ``timm/<name>`` pretrained, a checkpoint that tells itself, or weights for the config's model, if any.

    Raises FileNotFoundError and ValueError.
    """
    if text.startswith("timm/") and not Path(text).exists():
        return _timm(text, device)
    path = files.find(text)
    if config is None or classifiers.tells_itself(classifiers.read(path)):
        return Ours(classifiers.load(path), path.stem, device)
    return Mmcls(path, config, pipeline, device)


def check_scores(name: str, scores: np.ndarray, classes: Sequence[str] | None, keys: Sequence[str]) -> None:
    """Raise ValueError where scores (N,K) of the images with these keys are of another number of classes, or not finite.

    Without classes any number of them is right.
    """
    if classes is not None and scores.shape[1] != len(classes):
        raise ValueError(f"{name} gives scores of {scores.shape[1]} classes, but the images have {len(classes)}; take a "
                         "classifier of these classes, or give the class list that is its own")  # fmt: skip
    odd = [key for key, good in zip(keys, np.isfinite(scores).all(1), strict=True) if not good]
    if odd:
        raise ValueError(f"the scores of {name} are not finite numbers, first those of {odd[0]}: weights are damaged; "
                         "get them again")  # fmt: skip


def fitted_path(first: Model, second: Model) -> Path:
    """Where the parameters of rules that are fitted lie. Raises ValueError where the classifiers are no files."""
    if first.path is None or second.path is None:
        raise ValueError(f"{', '.join(OURS)} are fitted for two files of weights, and stored beside the second: give files for "
                         "FIRST and --second_model_prefix, not timm/…")  # fmt: skip
    return second.path.with_suffix(".fitted.json")


def read_fitted(first: Model, second: Model, rules: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What ``test_ensemble.py --fit`` stored for these rules. Raises FileNotFoundError, ValueError."""
    if not rules:
        return {}
    path = fitted_path(first, second)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: fit it first, on known degradations, with test_ensemble.py --fit")
    found = files.read_json(path)
    digests = fitted_for(first, second)
    if {name: found.get(name) for name in digests} != digests:
        raise ValueError(f"{path} was fitted for other checkpoints; fit it anew with test_ensemble.py --fit")
    return {rule: found[rule] for rule in rules}


def fitted_for(first: Model, second: Model) -> dict[str, str]:
    """The digests that tell for which weights parameters were fitted."""
    return {"first_sha256": files.sha256(first.path), "second_sha256": files.sha256(second.path)}


def _timm(text: str, device: torch.device) -> Model:
    name = text.removeprefix("timm/")
    network = classifiers.build({"type": "timm", "name": name, "pretrained": True})
    told = network.model.pretrained_cfg
    size = told["input_size"][1]
    resize = round(size / (told.get("crop_pct") or 1))
    how = told.get("interpolation") if told.get("interpolation") in ("bilinear", "bicubic") else "bicubic"
    preprocess = Preprocess(size, resize, tuple(told["mean"]), tuple(told["std"]), how)
    return Ours(Classifier(classifiers.still(network), preprocess), name, device)


def plain(value: Any) -> Any:
    """A value of mmcv's Config with Python's own dicts; lists and tuples stay what they are."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value
