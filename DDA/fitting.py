"""Images of any shape as a prior can adapt them: their middle square, whole, or padded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from DDA import images, settings

FITS = ("square", "whole", "pad")
LONGEST = 16  # of an image that is longer than so many times its shorter side the middle is kept


class Fitted(NamedTuple):
    """An image as a network takes it.

    canvas: uint8 (H,W,3); its first ``height`` rows and ``width`` columns are the image, and what
    is below and right of them is its reflection.
    """

    canvas: np.ndarray
    height: int
    width: int

    @property
    def image(self) -> np.ndarray:
        """Return the image without its reflection, uint8 (height,width,3)."""
        return self.canvas[: self.height, : self.width]

    def cut(self, values: np.ndarray) -> np.ndarray:
        """Return the part (3,height,width) of an adapted canvas (3,H,W) that is the image."""
        return values[:, : self.height, : self.width]


@dataclass(frozen=True)
class Fit:
    """The way in which images are resized for a prior.

    size: the side of the prior's images in pixels. how: ``square`` keeps the middle square, as
    guided-diffusion does. ``whole`` resizes the shorter side to ``size`` and keeps the rest, of
    very long images the middle of LONGEST squares. ``pad`` resizes the longer side to ``size`` and
    fills the square with a reflection. multiple: what both sides of a canvas must be a multiple of;
    it divides ``size``. Raises ValueError for an unknown way.
    """

    size: int
    how: str = "square"
    multiple: int = 1

    def __post_init__(self) -> None:
        """Check the way."""
        settings.check_one_of("fit", self.how, FITS)

    def __call__(self, image: Image.Image) -> Fitted:
        """Return an RGB image as the network takes it."""
        if self.how == "square":
            return Fitted(images.fit_square(image, self.size), self.size, self.size)
        image = self._middle(image)
        *halves, last = self._sizes(*image.size)
        for half in halves:
            image = image.resize(half, Image.Resampling.BOX)
        pixels = np.asarray(image.resize(last, Image.Resampling.BICUBIC))
        height, width = pixels.shape[:2]
        wanted = self._canvas(height, width)
        below, right = wanted[0] - height, wanted[1] - width
        canvas = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect")
        return Fitted(canvas, height, width)

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and the width of the copy of an image of this width and height."""
        if self.how == "square":
            return self.size, self.size
        columns, rows = self._sizes(*self._kept_lengths(width, height))[-1]
        return rows, columns

    def canvas_shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and the width of the canvas of an image of this width and height."""
        return self._canvas(*self.shape(width, height))

    def at_once(self, shape: Sequence[int], batch_size: int) -> int:
        """Return how many canvases (height,width,…) have the pixels of ``batch_size`` squares.

        It is 1 at least, so that what fits into the memory for squares does so for other images.
        """
        return max(1, batch_size * self.size**2 // (shape[0] * shape[1]))

    def kept(self, width: int, height: int) -> float:
        """Return the share of the area of an image that is kept, in 0..1."""
        columns, rows = self._kept_lengths(width, height)
        return columns * rows / (width * height)

    def _kept_lengths(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and the height of the middle that is kept."""
        if self.how == "pad":
            return width, height
        most = min(width, height) * (LONGEST if self.how == "whole" else 1)
        return min(width, most), min(height, most)

    def _middle(self, image: Image.Image) -> Image.Image:
        width, height = self._kept_lengths(*image.size)
        if (width, height) == image.size:
            return image
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def _sizes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Return the widths and heights to which an image is resized one after the other.

        It is halved while that is possible, as by `images.fit_square`.
        """
        measure = max if self.how == "pad" else min
        sizes = []
        while measure(width, height) >= 2 * self.size:
            width, height = max(1, width // 2), max(1, height // 2)
            sizes.append((width, height))
        scale = self.size / measure(width, height)
        return [*sizes, (max(1, round(width * scale)), max(1, round(height * scale)))]

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and the width of the canvas for a copy of this height and width."""
        if self.how == "pad":
            return self.size, self.size
        rows, columns = (math.ceil(length / self.multiple) for length in (height, width))
        return rows * self.multiple, columns * self.multiple
