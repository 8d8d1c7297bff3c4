"""Trees of made images: write them with several processes, go on where a run stopped, and check them.

Each folder that a run fills (``jpeg``, ``gaussian_noise/5``) has a manifest ``made.<folder>.json`` at the tree's root: how it
was made, from what, and for every image the level that was drawn for it and the SHA-256 of its file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from DDA import files, images, tree
from DDA.progress import Progress
from DDA.sources import Folder, Source, open_official
from DistilledClassifier import degradations


@dataclass(frozen=True)
class Recipe:
    """What is done to each image of one folder of the tree.

    kind: "copy", "degrade", "sequence" or "corrupt"; name: of the degradation ("combined": one of the known ones by chance),
    sequence or corruption; level: as the functions take it, None to draw it for each image; how: behaviour of a degradation or
    constants of a corruption.
    """

    folder: str
    kind: str
    name: str = ""
    level: float | None = None
    how: str = ""

    def draw(self, rng: np.random.Generator) -> tuple[str, float | None]:
        """The degradation and level of an image; takes from ``rng`` what it draws."""
        if self.kind != "degrade":
            return self.name, self.level
        name = list(degradations.DEGRADATIONS)[rng.integers(4)] if self.name == "combined" else self.name
        return name, degradations.draw_level(name, rng) if self.level is None else self.level

    def apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (H,W,3) to uint8 (H,W,3)."""
        name, level = self.draw(rng)
        if self.kind == "degrade":
            return degradations.DEGRADATIONS[name](image, level, rng, self.how)
        if self.kind == "sequence":
            return degradations.sequence(image, name, rng)
        if self.kind == "corrupt":
            from DistilledClassifier.corruptions import corrupt

            return corrupt(image, name, level, constants=self.how, rng=rng)
        return image


def generator(seed: int, key: str) -> np.random.Generator:
    """The random stream of one image: of the seed and its key in the tree, and of nothing else."""
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogateescape")).digest()[:16], "little")
    )


@dataclass(frozen=True)
class Task:
    """``name`` of the source becomes ``target`` of the tree."""

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
) -> dict[str, str]:
    """Write the tasks' images that are not there yet; returns the failures, target to reason.

    reopen: arguments of `sources.open_official`, with which every process opens the source. Raises ValueError where a folder
    holds images that were made in another way, or that were not made here.
    """
    folders: dict[str, list[Task]] = {}
    for task in tasks:
        folders.setdefault(task.recipe.folder, []).append(task)
    saved = {folder: tree.saved_images(save_dir, [folder]) for folder in folders}
    for folder, group in folders.items():
        _claim(save_dir, group, source, seed, saved[folder])
    save_dir.mkdir(parents=True, exist_ok=True)
    tree.sweep_temporaries(save_dir, folders)
    if source.classes:
        tree.write_classes(save_dir, source.classes)
    todo = {folder: [task for task in group if tree.key_of(task.target) not in saved[folder]]
            for folder, group in folders.items()}  # fmt: skip
    for folder, group in folders.items():
        if todo[folder]:
            _write_manifest(save_dir, group, source, seed, {}, {}, "running")
    progress = Progress(sum(map(len, todo.values())))
    failures: dict[str, str] = {}
    waiting: list[tuple[int, int]] = []
    with _Pool(workers, reopen, save_dir, seed) as pool:
        for folder, group in folders.items():
            digests: dict[str, str] = {}
            for target, digest, failure in pool.map(todo[folder]):
                if failure is None:
                    digests[target] = digest
                else:
                    failures[target] = failure
                waiting.append((failure is None, failure is not None))
                if len(waiting) == 32 or (len(waiting) + progress.done == progress.total):
                    progress.add(waiting)
                    waiting = []
            if todo[folder] or _state(save_dir, folder) == "running":
                _write_manifest(save_dir, group, source, seed, digests, failures, "complete")
    return failures


# ---------------------------------------------------------------------------------------------- manifests


def manifest_path(save_dir: Path, folder: str) -> Path:
    return save_dir / ("made.json" if folder in ("", ".") else f"made.{folder.replace('/', '.')}.json")


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest. Raises ValueError where it is damaged."""
    manifest = files.read_json(path)
    if not {"folder", "state", "settings", "images", "failures", "source_sha256"} <= manifest.keys():
        raise ValueError(f"{path} is no manifest of this program; remove it or put it right")
    return manifest


def _settings(recipe: Recipe, seed: int) -> dict[str, Any]:
    return {**asdict(recipe), "seed": seed}


def _claim(save_dir: Path, group: list[Task], source: Source, seed: int, saved: dict[str, str]) -> None:
    """Raise ValueError where the folder is not this run's to fill."""
    folder = group[0].recipe.folder
    if (save_dir / tree.SETTINGS).is_file():
        raise ValueError(f"--save_dir {save_dir} holds adapted images; choose another folder")
    path = manifest_path(save_dir, folder)
    if not path.is_file():
        if saved:
            others = sorted(save_dir.glob(f"{path.stem}.*.json"))
            why = f"were made in another way ({others[0].name})" if others else f"were not made here ({path.name} is missing)"
            raise ValueError(f"{save_dir / folder} holds images that {why}; choose another --save_dir")
        return
    manifest = read_manifest(path)
    theirs, ours = manifest.get("settings", {}), _settings(group[0].recipe, seed)
    differ = [f"{name} {theirs.get(name)} there, {ours[name]} here" for name in ours if theirs.get(name) != ours[name]]
    done = {task.name for task in group if tree.key_of(task.target) in saved}
    samples = manifest.get("source_sha256", {})
    changed = [name for name, digest in samples.items() if name in done and source.digest(name) != digest]
    if changed:
        differ.append(f"another source ({source.where(changed[0])} has changed)")
    if differ and saved:
        raise ValueError(
            f"{save_dir / folder} was made in another way: {'; '.join(differ)}; choose another --save_dir, or remove it"
        )


def _state(save_dir: Path, folder: str) -> str | None:
    path = manifest_path(save_dir, folder)
    return read_manifest(path)["state"] if path.is_file() else None


def _write_manifest(
    save_dir: Path,
    group: list[Task],
    source: Source,
    seed: int,
    digests: dict[str, str],
    failures: dict[str, str],
    state: str,
) -> None:
    recipe, path = group[0].recipe, manifest_path(save_dir, group[0].recipe.folder)
    failed = {task.target: failures[task.target] for task in group if task.target in failures}
    before = read_manifest(path)["images"] if path.is_file() else {}
    planned = {task.target for task in group}  # an earlier run may have made others, of another --num_samples or --list
    made = {target: entry for target, entry in before.items() if target not in planned and (save_dir / target).is_file()}
    for task in group:
        if task.target in failed or (state == "running" and task.target not in before):
            continue
        if task.target in before and task.target not in digests:  # made by an earlier run, whatever lies there now
            made[task.target] = before[task.target]
            continue
        name, level = recipe.draw(generator(seed, tree.key_of(task.target)))
        digest = digests.get(task.target) or files.sha256(save_dir / task.target)
        made[task.target] = {"sha256": digest} if recipe.kind == "copy" else {"name": name, "level": level, "sha256": digest}
    whole = [task.name for task in group if task.target not in failed]
    samples = {whole[i * (len(whole) - 1) // 7] for i in range(8)} if whole else set()
    files.write_json(path, {
        "folder": recipe.folder, "state": "failures" if failed else state, "settings": _settings(recipe, seed),
        "source": str(source.path.resolve()), "source_sha256": {name: source.digest(name) for name in sorted(samples)},
        "failures": failed, "images": made,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------------- processes


class _Pool:
    """``map`` over tasks in order, by processes where there are several; each opens the source for itself."""

    def __init__(self, workers: int, reopen: tuple, save_dir: Path, seed: int):
        self._workers = workers
        self._args = (reopen, save_dir, seed)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Pool:
        if self._workers > 1:
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), _start_worker, (*self._args, os.getpid()))
            ours = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the processes that start now inherit: the parent stops them
            self._pool.submit(int)
            signal.signal(signal.SIGINT, ours)
        else:
            _open(*self._args)
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[str, str | None, str | None]]:
        if self._pool is None:
            for task in tasks:
                yield _make(task)
            return
        waiting: deque[Future] = deque()
        left = iter(tasks)
        chunks = iter(lambda: list(itertools.islice(left, 32)), [])
        for chunk in itertools.chain(chunks, [None] * 4 * self._workers):
            if chunk is not None:
                waiting.append(self._pool.submit(_make_all, chunk))
            if waiting and (chunk is None or len(waiting) > 4 * self._workers):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


_here: tuple[Source, Path, int]  # what a process works with


def _open(reopen: tuple, save_dir: Path, seed: int) -> None:
    global _here  # noqa: PLW0603 - one source a process, opened once
    _here = (open_official(*reopen), save_dir, seed)


def _start_worker(reopen: tuple, save_dir: Path, seed: int, parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _open(reopen, save_dir, seed)


def _make_all(tasks: list[Task]) -> list[tuple[str, str | None, str | None]]:
    return [_make(task) for task in tasks]


def _make(task: Task) -> tuple[str, str | None, str | None]:
    """Write one image: its target, the SHA-256 of its file, and the reason where there is none."""
    source, save_dir, seed = _here
    try:
        path = save_dir / tree.check_name(task.target, source.path)
        image = source.read(task.name)  # also of copies: what cannot be read is not passed on
        data = source.encoded(task.name) if task.recipe.kind == "copy" else None
        if data is None:
            pixels = task.recipe.apply(np.asarray(image), generator(seed, tree.key_of(task.target)))
    except Exception as error:  # PIL and its plugins raise many types for damaged files, a recipe refuses tiny images
        return task.target, None, f"{source.where(task.name)}: {error or type(error).__name__}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        images.write_image(path, pixels)
    elif not (isinstance(source, Folder) and _link(source.where(task.name), path)):
        files.write_bytes(path, data, sync=False)
    return task.target, files.sha256(path), None


def _link(file: Path, path: Path) -> bool:
    """Give a file a second name, which costs no space; False where the file system cannot."""
    try:
        os.link(file.resolve(), path)
    except OSError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- checks


def verify(save_dir: Path, expected: Iterable[str] = ()) -> tuple[dict[str, int], dict[str, str]]:
    """Check a tree: how many images each cell has, and what is wrong with which file.

    Where a folder has a manifest, its files must be those of the manifest, byte for byte. The other cells must hold the images
    ``expected`` (names in a cell, <class>/<image> or <class>_<index>), by default those of all of them together, each under the
    class that most of them give it. Every image must be whole and have a class of classes.txt.
    """
    if not save_dir.is_dir():
        raise FileNotFoundError(f"--save_dir {save_dir} is not a folder")
    classes = tree.read_classes(save_dir) or ()
    names, others = tree.list_images(save_dir)
    if not names:
        raise ValueError(f"--save_dir {save_dir} holds no images")
    wrong = dict.fromkeys((name for name in others if not name.endswith(".npy")), "no image")
    made: dict[str, str] = {}
    folders: list[str] = []
    unfinished: list[str] = []
    for path in sorted(save_dir.glob("made*.json")):
        manifest = read_manifest(path)
        folders.append("" if manifest["folder"] == "." else manifest["folder"])
        made.update((name, entry["sha256"]) for name, entry in manifest["images"].items())
        wrong.update((name, f"failed when it was made: {why}") for name, why in manifest["failures"].items())
        if manifest["state"] == "running":
            wrong[path.name] = "the run that made this folder did not end; run it again"
            unfinished.append(folders.pop())

    def below(names: Iterable[str], folders: list[str]) -> set[str]:
        return {name for name in names if any(not folder or name.startswith(f"{folder}/") for folder in folders)}

    covered, open_ = below(names, folders), below(names, unfinished)
    wrong |= _compare(covered, below(made, folders), classes)
    rest = set(names) - covered - open_
    wrong |= _compare(rest, _wanted(rest, expected, classes), classes)
    for name in names:
        try:
            images.read_rgb(save_dir / name)
        except Exception as error:  # PIL and its plugins raise many types for damaged files
            wrong[name] = f"truncated or damaged: {error}"
            continue
        if name in made and files.sha256(save_dir / name) != made[name]:
            wrong[name] = "altered: it is not the file that was made"
        elif classes and tree.parse(name, classes)[2] is None:
            wrong[name] = f"mislabelled: its name has none of the classes in {tree.CLASSES}"
    return dict(Counter(tree.parse(name, classes)[0] for name in names)), wrong


def _wanted(there: set[str], expected: Iterable[str], classes: Sequence[str]) -> set[str]:
    """The names that cells without a manifest should have: of the expected images, else of what most cells have."""
    cells: dict[str, set[str]] = {}
    for name in there:
        cell = tree.parse(name, classes)[0]
        cells.setdefault(cell, set()).add(name if cell == "." else name[len(cell) + 1 :])
    rest = set(expected)
    if not rest:
        own = {name: tree.parse(name, classes)[1] for names in cells.values() for name in names}
        if any(len({own[name] for name in names}) < len(names) for names in cells.values()):
            own = {name: name for name in own}  # classes share names: a class cannot be told from another
        votes: dict[str, Counter] = {}
        for name in itertools.chain.from_iterable(cells.values()):
            votes.setdefault(own[name], Counter())[name] += 1
        rest = {vote.most_common(1)[0][0] for vote in votes.values() if 2 * vote.total() > len(cells)}
    return {name if cell == "." else f"{cell}/{name}" for cell in cells for name in rest}


def _compare(there: set[str], wanted: set[str], classes: Sequence[str]) -> dict[str, str]:
    """Name what is missing and what is extra; one of each with the same cell and own name is one mislabelled image."""
    missing: dict[tuple, list[str]] = {}
    for name in sorted(wanted - there):
        missing.setdefault(tree.parse(name, classes)[:2], []).append(name)
    wrong = {}
    for name in sorted(there - wanted):
        others = missing.get(tree.parse(name, classes)[:2])
        wrong[name] = f"mislabelled: it should be {others.pop()}" if others else "extra: nothing like it is expected"
    return wrong | {name: "missing" for names in missing.values() for name in names}
