"""A tree of adapted copies in shards as a source (`DDA.shards`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import files, images, ledger, shards, tree
from DDA.sources.arrays import Arrays


class Copies(Arrays):
    """Adapted copies in shards. Raises BadFile for a damaged shard."""

    def __init__(self, path: Path, classes: Sequence[str] | None = None):
        super().__init__(path, tree.read_classes(path) if classes is None else classes)
        listed = shards.listed(path, _folders(path))
        for shard, reason in listed.damaged.items():
            raise files.BadFile(
                f"{path / shard} is damaged ({reason}); the command that made it makes it again"
            )
        for shard in listed.digests:
            self._add_shard(path / shard)

    def _add_shard(self, path: Path) -> None:
        part = _Shard(path)
        for row, key in enumerate(part.keys):
            if self._places.setdefault(f"{key}{shards.SUFFIX}", (part, row))[0] is not part:
                raise files.BadFile(
                    f"{path} holds {tree.shown(key)}, which another shard holds too"
                )
        parents = {key.rpartition("/")[0] for key in part.keys} - {""}
        self._folders |= parents

    def is_adapted(self, folder: str, save_dir: Path | None) -> bool:
        """Return False: the folders of a tree of copies are its cells."""
        return False


class _Shard:
    """One shard: its images by their number in the order of their keys."""

    def __init__(self, path: Path):
        self._path, self._index = path, shards.read_index(path)
        self.keys = list(self._index.places)

    def read(self, row: int) -> Image.Image:
        """Return an image as RGB."""
        return images.read_rgb(Path(self.keys[row]), data=self.encoded(row))

    def pixels(self, row: int) -> np.ndarray:
        """Return an image as uint8 (H,W,3)."""
        return np.asarray(self.read(row))

    def encoded(self, row: int) -> bytes:
        """Return the bytes of an image's file."""
        with files.open_regular(self._path) as file:
            return self._index.read(file, self.keys[row])


def copies_in_shards(path: Path, classes: Sequence[str] | None = None) -> Copies | None:
    """Return the tree of copies in a folder whose settings say that they lie in shards."""
    settings = ledger.read_settings(path)
    return Copies(path, classes) if (settings or {}).get("format") == shards.FORMAT else None


def _folders(root: Path) -> list[str]:
    """Return the folders that hold shards, relative to ``root``."""
    paths = (path.rpartition("/") for path in tree.walk(root))
    named = {folder or "." for folder, _, name in paths if shards.NAME.fullmatch(name)}
    return sorted(named)
