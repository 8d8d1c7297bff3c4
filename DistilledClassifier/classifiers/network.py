"""A classifier as a network in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from DistilledClassifier.classifiers.cifar_resnet import CifarResNet


class Seen(NamedTuple):
    """What a network makes of images: features (N,C), logits (N,K), and the maps (N,C,H,W) of its last stage.

    Networks that pool inside their last stage have (N,C) for the maps.
    """

    features: torch.Tensor
    logits: torch.Tensor
    maps: torch.Tensor

    def float(self) -> Seen:
        """The same in float32."""
        return Seen(*(tensor.float() for tensor in self))


class Network(nn.Module):
    """A classifier in three parts: ``maps(x)``, ``pool(maps) -> (N,C)``, ``head(features) -> (N,K)``; calling it gives `Seen`.

    model holds the parameters under the names of its own library; its state dict is what checkpoints hold.
    """

    def __init__(self, model: nn.Module, maps: Callable, pool: Callable, head: Callable):
        super().__init__()
        self.model = model
        self._parts = (
            maps,
            pool,
            head,
        )  # a tuple: their modules are the model's and are not registered again

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N,3,H,W) to what the last stage makes of them: (N,C,H,W), or as its library has it."""
        return self._parts[0](x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N,3,H,W) to what the last layer sees, (N,C)."""
        return self._parts[1](self.maps(x))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """(N,C) to logits (N,K)."""
        return self._parts[2](features)

    @property
    def last(self) -> nn.Module:
        """The last layer, whose outputs are the classes."""
        return self._parts[2]

    def forward(self, x: torch.Tensor) -> Seen:
        maps = self.maps(x)
        features = self._parts[1](maps)
        return Seen(
            features, self.head(features), maps if isinstance(maps, torch.Tensor) else features
        )


def still(network: Network) -> Network:
    """In eval mode, without gradients, as fast as it gets, in the layout in which `Preprocess.normalise` leaves images."""
    network.eval().requires_grad_(False)
    if isinstance(network.model, CifarResNet):
        network.model.fold()
    return network.to(memory_format=torch.channels_last)
