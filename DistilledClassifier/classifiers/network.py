"""A classifier as a network in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from DistilledClassifier.classifiers.cifar_resnet import CifarResNet


class Seen(NamedTuple):
    """The answer of a network to N images.

    features: (N,C). logits: (N,K). maps: (N,C,H,W), of its last stage; networks that pool inside
    their last stage have the features (N,C) here.
    """

    features: torch.Tensor
    logits: torch.Tensor
    maps: torch.Tensor

    def float(self) -> Seen:
        """Return the same in float32."""
        return Seen(*(tensor.float() for tensor in self))


class Network(nn.Module):
    """A classifier in three parts. Calling it gives `Seen`.

    model: holds the parameters under the names of its own library; checkpoints hold its state dict.
    maps: makes the maps of its last stage of normalised images (N,3,H,W). pool: makes the features
    (N,C) of them. head: the last layer, which makes the logits (N,K) of features.
    """

    def __init__(self, model: nn.Module, maps: Callable, pool: Callable, head: Callable):
        super().__init__()
        self.model = model
        # a tuple, because their modules are the model's and are not registered again
        self._parts = (maps, pool, head)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last stage makes of normalised images (N,3,H,W).

        It is (N,C,H,W), or as the library of the model has it.
        """
        return self._parts[0](x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (N,C) of normalised images (N,3,H,W): what the last layer sees."""
        return self._parts[1](self.maps(x))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (N,K) of features (N,C)."""
        return self._parts[2](features)

    @property
    def last(self) -> nn.Module:
        """Return the last layer, whose outputs are the classes."""
        return self._parts[2]

    def forward(self, x: torch.Tensor) -> Seen:
        maps = self.maps(x)
        features = self._parts[1](maps)
        shown = maps if isinstance(maps, torch.Tensor) else features
        return Seen(features, self.head(features), shown)


class NoLastLayerError(ValueError):
    """The logits of a model do not come from one last layer, so its features are unknown."""


def undivided(model: nn.Module) -> Network:
    """Return a network whose parts are unknown: its logits are its features too.

    model: from normalised images (N,3,H,W) to logits (N,K), or to an answer with ``.logits``.
    """
    whole = nn.Identity()
    return Network(model, _Logits(model).of, whole, whole)


class _Logits:
    """The logits of a model; a method, unlike a closure, follows a copied model."""

    def __init__(self, model: nn.Module):
        self._model = model

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N,K) of normalised images (N,3,H,W). Raises ValueError."""
        answer = self._model(x)
        logits = getattr(answer, "logits", answer)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            shape = tuple(getattr(logits, "shape", ())) or f"a {type(answer).__name__}"
            raise ValueError(
                f"{type(self._model).__name__} gives {shape} for {len(x)} images, but a "
                "classifier gives one score of each class for each image, (N,K)"
            )
        return logits


def still(network: Network) -> Network:
    """Return a network ready to judge: in eval mode, without gradients, as fast as it gets.

    Its memory layout is the one in which `Preprocess.normalise` leaves images.
    """
    network.eval().requires_grad_(False)
    if isinstance(network.model, CifarResNet):
        network.model.fold()
    return network.to(memory_format=torch.channels_last)
