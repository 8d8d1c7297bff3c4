"""Trees of made images: write them with several processes, and go on where a run stopped.

Each folder that a run fills (``jpeg``, ``gaussian_noise/5``) has a manifest
``made.<folder>.json`` at the tree's root. It tells how the folder was made and from what, and for
every image the level that was drawn for it and the SHA-256 of its file.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from DDA import files, images, ledger, tree
from DDA.progress import Show
from DDA.sources import Folder, Source, open_official
from DistilledClassifier.recipes import Recipe, generator
from DistilledClassifier.verify import Manifest

BEST = {"quality": 95, "subsampling": 0}  # of a format that loses something

# an image's target, the SHA-256 of its file, and the reason where there is no file
Made = tuple[str, str | None, str | None]


class LostWorker(RuntimeError):
    """A process that made images died."""


class LostFolder(OSError):
    """A folder cannot be written to any more."""


@dataclass(frozen=True)
class Task:
    """One image to make: ``name`` in the source becomes ``target`` in the tree."""

    recipe: Recipe
    name: str
    target: str


def write(
    source: Source,
    reopen: tuple,
    tasks: Sequence[Task],
    save_dir: Path,
    *,
    seed: int,
    workers: int,
    show: Show,
) -> dict[str, str]:
    """Write the tasks' images that are not there yet; return the reason of each failed target.

    reopen: the arguments of `sources.open_official`, with which every process opens the source.
    Raises ValueError where a folder holds images that were made in another way, or that were not
    made here.
    """
    if ledger.read_settings(save_dir) is not None:
        raise ValueError(f"`save_dir` {save_dir} holds adapted images; choose another folder")
    folders: dict[str, list[Task]] = {}
    for task in tasks:
        folders.setdefault(task.recipe.folder, []).append(task)
    saved = tree.list_saved(save_dir, folders, at_root=True)
    parts = []
    for folder, group in folders.items():
        part = _Part(save_dir, group, source, seed, saved.images[folder])
        part.check()
        parts.append(part)
    files.make_folder(save_dir)
    tree.sweep_temporaries(save_dir, saved.unfinished)
    if source.classes:
        tree.write_classes(save_dir, source.classes)
    for part in parts:
        part.begin()
    progress = show.progress(sum(len(part.todo) for part in parts))
    failures: dict[str, str] = {}
    with _naming(save_dir), _pool(workers, reopen, save_dir, seed) as make:
        for part in parts:
            digests: dict[str, str] = {}
            for target, digest, failure in make(part.todo):
                if failure is None:
                    digests[target] = digest
                else:
                    failures[target] = failure
                progress.add([(failure is None, failure is not None)])
            part.end(digests, failures)
    return failures


@contextlib.contextmanager
def _naming(save_dir: Path) -> Iterator[None]:
    """Turn an OSError of what is written inside the block into a LostFolder in words."""
    try:
        yield
    except OSError as error:
        reason = f"{error}"
        if error.strerror is not None:
            reason = f"`save_dir` {save_dir} cannot be written: {error.strerror}; make room"
        raise LostFolder(
            f"{reason}; what was written is complete; run the same command again to go on"
        ) from error


class _Part:
    """A folder that a run fills: its tasks, those that are to do, and its manifest, if any.

    saved: the paths of the images that are there, by key.
    """

    def __init__(
        self,
        save_dir: Path,
        tasks: Sequence[Task],
        source: Source,
        seed: int,
        saved: Mapping[str, str],
    ):
        self._save_dir, self._source, self._seed = save_dir, source, seed
        self._tasks, self._saved = tasks, saved
        self._recipe = tasks[0].recipe
        self._path = ledger.manifest_path(save_dir, "made", self._recipe.folder)
        self._manifest = ledger.read_manifest(self._path, Manifest)
        self._settings = {**asdict(self._recipe), "seed": seed}
        if source.upright:
            self._settings["orientation"] = "apply"
        self.todo = [task for task in tasks if tree.key_of(task.target) not in saved]

    def check(self) -> None:
        """Raise ValueError where the folder is not this run's to fill."""
        if not self._saved:
            return
        folder = self._save_dir / self._recipe.folder
        if not self._manifest:
            others = sorted(self._save_dir.glob(f"{self._path.stem}.*.json"))
            reason = f"were not made here ({self._path.name} is missing)"
            if others:
                reason = f"were made in another way ({others[0].name})"
            raise ValueError(f"{folder} holds images that {reason}; choose another `save_dir`")
        differences = ledger.differences(self._manifest["settings"], self._settings)
        todo = {task.name for task in self.todo}
        done = {task.name for task in self._tasks} - todo
        known = {k: v for k, v in self._manifest["source_sha256"].items() if k in done}
        changed = ledger.changed(self._source.digest, known)
        if changed is not None:
            differences.append(f"another source ({self._source.where(changed)} has changed)")
        if differences:
            raise ValueError(
                f"{folder} was made in another way: {'; '.join(differences)}; "
                "choose another `save_dir`, or remove it"
            )

    def begin(self) -> None:
        """Write the manifest of a folder with work to do, so that an interrupted run is known."""
        if not self.todo:
            return
        todo = [task.name for task in self.todo]
        self._manifest = {
            "images": {},
            **self._manifest,
            "folder": self._recipe.folder,
            "settings": self._settings,
            "source": str(self._source.path.resolve()),
            "source_sha256": ledger.sources(self._source.digest, self._manifest, todo),
        }
        ledger.write_manifest(self._path, self._manifest, {}, running=True)

    def end(self, digests: Mapping[str, str], failures: Mapping[str, str]) -> None:
        """Complete the manifest.

        The entries of an earlier run's images stay, whatever lies there now. An image outside this
        run's tasks keeps its entry while it lies there; an earlier run had another num_samples or
        list.

        digests: the SHA-256 of each target that was written now.
        """
        if not self.todo and self._manifest.get("state") != ledger.RUNNING:
            return
        targets = [task.target for task in self._tasks]
        failed = {target: failures[target] for target in targets if target in failures}
        planned = dict.fromkeys(target for target in targets if target not in failed)
        made = {}
        for target, entry in self._manifest["images"].items():
            is_there = target not in failed and (self._save_dir / target).is_file()
            if target in planned or is_there:
                made[target] = entry
        for target in planned:
            # images without an entry and a digest were written by a run that was stopped
            if target in digests or target not in made:
                digest = digests.get(target) or files.sha256(self._save_dir / target)
                made[target] = self._drawn(target) | {"sha256": digest}
        ledger.write_manifest(self._path, self._manifest | {"images": made}, failed)

    def _drawn(self, target: str) -> dict[str, Any]:
        """Return the degradation and the level that an image's random stream drew."""
        if self._recipe.kind == "copy":
            return {}
        name, level = self._recipe.draw(generator(self._seed, tree.key_of(target)))
        return {"name": name, "level": level}


# ------------------------------------------------------------------------------------ processes


@contextlib.contextmanager
def _pool(
    workers: int, reopen: tuple, save_dir: Path, seed: int
) -> Iterator[Callable[[Sequence[Task]], Iterable[Made]]]:
    """Yield a function that makes the images of tasks and returns their outcomes in order.

    Several workers are processes, each of which opens the source for itself.
    """
    if workers == 1:
        _open(reopen, save_dir, seed)
        yield partial(map, _make)
        return
    start = (reopen, save_dir, seed, os.getpid())
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, start) as pool:
        # the processes start here and inherit that they ignore Ctrl-C: the parent stops them
        handler = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pool.submit(int)
        signal.signal(signal.SIGINT, handler)
        try:
            yield partial(pool.map, _make, chunksize=32)
        finally:
            pool.shutdown(cancel_futures=True)


_here: tuple[Source, Path, int]  # the source, the tree and the seed of a process


def _open(reopen: tuple, save_dir: Path, seed: int) -> None:
    """Open the source that this process reads."""
    global _here  # noqa: PLW0603 - one source a process, opened once
    _here = (open_official(*reopen), save_dir, seed)


def _start_worker(reopen: tuple, save_dir: Path, seed: int, parent: int) -> None:
    """Prepare a process, which ends when its parent does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _open(reopen, save_dir, seed)


def _make(task: Task) -> Made:
    """Write one image, and return its outcome."""
    source, save_dir, seed = _here
    try:
        path = save_dir / tree.check_name(task.target, source.path)
        image = source.read(task.name)  # for copies too: a damaged image is not passed on
        data = source.encoded(task.name) if task.recipe.kind == "copy" else None
        if data is None:
            stream = generator(seed, tree.key_of(task.target))
            pixels = task.recipe.apply(np.asarray(image), stream)
    # PIL and its plugins raise many types for damaged files, and a recipe refuses tiny images
    except Exception as error:
        return task.target, None, f"{source.where(task.name)}: {error or type(error).__name__}"
    files.make_folders(save_dir, path.parent)
    if data is None:
        # copies are as they were: all but the loss of turning a JPEG is avoided
        images.write_image(path, pixels, **(BEST if task.recipe.kind == "copy" else {}))
    elif not (isinstance(source, Folder) and _link(source.where(task.name), path)):
        files.write_bytes(path, data, sync=False)
    return task.target, files.sha256(path), None


def _link(file: Path, path: Path) -> bool:
    """Give a file a second name, which costs no space; tell whether the file system can."""
    try:
        os.link(file.resolve(), path)
    except OSError:
        return False
    return True
