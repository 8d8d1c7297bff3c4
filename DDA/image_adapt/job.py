"""The adaptation job: plan, shard, resume, batch, adapt, write, count.

Rank 0 plans. Every rank takes its share of the missing images and writes each of them once. The
files on disk are the only state: a file under its final name is done. The job knows nothing of
diffusion: it is given ``adapt_batch``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from DDA import files, images, ledger, tree
from DDA.ahead import prepared
from DDA.fitting import Fit, Fitted
from DDA.progress import Show
from DDA.ranks import World
from DDA.sources import Source, found_instead, size_of

AdaptBatch = Callable[[Sequence[str], np.ndarray], np.ndarray]
MEASURED = 1000  # images of a plan whose headers are read
PENDING = 8  # batches of images that wait for others of their shape


@dataclass(frozen=True)
class Plan:
    """The work of a job, the same on every rank.

    planned: paths relative to ``source`` of the images of each cell. groups: those of the images
    that are to be adapted. With fixed_batches (published behaviour) a group is one batch whose
    members never change; otherwise there is one group, and batches are filled from it.
    neighbours: paths that stand in groups for their batch's sake and are not written, because
    they are done or beyond ``num_samples``. done: key to path in ``save_dir`` of the planned
    images that exist and stay. replaced: the same for those that exist and are made ``anew``.
    in_cells: the number of images in the cells of ``save_dir``. unfinished: temporaries in it.
    elsewhere: the number of wanted keys outside the cells.
    """

    source: Source
    save_dir: Path
    cells: list[str]
    planned: list[list[str]]
    groups: list[list[str]]
    fixed_batches: bool
    neighbours: frozenset[str]
    done: dict[str, str]
    replaced: dict[str, str]
    anew: bool
    elsewhere: int
    same_format: bool
    not_images: list[str]
    in_cells: int = 0
    unfinished: Sequence[str] = ()

    @property
    def total(self) -> int:
        """Return the number of planned images."""
        return sum(map(len, self.planned))

    @property
    def todo(self) -> int:
        """Return the number of images that are to be made."""
        return self.total - len(self.done)

    def work(self) -> Iterator[str]:
        """Return the paths that are to be adapted and written."""
        return (path for path in itertools.chain(*self.groups) if path not in self.neighbours)

    def share(self, rank: int, size: int) -> list[list[str]]:
        """Return every size-th group for one rank, or every size-th image of the only group."""
        return self.groups[rank::size] if self.fixed_batches else [self.groups[0][rank::size]]

    def target(self, path: str) -> Path:
        """Return where the adapted copy of an image goes.

        Raises ValueError for a path that leads out of the save folder.
        """
        tree.check_name(path, self.source.path)
        return self.save_dir / (path if self.same_format else tree.key_of(path) + ".png")

    def copy(self, path: str) -> Path:
        """Return where the adapted copy of an image is."""
        earlier = self.done.get(tree.key_of(path))
        return self.target(path) if earlier is None else self.save_dir / earlier

    def cell_of(self, path: str) -> str:
        """Return the cell of an image's path or key."""
        depth = 0 if self.cells == ["."] else self.cells[0].count("/") + 1
        return "/".join(path.split("/")[:depth]) or "."

    def manifest(self, cell: str) -> Path:
        """Return the path of a cell's manifest, beside the settings."""
        return ledger.manifest_path(self.save_dir, "manifest", cell)


def make_plan(
    source: Source,
    save_dir: Path,
    cells: Sequence[str],
    *,
    num_samples: int | None = None,
    keys: frozenset[str] | None = None,
    fixed_batch: int | None = None,
    same_format: bool = False,
    anew: bool = False,
) -> Plan:
    """List the first ``num_samples`` images of the cells by key, and tell which are done.

    keys: only these images. fixed_batch: batches of that size whose members never change
    (published behaviour, where neighbours matter). anew: also make those that are done. Raises
    ValueError for an empty plan, for keys that are not in the source, and where the copies would
    lie among their sources.
    """
    cells = sorted(cells, key=lambda cell: f"{cell}/")  # in the order of their keys
    listed, not_images = [], []
    for cell in cells:
        if os.path.realpath(source.path / cell) == os.path.realpath(save_dir / cell):
            raise ValueError(
                f"the copies of {source.path / cell} would lie in {save_dir / cell}, which is "
                "the same folder"
            )
        paths, others = source.list(cell, leave_out=save_dir)
        listed.append(paths)
        not_images += others
    if not any(listed):
        where = ", ".join(str(source.path / cell) for cell in cells)
        instead = found_instead(source, cells)
        raise ValueError(f"no images in {where} (suffixes: {', '.join(tree.SUFFIXES)}){instead}")
    if keys is not None:
        _check_keys(keys, listed, source, cells)
    saved = tree.list_saved(save_dir, cells, at_root=True)
    return plan_of(
        listed,
        saved.merged(),
        cells=cells,
        num_samples=num_samples,
        keys=keys,
        fixed_batch=fixed_batch,
        anew=anew,
        source=source,
        save_dir=save_dir,
        same_format=same_format,
        not_images=not_images,
        in_cells=sum(map(len, saved.images.values())),
        unfinished=saved.unfinished,
    )


def _check_keys(
    keys: frozenset[str], listed: Sequence[list[str]], source: Source, cells: Sequence[str]
) -> None:
    """Raise ValueError for keys that the source does not have, and where none is in the cells."""
    others = keys - {tree.key_of(path) for paths in listed for path in paths}
    unknown = sorted(others - {tree.key_of(path) for path in source.names}) if others else []
    if unknown:
        has_suffix = unknown[0].lower().endswith(tree.SUFFIXES)
        hint = "; a key has no suffix" if has_suffix else ""
        hint += tree.other_form(unknown, map(tree.key_of, source.names))
        raise ValueError(
            f"`keys` names {len(unknown)} images that {source.path} does not have, such as "
            f"{tree.shown(unknown[0], 300)[1:-1]}{hint}"
        )
    if keys and others == keys:
        raise ValueError(
            f"none of the {len(keys)} `keys` is in {', '.join(cells)}, the first is {min(keys)}: "
            "give the `corruption`, `severity` and `train` that gate.py was given"
        )


def plan_of(
    listed: Sequence[list[str]],
    saved: Mapping[str, str],
    *,
    num_samples: int | None,
    fixed_batch: int | None,
    keys: frozenset[str] | None = None,
    anew: bool = False,
    **rest: Any,
) -> Plan:
    """Return the plan for the listed paths of each cell.

    saved: key to path; it may hold other images too. rest: fields of `Plan` that are passed on.
    """
    wanted = list(listed)
    if keys is not None:
        wanted = [[path for path in paths if tree.key_of(path) in keys] for paths in listed]
    planned = list(wanted)
    if num_samples is not None:
        # cells are sorted, and so are the paths in them: these are the first by key
        before = itertools.accumulate(map(len, wanted), initial=0)
        rooms = [max(0, num_samples - count) for count in before]
        planned = [paths[:room] for paths, room in zip(wanted, rooms, strict=False)]
    copies, todo = {}, []
    for path in itertools.chain(*planned):
        key = tree.key_of(path)
        if key in saved:
            copies[key] = saved[key]
        if anew or key not in saved:
            todo.append(path)
    groups, neighbours = [todo], frozenset()
    if fixed_batch is not None:
        written = frozenset(todo)
        batches = itertools.chain(*(_cut(paths, fixed_batch) for paths in listed))
        groups = [batch for batch in batches if not written.isdisjoint(batch)]
        neighbours = frozenset(itertools.chain(*groups)) - written
    return Plan(
        planned=planned,
        groups=groups,
        fixed_batches=fixed_batch is not None,
        neighbours=neighbours,
        anew=anew,
        done={} if anew else copies,
        replaced=copies if anew else {},
        elsewhere=0 if keys is None else len(keys) - sum(map(len, wanted)),
        **rest,
    )


def _cut(paths: list[str], size: int) -> list[list[str]]:
    """Return the paths in parts of one size; the last part may be shorter."""
    return [paths[first : first + size] for first in range(0, len(paths), size)]


# ------------------------------------------------------------------------------ the save folder


def check_settings(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where the save folder holds images of other settings or of other makers.

    The message names each setting that differs. Where images are made anew their settings may
    differ, but then no image may remain that has the old ones.
    """
    if plan.save_dir.exists() and not plan.save_dir.is_dir():
        raise ValueError(f"`save_dir` {plan.save_dir} is a file, not a folder")
    theirs = ledger.read_settings(plan.save_dir)
    if theirs is None and (plan.in_cells or _outside(plan)):
        raise ValueError(
            f"`save_dir` {plan.save_dir} holds images but no {tree.SETTINGS}: they were not made "
            "by this program; choose another folder"
        )
    differences = [] if theirs is None else ledger.differences(theirs, settings)
    if not differences:
        return
    if not plan.anew:
        advice = "Choose another `save_dir`, or make them anew with `overwrite`"
        raise _conflict(plan, differences, advice)
    in_cells = tree.saved_images(plan.save_dir, plan.cells)
    others = in_cells.keys() - plan.replaced.keys() | {tree.key_of(path) for path in _outside(plan)}
    if others:
        raise _conflict(
            plan,
            differences,
            f"`overwrite` must make all of them anew, but this plan leaves {len(others)}, such "
            f"as {min(others)}",
        )


def _conflict(plan: Plan, differences: Sequence[str], advice: str) -> ValueError:
    how = "holds images of" if plan.in_cells or _outside(plan) else "was begun with"
    return ValueError(
        f"`save_dir` {plan.save_dir} {how} other settings: {'; '.join(differences)}. {advice}"
    )


def _outside(plan: Plan) -> list[str]:
    """Return the images in the save folder that lie in none of the plan's cells."""
    if plan.cells == ["."] or not plan.save_dir.is_dir():
        return []
    return [
        path
        for path in tree.walk(plan.save_dir, skip=plan.cells)
        if path.lower().endswith(tree.SUFFIXES)
    ]


def check_source(plan: Plan) -> None:
    """Raise ValueError where finished copies were made from other pixels than the source has."""
    for cell in plan.cells:
        known = ledger.read_manifest(plan.manifest(cell)).get("source_sha256", {})
        done = {name: known[name] for name in known if tree.key_of(name) in plan.done}
        name = ledger.changed(plan.source.digest, done)
        if name is not None:
            raise ValueError(
                f"{plan.source.where(name)} is not the image that its copy in {plan.save_dir} "
                "was made from; choose another `save_dir` for another source, or make the copies "
                "anew with `overwrite`"
            )


def begin(plan: Plan, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Make the save folder ready: from here on something is written.

    Raises OSError where it cannot be written, and ValueError where a job of other settings was
    faster.
    """
    with files.writing(plan.save_dir):
        for path in plan.replaced.values():
            (plan.save_dir / path).unlink()
        if plan.anew and ledger.read_settings(plan.save_dir) != settings:
            (plan.save_dir / tree.SETTINGS).unlink(missing_ok=True)
        if differences := ledger.claim(plan.save_dir, settings):
            raise _conflict(plan, differences, "Choose another `save_dir`")
        tree.sweep_temporaries(plan.save_dir, plan.unfinished)
        begin_manifests(plan, facts)
        if plan.source.classes and tree.read_classes(plan.save_dir) != plan.source.classes:
            tree.write_classes(plan.save_dir, plan.source.classes)


def begin_manifests(plan: Plan, facts: Mapping[str, Any]) -> None:
    """Write the manifest of each cell with work, so that an interrupted job's source is known."""
    work: dict[str, list[str]] = {}
    for name in plan.work():
        work.setdefault(plan.cell_of(name), []).append(name)
    for cell, names in work.items():
        before = ledger.read_manifest(plan.manifest(cell))
        entries = {
            "cell": cell,
            "planned": len(plan.planned[plan.cells.index(cell)]),
            "source": str(plan.source.path.resolve()),
            "source_sha256": ledger.sources(plan.source.digest, before, names),
            **facts,
        }
        ledger.write_manifest(
            plan.manifest(cell), entries, before.get("failures", {}), running=True
        )


def end_manifests(plan: Plan, failures: Mapping[str, str], facts: Mapping[str, Any]) -> list[str]:
    """Complete the manifests of the cells that had work, and return the paths that are lost.

    An image is lost if it was to be adapted, does not exist and is no known failure. Failures of
    earlier runs that were not tried again are kept.
    """
    work = list(plan.work())
    worked = {plan.cell_of(name) for name in work}
    manifests = {cell: ledger.read_manifest(plan.manifest(cell)) for cell in plan.cells}
    # running: stopped after its last image
    cells = [
        cell
        for cell in plan.cells
        if cell in worked or manifests[cell].get("state") == ledger.RUNNING
    ]
    saved = tree.list_saved(plan.save_dir, cells).images
    for cell in cells:
        earlier = manifests[cell].get("failures", {})
        failed = {
            name: why for name, why in earlier.items() if tree.key_of(name) not in saved[cell]
        }
        failed |= {name: why for name, why in failures.items() if plan.cell_of(name) == cell}
        counts = {"images": len(saved[cell]), "failed": len(failed)}
        ledger.write_manifest(plan.manifest(cell), {**manifests[cell], **counts, **facts}, failed)
    return [
        path
        for path in work
        if tree.key_of(path) not in saved[plan.cell_of(path)] and path not in failures
    ]


def gallery(plan: Plan, missing: set[str], fit: Fit, most: int = 8) -> np.ndarray:
    """Draw degraded and adapted images side by side, uint8 (H,W,3), spread evenly over the plan.

    missing: paths without an adapted copy. Raises ValueError where no copy exists.
    """
    names = [path for path in itertools.chain(*plan.planned) if path not in missing]
    if not names:
        raise ValueError(f"{plan.save_dir} holds no adapted image to show")
    names = tree.spread(names, most)
    rows = {
        "degraded": [fit(plan.source.read(name)).image for name in names],
        "adapted": [np.asarray(images.read_rgb(plan.copy(name))) for name in names],
    }
    return np.asarray(images.contact_sheet(rows, [tree.key_of(name) for name in names]))


# ------------------------------------------------------------------------- the work of one rank


def run(
    world: World,
    plan: Plan,
    adapt_batch: AdaptBatch,
    *,
    batch_size: int,
    fit: Fit,
    threads: int,
    show: Show,
) -> dict[str, str]:
    """Adapt this rank's share, wait for the others, and return the failures of all ranks.

    The result maps a path to the reason. adapt_batch(keys, uint8 (B,H,W,3)) returns float
    (B,3,H,W) in [-1,1]. fit: makes canvases of the images. Decoding and writing happen in threads
    beside it. Raises OSError where an adapted image cannot be written: the job cannot go on then.
    """
    counts = _Counts(world, plan, show)
    decode = partial(_decode, plan.source, fit)
    batches = _batches(
        plan.share(world.rank, world.size),
        decode,
        counts.fail,
        batch_size=batch_size,
        threads=threads,
    )
    # also after an interruption: what is computed is kept
    with _Writer(plan.save_dir, threads, limit=2 * batch_size) as writer, closing(batches):
        for paths, fitted in batches:
            pixels = np.stack([one.canvas for one in fitted])
            adapted = adapt_batch([tree.key_of(path) for path in paths], pixels)
            written = 0
            for path, one, values in zip(paths, fitted, adapted, strict=True):
                image = one.cut(values)
                if not np.isfinite(image).all():
                    counts.fail(path, "the adapted image has values that are not finite")
                elif path not in plan.neighbours:
                    writer.write(plan.target(path), image)
                    written += 1
            counts.written(written)
    return counts.all_failures()


class _Counts:
    """The written and failed images of a rank; rank 0 shows the progress of all ranks."""

    def __init__(self, world: World, plan: Plan, show: Show):
        self._world, self._plan, self._output = world, plan, show
        self._failures: dict[str, str] = {}
        self._progress = show.progress(plan.todo, world.size) if world.rank == 0 else None
        self._ended = 0

    def fail(self, path: str, reason: str) -> None:
        if path in self._plan.neighbours:
            return
        self._failures[path] = reason
        if len(self._failures) <= 20:
            self._output.warn(f"failed: {self._plan.source.where(path)}: {reason}")
        self._world.report((0, 1))

    def written(self, count: int) -> None:
        self._world.report((count, 0))
        self._show()

    def _show(self) -> None:
        if self._progress:
            reports = self._world.reports()
            self._ended += reports.count(None)
            self._progress.add([report for report in reports if report is not None])

    def all_failures(self) -> dict[str, str]:
        """Return the failures of all ranks, when all have ended."""
        self._world.report(None)
        while self._progress and self._ended < self._world.size:
            self._show()
            time.sleep(0.05)
        return {
            path: reason
            for failures in self._world.gather(self._failures)
            for path, reason in failures.items()
        }


def _batches(
    groups: Sequence[list[str]],
    decode: Callable[[str], Fitted | str],
    fail: Callable[[str, str], None],
    *,
    batch_size: int,
    threads: int,
) -> Iterator[tuple[list[str], list[Fitted]]]:
    """Yield full batches of images of one shape within each group, read ahead by two batches.

    Images that cannot be read are reported through ``fail``.
    """
    with closing(
        prepared(decode, itertools.chain(*groups), threads=threads, most=2 * batch_size)
    ) as decoded:

        def readable(group: list[str]) -> Iterator[tuple[str, Fitted]]:
            for path, outcome in zip(group, decoded, strict=False):
                if isinstance(outcome, str):
                    fail(path, outcome)
                else:
                    yield path, outcome

        for group in groups:
            for batch in _alike(readable(group), batch_size):
                yield [path for path, _ in batch], [fitted for _, fitted in batch]


def _alike(
    decoded: Iterator[tuple[str, Fitted]], batch_size: int
) -> Iterator[list[tuple[str, Fitted]]]:
    """Yield batches of images whose canvases have one shape, as soon as they are full.

    Where too many images wait for others of their shape, the most numerous ones go on.
    """
    waiting: dict[tuple[int, ...], list[tuple[str, Fitted]]] = {}
    for path, fitted in decoded:
        shape = fitted.canvas.shape
        waiting.setdefault(shape, []).append((path, fitted))
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) > PENDING * batch_size:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _decode(source: Source, fit: Fit, name: str) -> Fitted | str:
    """Return an image as it is adapted, or the reason why it cannot be read."""
    try:
        tree.check_name(name, source.path)  # a copy has the same name
        return fit(source.read(name))
    except Exception as error:  # PIL and its plugins raise many types for damaged files
        return reason(source.where(name), error)


def reason(place: Path | str, error: Exception) -> str:
    """Return why an image cannot be read, in words.

    place: its file, or the text by which a source of several images names it. error: what reading
    it raised.
    """
    words = f"{error}" or type(error).__name__
    if isinstance(place, str):
        return words
    if not place.exists():
        return "it is a broken link" if place.is_symlink() else "it is gone"
    if place.is_file() and place.stat().st_size == 0:
        return "it is empty (0 bytes)"
    return words.replace(f"{place}", place.name)


class _Writer:
    """Write images in threads, with a bounded backlog; the next call raises the first error."""

    def __init__(self, save_dir: Path, threads: int, *, limit: int):
        self._save_dir = save_dir
        self._pool, self._limit = ThreadPoolExecutor(threads, "images"), limit
        self._pending: deque[Future] = deque()

    def __enter__(self) -> _Writer:
        return self

    def write(self, path: Path, image: np.ndarray) -> None:
        self._pending.append(self._pool.submit(_write, self._save_dir, path, image))
        while self._pending and (len(self._pending) > self._limit or self._pending[0].done()):
            self._pending.popleft().result()

    def __exit__(self, *_: object) -> None:
        """Finish the writes that were begun, and raise their first error."""
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


def _write(save_dir: Path, path: Path, image: np.ndarray) -> None:
    files.make_folders(save_dir, path.parent)
    images.write_image(path, images.to_pixels(image))


def versions() -> dict[str, str]:
    """Return the versions of this project and of what decides its numbers."""
    numbers = {"python": platform.python_version()}
    for name in ("diffaud", "torch", "numpy", "pillow"):
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "not installed as a package"
    return numbers


def facts(ranks: int, device: Any, batch_size: int) -> dict[str, Any]:
    """Return what a manifest says of a run: versions, command, machine, time.

    device: the torch.device that computes.
    """
    name = "cpu"
    if device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    return {
        "versions": versions(),
        "command": shlex.join(sys.argv),
        "ranks": ranks,
        "device": name,
        "batch_size": batch_size,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


# ------------------------------------------------------------------------- what people are told

FIT_WORDS = {
    "square": "cropped to their middle square and resized to {} pixels",
    "whole": "kept whole, the shorter side resized to {} pixels",
    "pad": "kept whole, the longer side resized to {} pixels",
}


def describe(plan: Plan, num_samples: int | None) -> list[str]:
    """Return the lines that tell which images will be adapted."""
    cells = f"{len(plan.cells)} cell(s) of {plan.source.path}: {some(plan.cells)}"
    lines = [f"images      {plan.total:,} in {cells}"]
    if num_samples is not None:
        most = "at most so many, the first by key"
        lines.append(f"            `num_samples` {num_samples:,} keeps {most}")
    if plan.elsewhere:
        where = "are of images outside these cells and are left alone"
        lines.append(f"            {plan.elsewhere:,} keys of `keys` {where}")
    if plan.source.left_out:
        lines.append(f"            {plan.source.left_out}")
    if plan.not_images:
        others = f"{len(plan.not_images):,} other files are left alone"
        lines.append(f"            {others}: {some(plan.not_images)}")
    done = f"{len(plan.replaced or plan.done):,}"
    lines.append(f"done        {done}{', to be made anew' if plan.replaced else ''}")
    lines.append(f"to do       {plan.todo:,} -> {plan.save_dir}")
    return lines


def describe_fit(plan: Plan, fit: Fit) -> str:
    """Return the line that tells how images are fitted, and how much of their area is kept.

    Only headers are read, of at most MEASURED images that are spread evenly over the plan.
    """
    names = tree.spread(list(itertools.chain(*plan.planned)), MEASURED)
    sizes = {}
    for name in names:
        with contextlib.suppress(Exception):  # a damaged image is named later
            sizes[name] = size_of(plan.source, name)
    line = f"fit         images are {FIT_WORDS[fit.how].format(fit.size)}"
    if not sizes:
        return line
    shares = {name: fit.kept(*size) for name, size in sizes.items()}
    few = f", of {len(sizes):,} images spread over the plan" if len(names) < plan.total else ""
    worst = min(shares, key=shares.__getitem__)
    if shares[worst] == 1:
        return f"{line}: 100 % of the area is kept{few}"
    width, height = sizes[worst]
    least = f"{worst} has {width} x {height} and keeps {100 * shares[worst]:.1f} % of its area"
    median = f"{100 * np.median([*shares.values()]):.1f}"
    return f"{line}: {least}, the least; the median is {median} %{few}"


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first few names, and how many there are."""
    rest = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
