"""A classifier as a network in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from DistilledClassifier.classifiers.cifar_resnet import CifarResNet


class Network(nn.Module):
    """A classifier in two parts: ``features(x) -> (N,C)``, ``head(features) -> (N,K)``; calling it gives both.

    model holds the parameters under the names of its own library; its state dict is what checkpoints hold.
    """

    def __init__(self, model: nn.Module, features: Callable, head: Callable):
        super().__init__()
        self.model = model
        self._features, self._head = features, head

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N,3,H,W) to what the last layer sees, (N,C)."""
        return self._features(x)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """(N,C) to logits (N,K)."""
        return self._head(features)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return features, self.head(features)


def still(network: Network) -> Network:
    """In eval mode, without gradients, as fast as it gets, in the layout in which `Preprocess.normalise` leaves images."""
    network.eval().requires_grad_(False)
    if isinstance(network.model, CifarResNet):
        network.model.fold()
    return network.to(memory_format=torch.channels_last)
