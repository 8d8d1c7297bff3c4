"""The CIFAR ResNet (He et al., arXiv:1512.03385, section 4.2, shortcut A) whose published weights measure the slow tests."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.stride, self.grown = (1, 0) if width_in == width else (2, width - width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(h + F.pad(x, (0, 0, 0, 0, self.grown // 2, self.grown // 2)))


class ResNet(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = ((16, 16), (16, 32), (32, 64))
        for i, (width_in, width) in enumerate(widths, start=1):
            blocks = [Block(width_in if j == 0 else width, width) for j in range((depth - 2) // 6)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def load(path: Path, depth: int) -> nn.Module:
    """A published checkpoint (akamaster/pytorch_resnet_cifar10)."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet(depth)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N,32,32,3) to (N,10)."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return torch.cat([model(part) for part in ((x - mean[:, None, None]) / std[:, None, None]).split(100)])
