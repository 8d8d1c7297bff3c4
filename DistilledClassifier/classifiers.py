"""Classifiers behind one protocol: ``features(x) -> (N,C)`` and ``head(features) -> (N,K)``, logits.

What a classifier wants to see (mean and standard deviation) belongs to it: `Classifier.scores` takes images as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.stride, self.grown = (1, 0) if width_in == width else (2, width - width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(h + F.pad(x, (0, 0, 0, 0, self.grown // 2, self.grown // 2)))


class CifarResNet(nn.Module):
    """The ResNet for 32 pixels of He et al. (arXiv:1512.03385, section 4.2), shortcut A; depth 20, 32, 44, 56 or 110.

    Parameters are named as in akamaster/pytorch_resnet_cifar10, whose weights load.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet of depth {depth} does not exist: depths are 6 n + 2, such as 20, 32, 44, 56")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width_in = 16
        for i, width in enumerate((16, 32, 64), start=1):
            blocks = [_Block(width_in if j == 0 else width, width) for j in range((depth - 2) // 6)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            width_in = width
        self.linear = nn.Linear(64, num_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N,3,H,W) to (N,64)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


@dataclass(frozen=True)
class Classifier:
    """A network in eval mode and what it wants to see. mean, std: of RGB in [0,1]."""

    model: nn.Module
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @torch.no_grad()
    def scores(self, pixels: np.ndarray, batch_size: int = 128) -> torch.Tensor:
        """Logits (N,K) of images uint8 (N,H,W,3)."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        parts = []
        for i in range(0, len(pixels), batch_size):
            x = torch.from_numpy(np.ascontiguousarray(pixels[i : i + batch_size])).permute(0, 3, 1, 2).float() / 255
            parts.append(self.model((x - mean) / std))
        return torch.cat(parts)


def load(path: Path) -> Classifier:
    """A classifier from its checkpoint: a CIFAR ResNet with the names of akamaster/pytorch_resnet_cifar10.

    Nothing in the file is executed. Raises FileNotFoundError where it is absent, ValueError for any other file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a classifier's checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what it cannot read
        raise ValueError(f"{path} is no checkpoint of tensors: {str(error).splitlines()[0]}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if not {"conv1.weight", "layer3.0.conv1.weight", "linear.weight"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of a CIFAR ResNet: it lacks conv1, layer3 or linear")
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    model = CifarResNet(6 * blocks + 2, num_classes=len(state["linear.weight"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit a CIFAR ResNet-{6 * blocks + 2}: {error}") from None
    return Classifier(model.eval().requires_grad_(False))
