"""Adapted copies that are kept on disk by what decides them, so that no image is adapted twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from DDA import images, inputs, ledger, settings
from DDA.image_adapt import settings as settings_module
from DDA.image_adapt.adapter import Adapter


class CachedAdapter:
    """An adapter that keeps its copies, and reads a copy that it has made before.

    A copy lies under the digest of all that decides it: the image's pixels and key, the seed, the
    settings and the weights. So nothing in the folder is ever out of date, renamed images have
    their copies, and the folder may be removed at any time.

    Args:
        adapter: makes the copies. Published behaviour, where neighbours matter, is refused.
        folder: the folder that keeps copies of all settings (default: ``diffaud`` in
            ``$XDG_CACHE_HOME``, or in ``~/.cache``).

    Raises:
        ValueError: the adapter has published behaviour, or the folder cannot be written.

    Example:
        >>> from DDA.image_adapt.cache import CachedAdapter
        >>> cached = CachedAdapter(adapter, out)
        >>> copies = cached.pixels([np.zeros((20, 30, 3), np.uint8)])
        >>> copies.shape, len(list(cached.folder.rglob("*.png")))
        ((1, 16, 16, 3), 1)
    """

    def __init__(self, adapter: Adapter, folder: str | PathLike[str] | None = None) -> None:
        if adapter.settings.behavior != "corrected":
            raise ValueError(
                "`behavior` published gives copies that depend on their neighbours; they cannot be "
                "kept one by one"
            )
        self.adapter, self._fit = adapter, adapter.fitting()
        self._identity = settings_module.identity(
            {"weights_sha256": adapter.prior.sha256, **adapter.prior.settings},
            adapter.settings,
            dtype=adapter.dtype,
            same_format=False,
            batch_size=adapter.batch_size,
            fit=adapter.fit,
        )
        root = _user_folder() if folder is None else settings.as_path("cache", folder)
        text = json.dumps(self._identity, sort_keys=True, default=str)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        settings.check_writable("cache", self.folder)

    def pixels(
        self, pixels: Sequence[np.ndarray], keys: Sequence[str] | None = None
    ) -> inputs.Copies:
        """Return the copies of images uint8 (H,W,3) of any sizes, in the form of `Adapter.pixels`.

        keys: as those of an `Adapter`. Copies that are not there, or are damaged, are made and
        kept. Raises ValueError as `Adapter.pixels` does.
        """
        keys = inputs.keys(pixels, keys)
        places = [self._place(image, key) for image, key in zip(pixels, keys, strict=True)]
        shapes = [self._fit.shape(image.shape[1], image.shape[0]) for image in pixels]
        copies = [self._kept(*kept) for kept in zip(places, shapes, strict=True)]
        missing = [i for i, copy in enumerate(copies) if copy is None]
        if missing:
            ledger.claim(self.folder, json.loads(json.dumps(self._identity, default=str)))
            made = self.adapter.pixels([pixels[i] for i in missing], [keys[i] for i in missing])
            for i, copy in zip(missing, made, strict=True):
                places[i].parent.mkdir(exist_ok=True)
                images.write_image(places[i], copy)
                copies[i] = copy
        return inputs.together(copies, self.adapter.image_size)

    def _place(self, image: np.ndarray, key: str) -> Path:
        digest = hashlib.sha256(f"{image.shape}\n{key}\n".encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(image))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.png"

    def _kept(self, place: Path, shape: tuple[int, int]) -> np.ndarray | None:
        """Return the copy that lies at a place; None where there is none, or a damaged one.

        shape: its height and width.
        """
        try:
            copy = np.asarray(images.read_rgb(place))
        except Exception:  # whatever is wrong with the file, the copy is made anew
            return None
        return copy if copy.shape == (*shape, 3) else None


def _user_folder() -> Path:
    """Return the folder of this user's copies."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "diffaud" / "adapted"
