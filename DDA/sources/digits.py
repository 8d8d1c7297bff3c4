"""The handwritten digits that scikit-learn carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import tree
from DDA.sources.arrays import Arrays, Rows

DIGITS = "digits"  # a source by its name


def digits(classes: Sequence[str] | None, size: int = 16, held_out: int = 360) -> Arrays:
    """Open the 1,797 handwritten digits that scikit-learn carries, at 16 pixels.

    They come from the UCI repository (Alpaydin & Kaynak), as 8x8 counts of ink in 0..16. The last
    360 are the test split.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("`source` digits needs scikit-learn: pip install scikit-learn") from None

    carried = load_digits()
    ink = (carried.images * (255 / 16)).round().astype(np.uint8)
    small = (Image.fromarray(image) for image in ink)
    resized = [image.resize((size, size), Image.Resampling.BICUBIC) for image in small]
    pixels = np.stack([np.asarray(image) for image in resized])
    source = Arrays(Path(DIGITS), classes or tree.class_list(DIGITS))
    for split, part in (("train", slice(-held_out)), ("test", slice(-held_out, None))):
        rows = Rows(lambda part=part: pixels[part])
        source.add(f"clean/{split}", rows, len(pixels[part]), carried.target[part])
    return source
