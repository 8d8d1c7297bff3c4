"""The ResNet for images of 32 pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from DDA import tree

DEEPEST = 6002  # layers; the deepest published network has 1202


class _Block(nn.Module):
    """Two convolutions of 3x3 and a shortcut, which pads where the width grows."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.stride, self.grown = (1, 0) if width_in == width else (2, width - width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.grown:
            each = self.grown // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, each, each))
        return F.relu(h.add_(x), inplace=True)


class CifarResNet(nn.Module):
    """The ResNet for 32 pixels of He et al. (arXiv:1512.03385, section 4.2), with shortcut A.

    Depths are 6 n + 2; published are 20, 32, 44, 56 and 110. Parameters are named as in
    akamaster/pytorch_resnet_cifar10, whose weights load.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        if not isinstance(depth, int) or not 8 <= depth <= DEEPEST or (depth - 2) % 6:
            raise ValueError(
                f"a CIFAR ResNet of depth {tree.shown(depth)} does not exist: depths are 6 n + 2, "
                f"such as 20, 32, 44, 56, up to {DEEPEST}"
            )
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"`num_classes` {tree.shown(num_classes)} is no whole number above 0")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width_in = 16
        for i, width in enumerate((16, 32, 64), start=1):
            blocks = [_Block(width_in if j == 0 else width, width) for j in range((depth - 2) // 6)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            width_in = width
        self.linear = nn.Linear(64, num_classes)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (N,64,H/4,W/4) of images (N,3,H,W)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.layer3(self.layer2(self.layer1(x)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the features (N,64) of maps (N,64,H/4,W/4)."""
        return maps.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pool(self.maps(x)))

    def fold(self) -> None:
        """Merge each BatchNorm into the convolution before it, in eval mode.

        The logits stay the same but for rounding, and come sooner.
        """
        for module in [self, *(block for block in self.modules() if isinstance(block, _Block))]:
            for conv, bn in (("conv1", "bn1"), ("conv2", "bn2")):
                norm = getattr(module, bn, None)
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), norm))
                    setattr(module, bn, nn.Identity())
