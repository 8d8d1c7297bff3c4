"""What a network wants to see of an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """What a network wants to see: ``size`` pixels square, mean and std of RGB in [0,1].

    An image of that size is taken as it is. Any other is scaled so that its shorter side is ``resize`` pixels (default: size),
    and its middle is taken.
    """

    size: int
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation {self.interpolation!r} is neither bilinear nor bicubic"
            )
        if (self.resize or self.size) < self.size or self.size < 1:
            raise ValueError(f"resize {self.resize} must be at least size {self.size}")
        for name in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, name))
            if (
                len(value) != 3
                or not all(0 <= number <= 1 for number in value)
                or (name == "std" and 0 in value)
            ):
                raise ValueError(
                    f"preprocess {name} {list(value)} must be three numbers in 0..1, of RGB scaled to 0..1"
                )
            object.__setattr__(self, name, value)

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H,W,3) to uint8 (size,size,3)."""
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        image = Image.fromarray(pixels)
        scale = (self.resize or self.size) / min(image.size)
        how = Image.Resampling[self.interpolation.upper()]
        image = image.resize(
            (
                max(self.size, round(image.width * scale)),
                max(self.size, round(image.height * scale)),
            ),
            how,
        )
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N,H,W,3) to float (N,3,H,W)."""
        mean, std = (
            torch.tensor(value, device=pixels.device)[:, None, None]
            for value in (self.mean, self.std)
        )
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
