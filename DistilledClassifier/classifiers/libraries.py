"""Networks of our own, of timm, torchvision, Hugging Face and mmcls behind one interface.

A new kind of network is a builder here and its entry in `build`.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from DDA import tree
from DDA.progress import printable
from DistilledClassifier.classifiers.cifar_resnet import CifarResNet
from DistilledClassifier.classifiers.network import Network, NoLastLayerError, undivided


def build(config: Mapping[str, Any]) -> Network:
    """Return the network that a model dict describes, with fresh weights.

    Args:
        config: ``{"type": "CifarResNet", "depth": 20, "num_classes": 10}``; or ``{"type": "timm",
            "name": …, "num_classes": …}`` and what else timm's create_model takes, ``pretrained``
            too; or ``{"type": "torchvision", "name": …, "num_classes": …}`` and what else
            torchvision's get_model takes, ``weights`` too; or ``{"type": "transformers", "config":
            …, "num_classes": …}`` with the content of a config.json; or a model dict of mmcls
            (``{"type": "ImageClassifier", "backbone": …, …}``). ``"undivided": True`` is for
            networks without one last layer: their logits are their features too.

    Returns:
        The network in its three parts, in training mode, on the CPU.

    Raises:
        ValueError: the network cannot be built, or its library is missing. NoLastLayerError: its
            logits do not come from one last layer.

    Example:
        >>> network = build({"type": "CifarResNet", "depth": 8, "num_classes": 3})
        >>> network(torch.zeros(2, 3, 32, 32)).logits.shape
        torch.Size([2, 3])
    """
    settings = copy.deepcopy(dict(config))
    kind = settings.pop("type", None)
    builders = {
        "CifarResNet": _build_cifar,
        "timm": _build_timm,
        "torchvision": _build_torchvision,
        "transformers": _build_transformers,
        "ImageClassifier": _build_mmcls,
    }
    if str(kind) not in builders:
        known = ", ".join(builders)
        raise ValueError(f"classifier type {tree.shown(kind)} is unknown; use one of {known}")
    is_undivided = settings.pop("undivided", False)
    try:
        return builders[kind](settings, is_undivided)
    except ValueError:
        raise
    except Exception as error:  # libraries raise many types for arguments that cannot be meant
        reason = printable(" ".join(str(error).split()))[:200]
        raise ValueError(f"classifier {kind}: {reason}") from None


def unfilled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model dict that fetches no pretrained weights, because others take their place."""
    fetching = {"timm": "pretrained", "torchvision": "weights"}.get(config.get("type", ""))
    return {name: value for name, value in config.items() if name != fetching}


def _build_cifar(settings: dict, is_undivided: bool = False) -> Network:
    del is_undivided  # its parts are known
    model = CifarResNet(**settings)
    return Network(model, model.maps, model.pool, model.linear)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide the import warnings of mmcv and mmcls, which a user cannot fix."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _build_timm(settings: dict, is_undivided: bool = False) -> Network:
    try:
        import timm
    except ImportError:
        raise ValueError("classifiers of timm need it: pip install timm") from None
    name = settings.pop("name", None)
    try:
        model = timm.create_model(name, **settings)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise ValueError(f"timm cannot build {name}: {error}") from None
        nearest = difflib.get_close_matches(str(name), timm.list_models(), 3)
        advice = f"the nearest: {', '.join(nearest)}" if nearest else "see timm.list_models()"
        raise ValueError(f"timm has no model {name}; {advice}") from None
    except Exception as error:  # the hub and the network raise many types
        if not settings.get("pretrained"):
            raise
        raise ValueError(
            f"the pretrained weights of timm/{name} could not be fetched "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check the connection to "
            "the hub, or fetch the file elsewhere, and give it as `init` with pretrained=false, or "
            "as the `weights` of import_classifier.py"
        ) from None
    if is_undivided:
        return undivided(model)
    last = model.get_classifier()
    if not isinstance(last, nn.Module):
        raise _no_last_layer(f"timm/{name}")
    return Network(
        model, model.forward_features, partial(model.forward_head, pre_logits=True), last
    )


def _build_torchvision(settings: dict, is_undivided: bool = False) -> Network:
    try:
        from torchvision import models
    except ImportError:
        raise ValueError("classifiers of torchvision need it: pip install torchvision") from None
    name = str(settings.pop("name", None))
    if name not in models.list_models():
        nearest = difflib.get_close_matches(name, models.list_models(), 3)
        advice = (
            f"the nearest: {', '.join(nearest)}" if nearest else "see torchvision's list_models"
        )
        raise ValueError(f"torchvision has no model {name}; {advice}")
    try:
        model = models.get_model(name, **settings)
    except (ValueError, KeyError) as error:
        raise ValueError(f"torchvision cannot build {name}: {error}") from None
    except OSError as error:
        raise ValueError(
            f"the pretrained weights of torchvision/{name} could not be fetched ({error}); check "
            "the connection, or fetch the file elsewhere, and give it as `init`, or as the "
            "`weights` of import_classifier.py"
        ) from None
    if is_undivided:
        return undivided(model)
    linear = [part for part, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or getattr(model, "aux_logits", False):
        raise _no_last_layer(f"torchvision/{name}")
    return _until(model, linear[-1])


def _no_last_layer(name: str) -> NoLastLayerError:
    return NoLastLayerError(
        f"{name} has no single last layer, so its features are unknown; choose another model, or "
        "one that import_classifier.py made of it"
    )


def _build_transformers(settings: dict, is_undivided: bool = False) -> Network:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError:
        raise ValueError(
            "classifiers of Hugging Face need transformers: pip install 'diffaud[transformers]'"
        ) from None
    entries, classes = dict(settings.pop("config")), settings.pop("num_classes", None)
    if settings:
        raise TypeError(f"{', '.join(settings)} is unknown beside config and num_classes")
    kind = entries.pop("model_type", None)
    if classes is not None:
        labels = ("id2label", "label2id")
        entries = {name: value for name, value in entries.items() if name not in labels}
        entries["num_labels"] = classes
    try:
        config = AutoConfig.for_model(kind, **entries)
        model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # each model has types of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"transformers cannot build a classifier {kind}: {reason}") from None
    if is_undivided:
        return undivided(model.float())
    linear = [part for part, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise _no_last_layer(f"transformers' {kind}")
    return _until(model.float(), linear[-1])


def _until(model: nn.Module, last: str) -> Network:
    """Return a network whose features are what the last layer sees. last: its name."""
    features = _LastInput(model, last)
    return Network(model, features.of, nn.Identity(), model.get_submodule(last))


class _LastInput:
    """The input of a model's last layer; a method, unlike a closure, follows a copied model."""

    def __init__(self, model: nn.Module, last: str):
        self._model, self._last = model, last

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (N,C) of normalised images (N,3,H,W)."""
        features = []

        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            features.append(inputs[0])

        handle = self._model.get_submodule(self._last).register_forward_pre_hook(keep)
        try:
            self._model(x)
        finally:
            handle.remove()
        return features[0]


def _build_mmcls(settings: dict, is_undivided: bool = False) -> Network:
    del is_undivided  # its parts are known
    try:
        with quietly():
            from mmcls.models import build_classifier
    except ImportError as error:
        raise ValueError(
            f"mmcls models need mmcls 0.25 and mmcv 1.7: pip install 'diffaud[mmcls]' ({error})"
        ) from None
    try:
        model = build_classifier({"type": "ImageClassifier", **settings})
    except (KeyError, AssertionError) as error:
        raise ValueError(f"mmcls cannot build the model: {error}") from None
    layers = getattr(model.head, "layers", None)
    last = getattr(model.head, "fc", None) or getattr(layers, "head", None)
    if last is None:
        raise ValueError(
            f"the mmcls head {type(model.head).__name__} has no last layer fc; use a LinearClsHead"
        )
    parts = _MmclsParts(model)
    return Network(model, parts.maps, parts.pool, last)


class _MmclsParts:
    """The parts of a model of mmcls before its last layer.

    They are methods, because methods, unlike closures, follow a model that is copied.
    """

    def __init__(self, model: nn.Module):
        self._model = model

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last stage makes of images (N,3,H,W)."""
        return self._model.extract_feat(x, stage="backbone")[-1]

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the features (N,C) of maps."""
        stages = (maps,)
        if self._model.with_neck:
            stages = self._model.neck(stages)
        return self._model.head.pre_logits(stages)
