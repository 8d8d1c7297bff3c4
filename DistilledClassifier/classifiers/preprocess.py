"""Preprocessing: the size and the range in which a network sees images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from DDA import images

MOST = 4096  # pixels at a side; no classifier sees larger images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """The form in which a network sees images.

    size: the side of its square images in pixels. An image of that size is taken as it is. Any
    other is scaled until its shorter side is ``resize`` pixels (default: size), and its middle is
    taken. mean, std: of RGB in [0,1]. interpolation: bilinear or bicubic. Raises ValueError.
    """

    size: int
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Check the settings, and make tuples of floats of the means and deviations."""
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation {self.interpolation!r} is neither bilinear nor bicubic"
            )
        if (self.resize or self.size) < self.size or self.size < 1:
            raise ValueError(f"`resize` {self.resize} must be at least `size` {self.size}")
        if max(self.resize or 0, self.size) > MOST:
            raise ValueError(f"`size` {self.size} must be at most {MOST} pixels, as `resize`")
        for name in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, name))
            in_range = len(value) == 3 and all(0 <= number <= 1 for number in value)
            if not in_range or (name == "std" and 0 in value):
                above = " above 0" if name == "std" else ""
                raise ValueError(
                    f"preprocess {name} {list(value)} must be three numbers in 0..1{above}, of "
                    "RGB scaled to 0..1"
                )
            object.__setattr__(self, name, value)

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """Return uint8 (size,size,3) of an image, uint8 (H,W,3)."""
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        image = Image.fromarray(pixels)
        scale = (self.resize or self.size) / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        how = Image.Resampling[self.interpolation.upper()]
        return np.asarray(images.resized_middle(image, (width, height), self.size, how))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalised float (N,3,H,W) of images, uint8 (N,H,W,3)."""
        mean, std = (
            torch.tensor(value, device=pixels.device)[:, None, None]
            for value in (self.mean, self.std)
        )
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
