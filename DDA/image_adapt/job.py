"""The adaptation job: plan, shard, resume, batch, adapt, write, count.

Rank 0 plans; every rank takes its share of the images that are missing and writes each of them once. What is on disk is the
only state: a file under its final name is done. The job knows nothing of diffusion: it is given ``adapt_batch``.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from DDA import files, images, tree
from DDA.progress import Progress
from DDA.ranks import World
from DDA.sources import Source
from DDA.tree import SETTINGS

AdaptBatch = Callable[[Sequence[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What is to be done, the same on every rank.

    groups: lists of image paths relative to ``source``. With fixed_batches (published behaviour) a group is one batch whose
    members never change; otherwise there is one group, and batches are filled from it. planned: images of each cell. done: keys
    of the planned images that are there already. neighbours: keys that stand in groups for their batch's sake and are not
    written: done before, or beyond ``num_samples``. elsewhere: so many of the wanted keys are outside the cells.
    """

    source: Source
    save_dir: Path
    cells: list[str]
    groups: list[list[str]]
    fixed_batches: bool
    planned: Counter
    done: frozenset[str]
    neighbours: frozenset[str]
    elsewhere: int
    same_format: bool
    not_images: list[str]

    @property
    def total(self) -> int:
        return sum(self.planned.values())

    @property
    def todo(self) -> int:
        return self.total - len(self.done)

    def work(self) -> Iterator[str]:
        """The paths that are to be adapted and written."""
        return (path for group in self.groups for path in group if tree.key_of(path) not in self.neighbours)

    def share(self, rank: int, size: int) -> list[list[str]]:
        """The groups of one rank: every size-th group, or every size-th image of the only group."""
        return self.groups[rank::size] if self.fixed_batches else [self.groups[0][rank::size]]

    def target(self, path: str) -> Path:
        """Where the adapted copy of an image goes. Raises ValueError for a path that leads out of the save folder."""
        tree.check_name(path, self.source.path)
        return self.save_dir / (path if self.same_format else tree.key_of(path) + ".png")

    def cell_of(self, path: str) -> str:
        """The cell of an image's path or key."""
        depth = 0 if self.cells == ["."] else self.cells[0].count("/") + 1
        return "/".join(path.split("/")[:depth]) or "."


def make_plan(
    source: Source,
    save_dir: Path,
    cells: Sequence[str],
    *,
    num_samples: int | None = None,
    keys: frozenset[str] | None = None,
    fixed_batch: int | None = None,
    same_format: bool = False,
) -> Plan:
    """List the images of the cells, the first ``num_samples`` by key, and take off those that are done.

    keys: only these images. fixed_batch: batches of that size whose members never change (published behaviour: neighbours
    matter). Raises ValueError for an empty plan, for keys that are not in the source, and where the copies would lie among
    their sources.
    """
    cells = sorted(cells, key=lambda cell: f"{cell}/")  # in the order of their keys
    listed, not_images = [], []
    for cell in cells:
        if os.path.realpath(source.path / cell) == os.path.realpath(save_dir / cell):
            raise ValueError(f"the copies of {source.path / cell} would lie in {save_dir / cell}, which is the same folder")
        found, others = source.list(cell, leave_out=save_dir)
        listed.append(found)
        not_images += others
    if not any(listed):
        where = ", ".join(str(source.path / cell) for cell in cells)
        raise ValueError(f"no images in {where} (suffixes: {', '.join(tree.SUFFIXES)})")
    if keys is not None:
        unknown = sorted(keys - {tree.key_of(path) for path in source.names})
        if unknown:
            raise ValueError(f"--keys names {len(unknown)} images that {source.path} does not have, such as {unknown[0]}")
        if keys and not any(tree.key_of(path) in keys for paths in listed for path in paths):
            raise ValueError(f"none of the {len(keys)} keys of --keys is in {', '.join(cells)}, the first is {min(keys)}: give "
                             "the --corruption, --severity and --train that gate.py was given")  # fmt: skip
    done = tree.saved_images(save_dir, cells)
    return plan_of(
        listed, done, cells=cells, num_samples=num_samples, keys=keys, fixed_batch=fixed_batch, source=source,
        save_dir=save_dir, same_format=same_format, not_images=not_images,
    )  # fmt: skip


def plan_of(
    listed: Sequence[list[str]],
    saved: Iterable[str],
    *,
    cells: list[str],
    num_samples: int | None,
    keys: frozenset[str] | None = None,
    fixed_batch: int | None,
    **rest: Any,
) -> Plan:
    """The plan for the listed paths of each cell; ``saved`` are keys, which may lie outside it; ``rest`` is passed on."""
    left = num_samples
    taken: list[list[str]] = []
    for paths in listed:  # cells are sorted, and so are the paths in them: these are the first by key
        chosen = paths if keys is None else [path for path in paths if tree.key_of(path) in keys]
        taken.append(chosen if left is None else chosen[:left])
        left = None if left is None else left - len(taken[-1])
    saved = set(saved)
    done = frozenset(key for paths in taken for path in paths if (key := tree.key_of(path)) in saved)
    neighbours: frozenset[str] = frozenset()
    if fixed_batch is None:
        groups = [[path for paths in taken for path in paths if tree.key_of(path) not in done]]
    else:
        wanted = {tree.key_of(path) for paths in taken for path in paths} - done
        batches = [paths[i : i + fixed_batch] for paths in listed for i in range(0, len(paths), fixed_batch)]
        groups = [batch for batch in batches if any(tree.key_of(path) in wanted for path in batch)]
        neighbours = frozenset(tree.key_of(path) for group in groups for path in group) - wanted
    return Plan(
        cells=cells, groups=groups, fixed_batches=fixed_batch is not None, done=done, neighbours=neighbours,
        planned=Counter({cell: len(paths) for cell, paths in zip(cells, taken, strict=True)}),
        elsewhere=0 if keys is None else len(keys - {tree.key_of(path) for paths in listed for path in paths}), **rest,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- settings on disk


def claim(save_dir: Path, settings: dict[str, Any]) -> None:
    """Write the settings file, or check that the one that is there says the same. Raises ValueError for a conflict."""
    check_settings(save_dir, settings)
    save_dir.mkdir(parents=True, exist_ok=True)
    if not (save_dir / SETTINGS).is_file():
        try:
            files.write_json(save_dir / SETTINGS, settings, exclusive=True)
        except FileExistsError:
            check_settings(save_dir, settings)  # another job was faster


def check_settings(save_dir: Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
    """Raise ValueError where ``save_dir`` holds images of other settings, naming each that differs.

    overwrite: other settings are no error, but images that this job never made are.
    """
    if not save_dir.exists():
        return
    if not save_dir.is_dir():
        raise ValueError(f"--save_dir {save_dir} is a file, not a folder")
    if (save_dir / SETTINGS).is_file():
        differ = _differences(files.read_json(save_dir / SETTINGS), settings)
        if differ and not overwrite:
            how = "holds images of" if tree.saved_images(save_dir, ["."]) else "was begun with"
            raise ValueError(
                f"--save_dir {save_dir} {how} other settings: {'; '.join(differ)}. "
                "Choose another --save_dir, or make them anew with --overwrite"
            )
    elif any(path.lower().endswith(tree.SUFFIXES) for path in tree.walk(save_dir)):
        raise ValueError(
            f"--save_dir {save_dir} holds images but no {SETTINGS}: they were not made by this program; choose another folder"
        )


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"{name} {theirs.get(name, 'absent')} there, {ours.get(name, 'absent')} here"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]


def check_discard(plan: Plan, settings: dict[str, Any]) -> None:
    """--overwrite: raise ValueError where images outside the plan would be left with other settings."""
    path = plan.save_dir / SETTINGS
    differ = _differences(files.read_json(path), settings) if path.is_file() else []
    others = tree.saved_images(plan.save_dir, ["."]).keys() - plan.done if differ else ()
    if others:
        raise ValueError(
            f"--save_dir {plan.save_dir} holds images of other settings: {'; '.join(differ)}. --overwrite must make all of "
            f"them anew, but this plan leaves {len(others)}, such as {min(others)}"
        )


def discard(plan: Plan, settings: dict[str, Any]) -> None:
    """--overwrite: remove the planned images that are there, and then the settings file where it says something else."""
    check_discard(plan, settings)
    saved = tree.saved_images(plan.save_dir, plan.cells)
    for key in plan.done:
        (plan.save_dir / saved[key]).unlink()
    path = plan.save_dir / SETTINGS
    if path.is_file() and _differences(files.read_json(path), settings):
        path.unlink()


# ---------------------------------------------------------------------------------------------- manifests


def manifest_path(plan: Plan, cell: str) -> Path:
    """A cell's manifest, beside the settings."""
    return plan.save_dir / ("manifest.json" if cell == "." else f"manifest.{cell.replace('/', '.')}.json")


def check_source(plan: Plan) -> None:
    """Raise ValueError where the images that are done were made from other pixels than those that lie in the source now.

    Each manifest holds the SHA-256 of some source files of its cell.
    """
    for cell in plan.cells:
        path = manifest_path(plan, cell)
        known = files.read_json(path).get("source_sha256", {}) if path.is_file() else {}
        for name, digest in known.items():
            if tree.key_of(name) in plan.done and _digest(plan.source, name) not in (digest, None):
                raise ValueError(
                    f"{plan.source.where(name)} is not the image that its copy in {plan.save_dir} was made from; choose "
                    "another --save_dir for another source, or make the copies anew with --overwrite"
                )


def begin_manifests(plan: Plan, facts: dict[str, Any]) -> None:
    """Write the manifest of each cell with work to do, so that an interrupted job's source is known."""
    first: dict[str, list[str]] = {}
    for name in plan.work():
        first.setdefault(plan.cell_of(name), []).append(name)
    for cell, names in first.items():
        samples = [names[i * (len(names) - 1) // 7] for i in range(8)] if len(names) > 8 else names
        path = manifest_path(plan, cell)
        before = files.read_json(path) if path.is_file() else {}
        anew = set(names)  # what is made anew is no longer known by what it was made from before
        digests = {name: digest for name, digest in before.get("source_sha256", {}).items() if name not in anew}
        digests |= {name: digest for name in samples if (digest := _digest(plan.source, name)) is not None}
        files.write_json(path, {
            "cell": cell, "state": "running", "planned": plan.planned[cell], "failures": before.get("failures", {}),
            "source": str(plan.source.path.resolve()), "source_sha256": digests, **facts,
        })  # fmt: skip


def _digest(source: Source, name: str) -> str | None:
    """SHA-256 of a source image; None where it cannot be read, which is a failure of that image alone."""
    try:
        return source.digest(name)
    except (OSError, KeyError):
        return None


def end_manifests(plan: Plan, failures: dict[str, str], facts: dict[str, Any]) -> list[str]:
    """Complete the manifests of the cells that had work to do; returns the paths that are lost.

    Lost is an image that was to be adapted, is not there and is no known failure. Failures of earlier runs that were not tried
    again are kept.
    """
    saved = tree.saved_images(plan.save_dir, plan.cells).keys()
    there = Counter(plan.cell_of(key) for key in saved)
    work = list(plan.work())
    worked = {plan.cell_of(name) for name in work}
    for cell in plan.cells:
        path = manifest_path(plan, cell)
        before = files.read_json(path) if path.is_file() else {}
        if cell not in worked and before.get("state") != "running":  # running: stopped after its last image
            continue
        failed = {name: why for name, why in before.get("failures", {}).items() if tree.key_of(name) not in saved}
        failed |= {name: why for name, why in failures.items() if plan.cell_of(name) == cell}
        state = "failures" if failed else "complete"
        counts = {"state": state, "images": there[cell], "failed": len(failed), "failures": failed}
        files.write_json(path, {**before, **counts, **facts})
    return [path for path in work if tree.key_of(path) not in saved and path not in failures]


# ---------------------------------------------------------------------------------------------- the work of one rank


def run(world: World, plan: Plan, adapt_batch: AdaptBatch, *, batch_size: int, image_size: int, threads: int) -> dict[str, str]:
    """Adapt this rank's share and wait for the others; returns the failures of all ranks, path to reason.

    adapt_batch(keys, uint8 (B,S,S,3)) -> float (B,3,S,S) in [-1,1]. Decoding and writing happen in threads beside it. Raises
    OSError where an adapted image cannot be written: the job cannot go on then.
    """
    progress = Progress(plan.todo, world.size) if world.rank == 0 else None
    failures: dict[str, str] = {}
    ended = 0

    def fail(path: str, reason: str) -> None:
        if tree.key_of(path) in plan.neighbours:
            return
        failures[path] = reason
        if len(failures) <= 20:
            print(f"failed: {plan.source.where(path)}: {reason}", file=sys.stderr, flush=True)
        world.report((0, 1))

    def show() -> int:
        """Take in what the ranks report; returns how many of them have ended."""
        reports = world.reports() if progress else []
        if progress:
            progress.add([report for report in reports if report is not None])
        return reports.count(None)

    with ExitStack() as cleanup:
        pool = ThreadPoolExecutor(threads, "images")
        cleanup.callback(pool.shutdown, cancel_futures=True)
        writer = _Writer(pool, limit=2 * batch_size)
        cleanup.callback(writer.finish)  # also after an interruption: what is computed is kept
        groups = plan.share(world.rank, world.size)
        for paths, pixels in _batches(groups, plan.source, image_size, batch_size, pool, fail):
            adapted = adapt_batch([tree.key_of(path) for path in paths], pixels)
            finite = np.isfinite(adapted).all(axis=(1, 2, 3))
            written = 0
            for i, path in enumerate(paths):
                if tree.key_of(path) in plan.neighbours:
                    continue
                if finite[i]:
                    writer.write(plan.target(path), adapted[i])
                    written += 1
                else:
                    fail(path, "the adapted image has values that are not finite")
            world.report((written, 0))
            ended += show()
    world.report(None)
    while progress and ended < world.size:
        ended += show()
        time.sleep(0.05)
    return {path: reason for theirs in world.gather(failures) for path, reason in theirs.items()}


def _batches(
    groups: Sequence[list[str]],
    source: Source,
    image_size: int,
    batch_size: int,
    pool: ThreadPoolExecutor,
    fail: Callable[[str, str], None],
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Full batches of decoded images within each group, read ahead by two batches; what cannot be read is reported."""
    paths = ((path, i) for i, group in enumerate(groups) for path in group)
    ahead: deque[tuple[str, int, Future]] = deque()

    def read_ahead() -> None:
        while len(ahead) < 3 * batch_size and (item := next(paths, None)) is not None:
            ahead.append((*item, pool.submit(_decode, source, item[0], image_size)))

    names: list[str] = []
    pixels: list[np.ndarray] = []
    read_ahead()
    while ahead:
        path, group, future = ahead.popleft()
        read_ahead()
        outcome = future.result()
        if isinstance(outcome, str):
            fail(path, outcome)
        else:
            names.append(path)
            pixels.append(outcome)
        group_ends = not ahead or ahead[0][1] != group
        if names and (group_ends or len(names) == batch_size):
            yield names, np.stack(pixels)
            names, pixels = [], []


def _decode(source: Source, name: str, image_size: int) -> np.ndarray | str:
    """uint8 (S,S,3), or the reason why there is none."""
    try:
        tree.check_name(name, source.path)  # a copy has the same name
        return images.fit_square(source.read(name), image_size)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        path = Path(source.where(name))
        if not path.exists():
            return "it is a broken link" if path.is_symlink() else "it is gone"
        if path.stat().st_size == 0:
            return "it is empty (0 bytes)"
        return f"{error}".replace(f"{path}", path.name) or type(error).__name__


class _Writer:
    """Writes images in threads, with a bounded backlog; the first error comes out of the next call."""

    def __init__(self, pool: ThreadPoolExecutor, *, limit: int):
        self._pool, self._limit = pool, limit
        self._pending: deque[Future] = deque()

    def write(self, path: Path, image: np.ndarray) -> None:
        self._pending.append(self._pool.submit(_write, path, image))
        while self._pending and (len(self._pending) > self._limit or self._pending[0].done()):
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()


def _write(path: Path, image: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, images.to_pixels(image))
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}; make room or choose another --save_dir") from error


def versions() -> dict[str, str]:
    """Of this project and of what decides its numbers."""
    names = ("diffaud", "torch", "numpy", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
