"""The adaptation job: plan, shard, resume, batch, adapt, write, count.

Rank 0 plans. Every rank takes its share of the missing images and writes each of them once. The
files on disk are the only state: a file under its final name is done. The job knows nothing of
diffusion: it is given ``adapt_batch``.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from DDA import files, images, ledger, shards, tree
from DDA.ahead import prepared
from DDA.fitting import Fit, Fitted
from DDA.progress import Estimate, Show
from DDA.ranks import World
from DDA.sources import Source, found_instead, size_of

LONG = 20  # seconds of a batch that is not measured twice
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
    elsewhere: the number of wanted keys outside the cells. shards: for copies in shards, the shard
    of each group, relative to ``save_dir``; None for copies in files of their own. misplaced: the
    key of an image that lies in another shard than its own, if there is one. damaged:
    relative paths of damaged copies or shards, with the reason; their images are made again.
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
    shards: list[str] | None = None
    misplaced: str = ""
    damaged: Mapping[str, str] = field(default_factory=dict)

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
        """Return every size-th group for one rank, or every size-th image of the only group.

        A rank takes whole shards, one after another.
        """
        in_groups = self.fixed_batches or self.shards is not None
        return self.groups[rank::size] if in_groups else [self.groups[0][rank::size]]

    def saved(self, cells: Iterable[str]) -> tree.Saved | shards.Listed:
        """Return what is in some cells of ``save_dir`` now."""
        return _saved(self.save_dir, cells, in_shards=self.shards is not None)

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

    def read_copy(self, path: str) -> Image.Image:
        """Return the adapted copy of an image."""
        if self.shards is None:
            return images.read_rgb(self.copy(path))
        key, cell = tree.key_of(path), self.cell_of(path)
        shard = self.saved([cell]).images[cell][key]
        return images.read_rgb(Path(key), data=shards.read_image(self.save_dir / shard, key))

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
    shard_size: int | None = None,
    verify: bool = False,
) -> Plan:
    """List the first ``num_samples`` images of the cells by key, and tell which are done.

    keys: only these images. fixed_batch: batches of that size whose members never change
    (published behaviour, where neighbours matter). anew: also make those that are done.
    shard_size: write shards of so many images, not files. verify: read every finished copy; those
    that are damaged are made again. Raises ValueError for an empty plan, for keys that are not in
    the source, and where the copies would lie among their sources.
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
    saved = _saved(save_dir, cells, in_shards=shard_size is not None, verify=verify, at_root=True)
    copies = saved.merged()
    damaged = saved.damaged if shard_size is not None else {}
    if verify and shard_size is None:
        damaged = _damaged(save_dir, list(copies.values()))
        copies = {key: path for key, path in copies.items() if path not in damaged}
    return plan_of(
        listed,
        copies,
        cells=cells,
        num_samples=num_samples,
        keys=keys,
        fixed_batch=fixed_batch,
        anew=anew,
        shard_size=shard_size,
        source=source,
        save_dir=save_dir,
        same_format=same_format,
        not_images=not_images,
        in_cells=sum(map(len, saved.images.values())) + len(damaged),
        unfinished=saved.unfinished,
        damaged=damaged,
    )


def _saved(
    save_dir: Path,
    cells: Iterable[str],
    *,
    in_shards: bool,
    verify: bool = False,
    at_root: bool = False,
) -> tree.Saved | shards.Listed:
    """Return the copies in some cells of a save folder, in files or in shards.

    at_root: temporaries at its root are among the unfinished files.
    """
    if in_shards:
        return shards.listed(save_dir, cells, verify=verify, at_root=at_root)
    return tree.list_saved(save_dir, cells, at_root=at_root)


def _damaged(save_dir: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return which of some copies cannot be read, and why."""

    def fault(path: str) -> str | None:
        try:
            images.read_rgb(save_dir / path)
            return None
        except (FileNotFoundError, files.BadFile) as error:
            return f"{error}"

    with ThreadPoolExecutor(4) as pool:
        outcomes = zip(paths, pool.map(fault, paths), strict=True)
        return {path: why for path, why in outcomes if why is not None}


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
    shard_size: int | None = None,
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
    if shard_size is not None:
        placed = _placed(listed, rest["cells"], shard_size)
        rest["shards"], groups = _by_shard(todo, placed)
        rest["misplaced"] = next((key for key in copies if placed[key] != copies[key]), "")
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


def _placed(listed: Sequence[list[str]], cells: Sequence[str], size: int) -> dict[str, str]:
    """Return the shard of each listed key: its place in the cell's order of keys decides."""
    placed = {}
    for cell, paths in zip(cells, listed, strict=True):
        for number, part in enumerate(_cut(paths, size)):
            placed |= dict.fromkeys(map(tree.key_of, part), shards.name_of(cell, number))
    return placed


def _by_shard(todo: Sequence[str], placed: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the shards that are to be written, and the images that each of them gets."""
    groups: dict[str, list[str]] = {}
    for path in todo:
        groups.setdefault(placed[tree.key_of(path)], []).append(path)
    return list(groups), list(groups.values())


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
    others = plan.saved(plan.cells).merged().keys() - plan.replaced.keys()
    others |= {tree.key_of(path) for path in _outside(plan)}
    # files where the copies are in shards, and shards where they are in files
    others |= _saved(plan.save_dir, plan.cells, in_shards=plan.shards is None).merged().keys()
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
        if path.lower().endswith(tree.SUFFIXES) or shards.NAME.fullmatch(os.path.basename(path))
    ]


def check_source(plan: Plan) -> None:
    """Raise ValueError where finished copies were made from other pixels than the source has.

    So it is where they were made from other images, for then each image has another shard.
    """
    if plan.misplaced and not plan.anew:
        raise ValueError(
            f"{plan.save_dir / plan.done[plan.misplaced]} holds {plan.misplaced}, which now "
            "belongs into another shard: the source has got or lost images; choose another "
            "`save_dir`, or make all copies anew with `overwrite`"
        )
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
        _remove(plan)
        if plan.anew and ledger.read_settings(plan.save_dir) != settings:
            (plan.save_dir / tree.SETTINGS).unlink(missing_ok=True)
        if differences := ledger.claim(plan.save_dir, settings):
            raise _conflict(plan, differences, "Choose another `save_dir`")
        tree.sweep_temporaries(plan.save_dir, plan.unfinished)
        begin_manifests(plan, facts)
        if plan.source.classes and tree.read_classes(plan.save_dir) != plan.source.classes:
            tree.write_classes(plan.save_dir, plan.source.classes)


def _remove(plan: Plan) -> None:
    """Remove the copies that are made anew or are damaged.

    The other images of a shard stay in it.
    """
    for path in plan.damaged:
        (shards.remove if plan.shards is not None else Path.unlink)(plan.save_dir / path)
    if plan.shards is None:
        for path in plan.replaced.values():
            (plan.save_dir / path).unlink()
        return
    stay: dict[str, set[str]] = {path: set() for path in plan.replaced.values()}
    for key, path in plan.saved(plan.cells).merged().items():
        if path in stay and key not in plan.replaced:
            stay[path].add(key)
    for path, keys in stay.items():
        shards.keep(plan.save_dir, path, keys, partial(label_of, plan.source))


def label_of(source: Source, key: str) -> int | None:
    """Return the label of an image, where the source knows its classes and the key names one."""
    classes = source.classes or ()
    try:
        label = tree.parse(f"{key}.png", classes)[2]
    except ValueError:  # its folder and its file tell different classes
        return None
    return None if label is None else classes.index(label)


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
    listed = plan.saved(cells)
    saved = listed.images
    for cell in cells:
        earlier = manifests[cell].get("failures", {})
        failed = {
            name: why for name, why in earlier.items() if tree.key_of(name) not in saved[cell]
        }
        failed |= {name: why for name, why in failures.items() if plan.cell_of(name) == cell}
        counts = {"images": len(saved[cell]), "failed": len(failed)}
        if plan.shards is not None:
            named = dict.fromkeys(saved[cell].values())
            counts["shards_sha256"] = {path: listed.digests[path] for path in named}
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
        "adapted": [np.asarray(plan.read_copy(name)) for name in names],
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
        fit=fit,
        batch_size=batch_size,
        threads=threads,
    )
    # also after an interruption: what is computed is kept
    with _writer(plan, world, threads, 2 * batch_size) as writer, closing(batches):
        for paths, fitted in batches:
            pixels = np.stack([one.canvas for one in fitted])
            adapted = adapt_batch([tree.key_of(path) for path in paths], pixels)
            written = 0
            for path, one, values in zip(paths, fitted, adapted, strict=True):
                image = one.cut(values)
                if not np.isfinite(image).all():
                    counts.fail(path, "the adapted image has values that are not finite")
                elif path not in plan.neighbours:
                    writer.write(path, image)
                    written += 1
            counts.written(written)
    return counts.all_failures()


def estimate(
    world: World, plan: Plan, adapt_batch: AdaptBatch, *, batch_size: int, fit: Fit
) -> Estimate | None:
    """Return how long `run` would take, by one batch that each rank adapts; nothing is written.

    The batch is adapted twice, because the first time is slower, unless it takes long. Images of
    other shapes count by their pixels. None where nothing is to be done, or no image of the batch
    can be read.
    """
    share = plan.share(world.rank, world.size)
    decode = partial(_decode, plan.source, fit)
    batches = _batches(share, decode, lambda *_: None, fit=fit, batch_size=batch_size, threads=1)
    seconds, count, usual = 0.0, 0, 1.0
    with closing(batches):
        for paths, fitted in itertools.islice(batches, 1):
            keys, count = [tree.key_of(path) for path in paths], len(paths)
            pixels = np.stack([one.canvas for one in fitted])
            areas = [math.prod(fit.canvas_shape(*size)) for size in _sizes(plan).values()]
            usual = float(np.mean(areas)) / math.prod(pixels.shape[1:3])
            for _ in range(2):
                begun = time.perf_counter()
                adapt_batch(keys, pixels)
                seconds = time.perf_counter() - begun
                if seconds > LONG:
                    break
    own = sum(map(len, share)), count, usual * seconds / max(count, 1)
    ranks = [(images, count, each) for images, count, each in world.gather(own) if count]
    if not ranks:
        return None
    images, count, each = max(ranks, key=lambda rank: rank[0] * rank[2])
    measured = f"one batch of {count}"
    if world.size > 1:
        measured += f" on each of {world.size} ranks"
    return Estimate(images * each, each / len(ranks), "an image", measured)


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
    fit: Fit,
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
            for batch in _alike(readable(group), fit, batch_size):
                yield [path for path, _ in batch], [fitted for _, fitted in batch]


def _alike(
    decoded: Iterator[tuple[str, Fitted]], fit: Fit, batch_size: int
) -> Iterator[list[tuple[str, Fitted]]]:
    """Yield batches of images whose canvases have one shape, as soon as they are full.

    Where too many images wait for others of their shape, the most numerous ones go on.
    """
    waiting: dict[tuple[int, ...], list[tuple[str, Fitted]]] = {}
    for path, fitted in decoded:
        shape = fitted.canvas.shape
        waiting.setdefault(shape, []).append((path, fitted))
        if len(waiting[shape]) == fit.at_once(shape, batch_size):
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

    def __init__(self, plan: Plan, threads: int, *, limit: int):
        self._plan = plan
        self._pool, self._limit = ThreadPoolExecutor(threads, "images"), limit
        self._pending: deque[tuple[str, Future]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def write(self, path: str, image: np.ndarray) -> None:
        """Write the copy of the image at ``path`` in the source."""
        self._pending.append((path, self._pool.submit(self._prepare, path, image)))
        while self._pending and (len(self._pending) > self._limit or self._pending[0][1].done()):
            self._take()

    def _take(self) -> None:
        path, future = self._pending.popleft()
        self._end(path, future.result())

    def _prepare(self, path: str, image: np.ndarray) -> Any:
        """Do in a thread what can be done there: all of it."""
        target = self._plan.target(path)
        files.make_folders(self._plan.save_dir, target.parent)
        images.write_image(target, images.to_pixels(image))

    def _end(self, path: str, prepared: Any) -> None:
        """Do the rest, in the order of the images."""

    def __exit__(self, *_: object) -> None:
        """Finish the writes that were begun, and raise their first error."""
        try:
            while self._pending:
                self._take()
        finally:
            self._pool.shutdown(cancel_futures=True)


class _ShardWriter(_Writer):
    """Write the shards of a rank one after another; within a shard images come in any order."""

    def __init__(self, plan: Plan, mine: slice, threads: int, *, limit: int):
        super().__init__(plan, threads, limit=limit)
        groups = zip(plan.shards[mine], plan.groups[mine], strict=True)
        self._shards = {path: shard for shard, paths in groups for path in paths}
        self._current = ""
        self._open = contextlib.ExitStack()

    def _prepare(self, path: str, image: np.ndarray) -> bytes:
        tree.check_name(path, self._plan.source.path)
        return images.encode(images.to_pixels(image), "PNG")

    def _end(self, path: str, prepared: bytes) -> None:
        if self._shards[path] != self._current:
            self._open.close()
            self._current = self._shards[path]
            label = partial(label_of, self._plan.source)
            self._shard = shards.Shard(self._plan.save_dir, self._current, label)
            self._open.enter_context(self._shard)
        self._shard.add(tree.key_of(path), prepared)

    def __exit__(self, *error: object) -> None:
        with self._open:  # what is made of the last shard is kept
            super().__exit__(*error)


def _writer(plan: Plan, world: World, threads: int, limit: int) -> _Writer:
    """Return what writes the copies of this rank's share."""
    if plan.shards is None:
        return _Writer(plan, threads, limit=limit)
    return _ShardWriter(plan, slice(world.rank, None, world.size), threads, limit=limit)


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
    if plan.damaged:
        lines.append(f"damaged     {len(plan.damaged):,}, made again: {some([*plan.damaged])}")
    lines.append(f"to do       {plan.todo:,} -> {plan.save_dir}")
    return lines


def _sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return the widths and heights of at most MEASURED images, spread evenly, by their names."""
    sizes = {}
    for name in tree.spread(list(itertools.chain(*plan.planned)), MEASURED):
        with contextlib.suppress(Exception):  # a damaged image is named later
            sizes[name] = size_of(plan.source, name)
    return sizes


def describe_fit(plan: Plan, fit: Fit) -> str:
    """Return the line that tells how images are fitted, and how much of their area is kept."""
    sizes = _sizes(plan)
    line = f"fit         images are {FIT_WORDS[fit.how].format(fit.size)}"
    if not sizes:
        return line
    shares = {name: fit.kept(*size) for name, size in sizes.items()}
    few = f", of {len(sizes):,} images spread over the plan" if plan.total > MEASURED else ""
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
