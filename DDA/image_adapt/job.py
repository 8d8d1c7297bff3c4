"""The adaptation job: plan, shard, resume, batch, adapt, write, count.

Rank 0 plans; every rank takes its share of the images that are missing and writes each of them once. What is on disk is the
only state: a file under its final name is done. The job knows nothing of diffusion: it is given ``adapt_batch``.
"""

from __future__ import annotations

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

from DDA import images
from DDA.ranks import World

SETTINGS = "settings.json"
AdaptBatch = Callable[[Sequence[str], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Plan:
    """What is to be done, the same on every rank.

    groups: lists of image paths relative to ``source``. With fixed_batches (published behaviour) a group is one batch whose
    members never change; otherwise there is one group, and batches are filled from it. done: keys that are there already.
    """

    source: Path
    save_dir: Path
    cells: list[str]
    groups: list[list[str]]
    fixed_batches: bool
    planned: Counter  # images per cell
    done: frozenset[str]
    same_format: bool
    not_images: list[str]

    @property
    def total(self) -> int:
        return sum(self.planned.values())

    @property
    def todo(self) -> int:
        return self.total - len(self.done)

    def share(self, rank: int, size: int) -> list[list[str]]:
        """The groups of one rank: every size-th group, or every size-th image of the only group."""
        return self.groups[rank::size] if self.fixed_batches else [self.groups[0][rank::size]]

    def target(self, path: str) -> Path:
        """Where the adapted copy of an image goes."""
        return self.save_dir / (path if self.same_format else images.key_of(path) + ".png")


def make_plan(
    source: Path,
    save_dir: Path,
    cells: Sequence[str],
    *,
    num_samples: int | None = None,
    fixed_batch: int | None = None,
    same_format: bool = False,
) -> Plan:
    """List the images of the cells, the first ``num_samples`` by key, and take off those that are done.

    fixed_batch: batches of that size whose members never change (published behaviour: neighbours matter). Raises ValueError
    for an empty plan.
    """
    cells = sorted(cells, key=lambda cell: f"{cell}/")  # in the order of their keys
    listed, not_images = [], []
    for cell in cells:
        found, others = images.list_images(source, cell, leave_out=save_dir)
        listed.append(found)
        not_images += others
    if not any(listed):
        raise ValueError(
            f"no images in {', '.join(str(source / cell) for cell in cells)} (suffixes: {', '.join(images.SUFFIXES)})"
        )
    done = images.saved_images(save_dir, cells)
    return plan_of(
        listed, done, cells=cells, num_samples=num_samples, fixed_batch=fixed_batch, source=source, save_dir=save_dir,
        same_format=same_format, not_images=not_images,
    )  # fmt: skip


def plan_of(
    listed: Sequence[list[str]],
    done: Iterable[str],
    *,
    cells: list[str],
    num_samples: int | None,
    fixed_batch: int | None,
    **rest: Any,
) -> Plan:
    """The plan for the listed paths of each cell; ``done`` are keys, which may lie outside the plan; ``rest`` is passed on."""
    left = num_samples
    taken: list[list[str]] = []
    for paths in listed:  # cells are sorted, and so are the paths in them: these are the first by key
        taken.append(paths if left is None else paths[:left])
        left = None if left is None else left - len(taken[-1])
    done = set(done)
    done_here = frozenset(key for paths in taken for path in paths if (key := images.key_of(path)) in done)
    if fixed_batch is None:
        groups = [[path for paths in taken for path in paths if images.key_of(path) not in done_here]]
    else:
        batches = [paths[i : i + fixed_batch] for paths in taken for i in range(0, len(paths), fixed_batch)]
        groups = [batch for batch in batches if any(images.key_of(path) not in done_here for path in batch)]
    planned = Counter({cell: len(paths) for cell, paths in zip(cells, taken, strict=True)})
    fixed = fixed_batch is not None
    return Plan(cells=cells, groups=groups, fixed_batches=fixed, planned=planned, done=done_here, **rest)


# ---------------------------------------------------------------------------------------------- settings on disk


def claim(save_dir: Path, settings: dict[str, Any]) -> None:
    """Write the settings file, or check that the one that is there says the same. Raises ValueError for a conflict."""
    check_settings(save_dir, settings)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        if not (save_dir / SETTINGS).is_file():
            images.write_json(save_dir / SETTINGS, settings, exclusive=True)
    except FileExistsError:
        check_settings(save_dir, settings)  # another job was faster
    except OSError as error:
        raise OSError(f"--save_dir {save_dir} cannot be written: {error.strerror}; choose another or make room") from None


def check_settings(save_dir: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError where ``save_dir`` holds images of other settings, naming each that differs."""
    if (save_dir / SETTINGS).is_file():
        theirs = images.read_json(save_dir / SETTINGS)
        differ = [
            f"{name} {theirs.get(name, 'absent')} there, {settings.get(name, 'absent')} here"
            for name in {**settings, **theirs}
            if theirs.get(name) != settings.get(name)
        ]
        if differ:
            raise ValueError(
                f"--save_dir {save_dir} holds images of other settings: {'; '.join(differ)}. "
                "Choose another --save_dir, or make them anew with --overwrite"
            )
    elif save_dir.is_dir() and any(path.lower().endswith(images.SUFFIXES) for path in images.walk(save_dir)):
        raise ValueError(f"--save_dir {save_dir} holds images but no {SETTINGS}, so nobody knows how they were made; "
                         "choose another --save_dir")  # fmt: skip


def discard(plan: Plan, settings: dict[str, Any]) -> None:
    """--overwrite: remove the planned images that are there, and then the settings file where it says something else.

    Raises ValueError where images outside the plan would be left with other settings.
    """
    saved = images.saved_images(plan.save_dir, ["."])
    conflict = None
    try:
        check_settings(plan.save_dir, settings)
    except ValueError as error:
        conflict = error
        if others := saved.keys() - plan.done:
            raise ValueError(
                f"{error} of everything there: this plan leaves {len(others)} others, such as {min(others)}"
            ) from None
    for key in plan.done:
        (plan.save_dir / saved[key]).unlink()
    if conflict:
        (plan.save_dir / SETTINGS).unlink(missing_ok=True)


def write_manifests(plan: Plan, failures: dict[str, str], facts: dict[str, Any]) -> list[str]:
    """One JSON file beside the settings for each cell that had work to do; returns the paths that are lost.

    Lost is an image that was to be adapted, is not there and is no known failure.
    """
    work = [path for group in plan.groups for path in group if images.key_of(path) not in plan.done]
    saved = images.saved_images(plan.save_dir, plan.cells).keys()
    for cell in plan.cells:
        prefix = "" if cell == "." else f"{cell}/"
        path = plan.save_dir / ("manifest.json" if cell == "." else f"manifest.{cell.replace('/', '.')}.json")
        if path.is_file() and not any(name.startswith(prefix) for name in work):
            continue
        failed = {name: reason for name, reason in failures.items() if name.startswith(prefix)}
        there = sum(key.startswith(prefix) for key in saved)
        counts = {"cell": cell, "planned": plan.planned[cell], "images": there, "failed": len(failed), "failures": failed}
        images.write_json(path, {**counts, **facts})
    return [path for path in work if images.key_of(path) not in saved and path not in failures]


# ---------------------------------------------------------------------------------------------- the work of one rank


class Progress:
    """Lines on stderr: what is done of all ranks' work, images a second, time left. A terminal gets one line that moves."""

    def __init__(self, total: int, ranks: int = 1, stream=sys.stderr):
        self.total, self.done, self.failed = total, 0, 0
        self._ranks = ranks
        self._stream = stream
        self._moving = stream.isatty()
        self._every = 0.5 if self._moving else 15.0
        self._started = self._shown = time.monotonic()

    def add(self, reports: Sequence[tuple[int, int]]) -> None:
        """Count the images and failures of each report, and say so when it is time."""
        if not reports:
            return
        first = self.done == 0
        self.done += sum(images + failed for images, failed in reports)
        self.failed += sum(failed for _, failed in reports)
        seconds = max(time.monotonic() - self._started, 1e-9)
        if first:
            # ranks that have not reported yet are about as far as those that have
            rate = self.done / seconds * max(1, self._ranks / len(reports))
            left = duration(max(self.total / rate - seconds, 0))
            self._say(f"first {self.done} in {duration(seconds)}: about {left} for the rest", keep=True)
        elif self.done == self.total:
            self._say(f"{self._counts(seconds)}, in {duration(seconds)}", keep=True)
        elif time.monotonic() - self._shown >= self._every:
            self._say(f"{self._counts(seconds)}, {duration(seconds * (self.total / self.done - 1))} left", keep=False)
            self._shown = time.monotonic()

    def _counts(self, seconds: float) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} images{failed}, {self.done / seconds:.3g} images/s"

    def _say(self, text: str, *, keep: bool) -> None:
        if self._moving:
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if keep else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """``9 s``, ``4 min 10 s``, ``3 h 05 min``, ``2 d 4 h``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def run(world: World, plan: Plan, adapt_batch: AdaptBatch, *, batch_size: int, image_size: int, threads: int) -> dict[str, str]:
    """Adapt this rank's share and wait for the others; returns the failures of all ranks, path to reason.

    adapt_batch(keys, uint8 (B,S,S,3)) -> float (B,3,S,S) in [-1,1]. Decoding and writing happen in threads beside it. Raises
    OSError where an adapted image cannot be written: the job cannot go on then.
    """
    progress = Progress(plan.todo, world.size) if world.rank == 0 else None
    failures: dict[str, str] = {}
    ended = 0

    def fail(path: str, reason: str) -> None:
        if images.key_of(path) in plan.done:
            return  # an unreadable neighbour whose copy was made when it could be read
        failures[path] = reason
        if len(failures) <= 20:
            print(f"failed: {plan.source / path}: {reason}", file=sys.stderr, flush=True)
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
            adapted = adapt_batch([images.key_of(path) for path in paths], pixels)
            finite = np.isfinite(adapted).all(axis=(1, 2, 3))
            # a neighbour that was done before is here for its batch only
            new = [i for i, path in enumerate(paths) if images.key_of(path) not in plan.done]
            for i in new:
                if finite[i]:
                    writer.write(plan.target(paths[i]), adapted[i])
                else:
                    fail(paths[i], "the adapted image has values that are not finite")
            world.report((int(finite[new].sum()), 0))
            ended += show()
    world.report(None)
    while progress and ended < world.size:
        ended += show()
        time.sleep(0.05)
    return {path: reason for theirs in world.gather(failures) for path, reason in theirs.items()}


def _batches(
    groups: Sequence[list[str]],
    source: Path,
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
            ahead.append((*item, pool.submit(_decode, source / item[0], image_size)))

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


def _decode(path: Path, image_size: int) -> np.ndarray | str:
    """uint8 (S,S,3), or the reason why there is none."""
    try:
        return images.fit_square(images.read_rgb(path), image_size)
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        if not path.exists():
            return "it is gone"
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
