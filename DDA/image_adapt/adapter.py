"""Adapt images, in memory or as a resumable job: a prior, a method and a device in one object."""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from DDA import files, images, inputs, ledger, ranks, settings, shards, sources, tree
from DDA.devices import DTYPES, pick_device, relative_speed
from DDA.fitting import FITS, Fit
from DDA.image_adapt import checkpoints, job
from DDA.image_adapt import prior as priors
from DDA.image_adapt import settings as settings_module
from DDA.image_adapt.settings import Method, Selection
from DDA.image_adapt.tiles import Tiled
from DDA.image_adapt.unet import UNet, parse_channel_mult
from DDA.progress import Estimate, Show
from DDA.sources.cells import ORIENTATIONS, cells_of, fit_of, one_severity, orientation_of


class Adapter:
    """Pull degraded images towards the domain of a diffusion model (DDA, arXiv:2207.03442).

    An adapted image depends on its pixels, its key, the seed, the settings and the weights, and on
    nothing else. It has the size of the prior's images, or with the ``fit`` whole or pad the shape
    of the image.

    Args:
        model_path: a checkpoint in the form of guided-diffusion, with its ``.json`` beside it where
            this project wrote it.
        speed: a rung of the speed ladder: exact, balanced, fast or one-shot.
        device: auto, cpu, cuda, or cuda with a number, as text or as a torch.device.
        dtype: float32, bfloat16 or float16, the precision of the network's body.
        use_fp16: float16 on a GPU and float32 on a CPU, where ``dtype`` is not given.
        batch_size: images at once. It changes speed and memory only (except under published
            behaviour).
        prior: what the checkpoint does not tell, such as ``{"image_size": 64}``, by the names of
            the command line.
        fit: what is adapted of an image that is no square: ``square`` its middle, ``whole`` all of
            it, the shorter side having the size of the prior's images, and ``pad`` all of it within
            a square of that size (default: square in memory; in `folder` that of the layout).
        world: the processes that share the work: each takes the GPU of its place on its machine,
            and its share of the cores.
        method: settings of `DDA.image_adapt.settings.Method`, such as seed, N, D, guidance and
            sampler; they win over the rung, and None means not given.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint is damaged, contradicts ``prior`` or tells too little; a setting
            is unknown or cannot be meant.
        UserWarning: a setting that was given changes nothing (a warning, without ``world``; the
            plan of a job says the same). A call warns of images that lose a part of their area
            where no ``fit`` is given.

    Example:
        >>> from DDA import Adapter
        >>> adapter = Adapter(tiny_prior, speed="one-shot", seed=1)
        >>> adapter(np.zeros((2, 16, 16, 3), np.uint8)).shape
        (2, 16, 16, 3)
    """

    def __init__(
        self,
        model_path: str | PathLike[str],
        *,
        speed: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | None = None,
        use_fp16: bool = False,
        batch_size: int = 4,
        prior: Mapping[str, Any] | None = None,
        fit: str | None = None,
        world: ranks.World | None = None,
        **method: Any,
    ) -> None:
        _check_place(method, ADAPTER, {**OF_THE_PRIOR, **OF_FOLDER})
        path = files.find(settings.as_path("model_path", model_path))
        self._speed = speed or "exact"
        self.settings: Method = settings_module.method(speed, **method)
        batch_size = settings.plain(batch_size)
        settings_module.check_machine(dtype=dtype, use_fp16=use_fp16, batch_size=batch_size)
        settings_module.check_fit(fit, self.settings.behavior)
        self._given_fit = fit
        _check_kind("prior", prior, Mapping, 'settings by their names, such as {"image_size": 64}')
        _check_kind("world", world, ranks.World, "a World of DDA.ranks")
        self.batch_size = batch_size
        self.device: torch.device = pick_device(str(device), world.local_rank if world else 0)
        if world is not None:
            torch.set_num_threads(world.cpu_threads())
        self.dtype, self._notices = _precision(dtype, use_fp16, self.device)
        given = [name for name, value in method.items() if value is not None]
        unread = settings_module.unread(self.settings, given)
        readers = f"`guidance` {self.settings.guidance} with `sampler` {self.settings.sampler}"
        self._notices += [f"`{name}` is ignored by {readers}" for name in unread]
        self.prior = priors.load(path, prior)
        self._process = priors.process_of(
            self.prior.settings, self.settings.timestep_respacing, self.settings.predict_xstart
        )
        self.settings.check(len(self._process), self.image_size)
        self.prior.check_timesteps(self._process, self.settings)
        self.shortfall = self.prior.shortfall(self._process, self.settings)
        if self.shortfall is not None:
            advice = "what it makes of images is not to be trusted, so train it longer"
            self._notices.append(f"`model_path` {path}: {self.shortfall}; {advice}")
        if world is None:
            for notice in self._notices:
                warnings.warn(notice, stacklevel=2)

    def __repr__(self) -> str:
        chosen, size = self.settings, self.image_size
        method = f"{self._speed} (N {chosen.N}, D {chosen.D}, seed {chosen.seed})"
        return f"<Adapter {self.prior.path}: {size} pixels, {method}, {self.device}, {self.dtype}>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is built on first use: a copy in another process builds its own."""
        built = ("network", "_adapt")
        return {name: value for name, value in vars(self).items() if name not in built}

    @property
    def image_size(self) -> int:
        """Return the side of adapted images in pixels."""
        return self.prior.settings["image_size"]

    @property
    def fit(self) -> str:
        """Return how images in memory are fitted to the prior."""
        return self._given_fit or "square"

    @property
    def _halving(self) -> int:
        """Return how many pixels become one at the lowest resolution of the network."""
        widths = parse_channel_mult(self.prior.settings["channel_mult"], self.image_size)
        return 2 ** (len(widths) - 1)

    def fitting(self, how: str | None = None) -> Fit:
        """Return what resizes images for this adapter (default: those in memory)."""
        multiple = math.lcm(self._halving, self.settings.D)
        return Fit(self.image_size, how or self.fit, multiple)

    @cached_property
    def network(self) -> UNet:
        """Return the network of the prior on its device, which is built on first use."""
        return self.prior.network(self.device, self.dtype)

    def __call__(self, batch: Any, keys: Sequence[str] | None = None) -> Any:
        """Adapt images; they come out in the form in which they went in.

        Args:
            batch: uint8 (N,H,W,3) or float (N,3,H,W) in [0,1] as an array or a tensor, a PIL image,
                or a list of images of any sizes (`DDA.inputs.read`).
            keys: the key of each image, text or a path, which seeds its noise (default: the
                SHA-256 of its uint8 pixels). One image may have one key without a list.

        Returns:
            The adapted copies, fitted to the prior's size, rounded to 256 levels as on disk.

        Raises:
            ValueError: images of another form, another number of keys, or a copy with values that
                are not finite.
        """
        pixels = inputs.read(batch)
        return inputs.like(batch, self.pixels(pixels, keys))

    def pixels(self, pixels: Sequence[np.ndarray], keys: Sequence[str] | None) -> inputs.Copies:
        """Adapt images uint8 (H,W,3) of any sizes: uint8 (N,S,S,3), S being the prior's size.

        With the ``fit`` whole or pad the copies have other sides, and where they have several
        shapes, they are a list of (H,W,3). keys: as those of a call. Raises ValueError for another
        number of keys, and where a copy has values that are not finite.
        """
        keys = inputs.keys(pixels, keys)
        fit, full = self.fitting(), self._full(len(pixels))
        self._warn_of_loss(pixels)
        shapes: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(pixels):
            height, width = image.shape[:2]
            shapes.setdefault(fit.canvas_shape(width, height), []).append(place)
        copies = {}
        for shape, places in shapes.items():
            count = fit.at_once(shape, self.batch_size)
            for first in range(0, len(places), count):
                part = places[first : first + count]
                fitted = [fit(Image.fromarray(pixels[place])) for place in part]
                canvases = np.stack([one.canvas for one in fitted])
                adapted = self._adapt_batch([keys[place] for place in part], canvases, full)
                for place, one, values in zip(part, fitted, adapted, strict=True):
                    copies[place] = images.to_pixels(_finite(keys[place], one.cut(values)))
        return inputs.together([copies[i] for i in range(len(pixels))], self.image_size)

    def _warn_of_loss(self, pixels: Sequence[np.ndarray]) -> None:
        """Warn where images lose a part of their area because nobody has chosen a fit."""
        if self._given_fit or self.settings.behavior == "published":
            return
        shapes = {image.shape[1::-1] for image in pixels}
        shares = {shape: self.fitting().kept(*shape) for shape in shapes}
        worst = min(shares, key=shares.__getitem__, default=None)
        if worst is not None and shares[worst] < 1:
            warnings.warn(
                f"of an image of {worst[0]} x {worst[1]} pixels the middle square is adapted, "
                f"{100 * shares[worst]:.0f} % of its area; give the adapter `fit` whole to adapt "
                "all of it, or square to keep to this",
                stacklevel=4,
            )

    def _adapt_batch(self, keys: Sequence[str], canvases: np.ndarray, full: int = 0) -> np.ndarray:
        """Adapt images of one shape, uint8 (B,H,W,3): float (B,3,H,W) in [-1,1].

        full: see `_full`; rectangles have few neighbours of their shape to fill a batch.
        """
        is_square = canvases.shape[1:3] == (self.image_size, self.image_size)
        return self._adapt(keys, canvases, full if is_square else 0)

    @cached_property
    def _adapt(self) -> Callable[..., np.ndarray]:
        """Return the function that adapts a batch; it needs the network."""
        return priors.batch_adapter(
            Tiled(self.network, self.image_size, self._halving),
            self._process,
            self.device,
            seed=self.settings.seed,
            image_size=self.image_size,
            **self.settings.arguments(),
        )

    def _full(self, count: int) -> int:
        """Return the size to which the last batch of ``count`` images is filled up, or 0.

        Then an image is rounded alike wherever it stands, in memory, in a job and after a resume.
        Few images are not worth it, and under published behaviour neighbours matter.
        """
        fills = count > self.batch_size and self.settings.behavior == "corrected"
        return self.batch_size if fills else 0

    def folder(
        self,
        source: str | PathLike[str],
        save_dir: str | PathLike[str],
        *,
        layout: str = "folder",
        corruption: str | Sequence[str] = (),
        severity: int | str | Sequence[int | str] = (),
        train: bool | None = None,
        num_samples: int | None = None,
        keys: str | PathLike[str] | Collection[str] | None = None,
        format: str | None = None,
        orientation: str | None = None,
        fit: str | None = None,
        overwrite: bool = False,
        gallery: str | PathLike[str] | None = None,
        shard_size: int | None = None,
        verify: bool = False,
        classes: str | PathLike[str] | Sequence[str] | None = None,
        dry_run: bool = False,
        world: ranks.World | None = None,
        quiet: bool = False,
        **others: Any,
    ) -> Report:
        """Write the adapted copy of every image of a tree to another tree, under the same key.

        The job goes on where it was stopped. A broken image is counted and named, and the rest goes
        on.

        Args:
            source: a folder of images, or a data set's files (dataset/README.md).
            save_dir: the tree of copies, which also gets settings, manifests and ``classes.txt``.
            layout: imagenet, imagenetc, cifar10, cifar10c, digits or folder.
            corruption: one or several folders of the tree, or ``all``.
            severity: one or several numbers, or ``all`` (default: 5, and 0 for sequences).
            train: the training or the test split, for layouts with splits (default: training).
            num_samples: at most so many images, the first by key.
            keys: only these images (paths in the tree without the suffix), or a file with a key on
                each line.
            format: ``png``, ``same`` as the source, or ``webdataset``: shards
                ``<cell>/shard-000000.tar`` of ``<key>.png``, and of ``<key>.cls`` where the label
                is known.
            orientation: ``apply`` turns photographs as their EXIF data say, ``ignore`` does not
                (default: that of the save folder; for a new one apply with the layout folder, and
                ignore with the published layouts and the published behaviour).
            fit: square, whole or pad, as that of `Adapter` (default: that of the save folder, then
                of the adapter; else whole with the layout folder, and square with the published
                layouts and the published behaviour).
            overwrite: make the planned images anew.
            gallery: a PNG that gets some images before and after.
            shard_size: the number of images of a shard (default: 1000).
            verify: read every finished copy; damaged ones are made again.
            classes: names for labels that come without: a list of names, the name of a built-in
                list, or a file.
            dry_run: check everything, print the plan and an estimate by one batch, and stop.
            world: the processes that share the work (default: this one).
            quiet: print nothing; the result tells which images failed.
            others: nothing. A setting that belongs elsewhere is refused with its place.

        Returns:
            The number of finished copies, and the images that failed or are missing.

        Raises:
            FileNotFoundError, ValueError: the source lacks what was asked for, the folder holds
                copies of other settings or other images (`ranks.SharedError` with several
                processes).
            OSError: a copy cannot be written.

        Example:
            >>> report = adapter.folder(photos, copies, quiet=True)
            >>> report.done, report.failed
            (3, {})
        """
        _check_place(others, FOLDER, OF_ADAPTER)
        settings.check_kinds(dict(dry_run=dry_run, quiet=quiet), dict(dry_run=bool, quiet=bool))
        _check_kind("world", world, ranks.World, "a World of DDA.ranks")
        selection = Selection(
            source=files.find(settings.as_path("source", source)),
            save_dir=files.find(settings.as_path("save_dir", save_dir)),
            layout=layout,
            corruption=settings_module.texts_of("corruption", corruption, str),
            severity=settings_module.texts_of("severity", severity, int | str),
            train=train,
            num_samples=settings.plain(num_samples),
            keys=settings_module.keys_of(keys),
            format=format,
            orientation=orientation,
            fit=fit,
            overwrite=overwrite,
            gallery=None if gallery is None else files.find(settings.as_path("gallery", gallery)),
            shard_size=settings.plain(shard_size),
            verify=verify,
            classes=classes,
        )
        if quiet:  # otherwise the plan says it
            for notice in selection.unread():
                warnings.warn(notice, stacklevel=2)
        show = Show(quiet=quiet)
        if world is None:
            return ranks.alone(lambda world: self.run(selection, world, show, dry_run=dry_run))
        return self.run(selection, world, show, dry_run=dry_run)

    def run(
        self,
        selection: Selection,
        world: ranks.World,
        show: Show,
        *,
        dry_run: bool = False,
        unused: Sequence[str] = (),
    ) -> Report:
        """Run the job of `folder` on a checked selection; every process of ``world`` calls it.

        unused: settings that were given and change nothing, of which the user is told.
        """
        if len(set(world.gather(self.dtype))) > 1:
            raise ranks.SharedError(
                "some ranks have a GPU and others do not, and `use_fp16` means another precision "
                "there; give `dtype`"
            )
        plan, identity = world.on_root(lambda: self._prepare(selection))
        fit = self.fitting(identity["fit"])
        if world.rank == 0:
            self._say_plan(selection, plan, fit, world.size, show, unused)
        if plan.todo:
            world.together(lambda: self._adapt)
        if dry_run:
            report = Report(plan.total, len(plan.done), {}, (), selection.save_dir)
            estimate = self._estimate(plan, fit, world, show)
            return dataclasses.replace(report, estimate=estimate)
        started = time.time()
        facts = job.facts(world.size, self.device, self.batch_size)
        world.on_root(lambda: job.begin(plan, identity, facts))
        failures: dict[str, str] = {}
        if plan.todo:
            failures = job.run(
                world,
                plan,
                partial(self._adapt_batch, full=self._full(plan.total)),
                batch_size=self.batch_size,
                fit=fit,
                threads=min(8, 2 * torch.get_num_threads()),
                show=show,
            )
        facts["seconds"] = round(time.time() - started, 1)
        facts |= {"made": plan.todo - len(failures), "prior": str(self.prior.path)}
        return world.on_root(lambda: self._finish(selection, plan, failures, facts, fit))

    def _estimate(
        self, plan: job.Plan, fit: Fit, world: ranks.World, show: Show
    ) -> Estimate | None:
        """Say and return how long a job would take, by one batch."""
        if not plan.todo:
            return None
        adapt_batch = partial(self._adapt_batch, full=self._full(plan.total))
        estimate = job.estimate(world, plan, adapt_batch, batch_size=self.batch_size, fit=fit)
        if world.rank == 0:
            show.say(f"estimate    {estimate or 'none: the first images cannot be read'}")
        return estimate

    def _prepare(self, selection: Selection) -> tuple[job.Plan, dict[str, Any]]:
        """List the images and compare the save folder with what is to be done."""
        published = self.settings.behavior == "published"
        orientation = (
            selection.orientation
            or ledger.read_choice(selection.save_dir, "orientation", ORIENTATIONS)
            or orientation_of(selection.layout, published=published)
        )
        fit = (
            selection.fit
            or ledger.read_choice(selection.save_dir, "fit", FITS)
            or self._given_fit
            or fit_of(selection.layout, published=published)
        )
        settings_module.check_fit(fit, self.settings.behavior)
        source, cells = _opened(selection, orientation)
        keys = selection.keys
        format = selection.format or ("same" if published else "png")
        if format == shards.FORMAT and published:
            raise ValueError(
                f"`format` {format} is not there with `behavior` published, under which an image "
                "depends on the others of its batch; leave one of them out"
            )
        shard_size = (selection.shard_size or shards.SIZE) if format == shards.FORMAT else None
        plan = job.make_plan(
            source,
            selection.save_dir,
            cells,
            num_samples=selection.num_samples,
            keys=tree.read_keys(keys) if isinstance(keys, Path) else keys,
            fixed_batch=self.batch_size if published else None,
            same_format=format == "same",
            anew=selection.overwrite,
            shard_size=shard_size,
            verify=selection.verify,
        )
        identity = settings_module.identity(
            {"weights_sha256": self.prior.sha256, **self.prior.settings},
            self.settings,
            dtype=self.dtype,
            same_format=format == "same",
            batch_size=self.batch_size,
            fit=fit,
            orientation=orientation,
            shard_size=shard_size,
        )
        if self.shortfall is not None:
            identity[ledger.WARNING] = self.shortfall
        job.check_settings(plan, identity)
        job.check_source(plan)
        return plan, identity

    def _say_plan(
        self,
        selection: Selection,
        plan: job.Plan,
        fit: Fit,
        processes: int,
        show: Show,
        unused: Sequence[str],
    ) -> None:
        """Say what will be done, and what the user should know of it."""
        for line in job.describe(plan, selection.num_samples):
            show.say(line)
        show.say(job.describe_fit(plan, fit))
        chosen = self.settings.deciding()
        counts = ("N", "steps")
        shown = [(name, value) for name, value in chosen.items() if name not in counts]
        method = ", ".join(f"{name} {value}" for name, value in shown if value is not None)
        process = f"{self.settings.N} of {self.settings.timestep_respacing}"
        behavior = f"{self.settings.behavior}, seed {self.settings.seed}"
        known = "{image_size} pixels, {noise_schedule} schedule of {diffusion_steps}".format_map(
            self.prior.settings
        )
        threads = f"{torch.get_num_threads()} threads each"
        machine = f"{processes} x {self.device.type}, {threads}, {self.dtype}"
        show.say(f"steps       {chosen['steps']} from {process} ({behavior})")
        show.say(f"method      {method}")
        show.say(f"prior       {self.prior.path}: {known}, sha256 {self.prior.sha256[:12]}")
        show.say(f"machine     {machine}, batch {self.batch_size}")
        notices = [*self._notices, *(f"`{name}` changes nothing" for name in unused)]
        notices += selection.unread()
        for notice in notices:
            show.say(f"note        {notice}")

    def _finish(
        self,
        selection: Selection,
        plan: job.Plan,
        failures: dict[str, str],
        facts: dict[str, Any],
        fit: Fit,
    ) -> Report:
        """Complete the manifests, count what is there, write the gallery."""
        missing = job.end_manifests(plan, failures, facts)
        report = Report(
            plan.total,
            plan.total - len(failures) - len(missing),
            failures,
            tuple(missing),
            selection.save_dir,
            facts["seconds"],
        )
        if selection.gallery is None:
            return report
        try:
            sheet = job.gallery(plan, {*failures, *missing}, fit)
            files.make_folder(selection.gallery.parent)
            images.write_image(selection.gallery, sheet)
        except (OSError, ValueError) as error:
            return dataclasses.replace(report, gallery_error=f"{error}")
        return dataclasses.replace(report, gallery=selection.gallery)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a job: how many copies were wanted, how many exist, what failed and why.

    total, done: numbers of images. failed: the path of each image that failed, with the reason.
    missing: paths of images without a copy. seconds: of the work. gallery_error: why there is no
    gallery. estimate: of a dry run, how long the job would take.
    """

    total: int
    done: int
    failed: Mapping[str, str]
    missing: tuple[str, ...]
    save_dir: Path
    seconds: float = 0.0
    gallery: Path | None = None
    gallery_error: str | None = None
    estimate: Estimate | None = None

    @property
    def complete(self) -> bool:
        """Tell whether everything that was asked for is there."""
        return not (self.failed or self.missing or self.gallery_error)

    def __str__(self) -> str:
        text = f"{self.done:,} of {self.total:,} adapted images are in {self.save_dir}"
        return text if self.gallery is None else f"{text}\ngallery     {self.gallery}"

    def faults(self) -> list[str]:
        """Return sentences on failed images, missing images and a missing gallery."""
        advice = (
            f"the reasons are in {self.save_dir}/manifest*.json, and the same command tries them "
            "again"
        )
        groups = ((sorted(self.failed), "failed"), (self.missing, "are missing"))
        sentences = [
            f"{len(names)} of {self.total} images {word}: {job.some(names, 10)}; {advice}"
            for names, word in groups
            if names
        ]
        return sentences + ([f"no `gallery`: {self.gallery_error}"] if self.gallery_error else [])


# The settings of an Adapter and of its `folder`, and what a message says of one in the wrong place
ADAPTER = (
    *Adapter.__init__.__kwdefaults__,
    *(field.name for field in dataclasses.fields(Method)),
)
FOLDER = tuple(inspect.signature(Adapter.folder).parameters)[1:-1]  # neither self nor others
OF_THE_PRIOR = {
    name: f'give it as `prior`, such as prior={{"{name}": …}}' for name in checkpoints.KINDS
}
OF_FOLDER = dict.fromkeys(FOLDER, "it belongs to `folder`") | {
    "use_ddim": "give `sampler` ddim",
    "dataset": "give `layout` to `folder`",
}
OF_ADAPTER = {
    **dict.fromkeys(OF_THE_PRIOR, "give it to `Adapter`, as an entry of `prior`"),
    **dict.fromkeys(ADAPTER, "it belongs to `Adapter`"),
    "dataset": "give `layout`",
    "use_ddim": "give `sampler` ddim to `Adapter`",
}


def _opened(selection: Selection, orientation: str) -> tuple[sources.Source, list[str]]:
    """Return the source of the images, and its cells that are adapted."""
    source = sources.open_source(
        selection.source,
        None if selection.classes is None else tree.class_list(selection.classes),
        severity=one_severity(selection.severity),
        upright=orientation == "apply",
    )
    cells = cells_of(
        source,
        selection.layout,
        selection.corruption,
        selection.severity,
        train=selection.train is not False,
        leave_out=selection.save_dir,
    )
    return source, cells


def _check_place(
    names: Collection[str], known: Collection[str], elsewhere: Mapping[str, str]
) -> None:
    """Raise ValueError for an unknown setting, with the place where it belongs."""
    for name in names:
        if name in elsewhere and name not in known:
            raise ValueError(f"`{name}` is unknown here; {elsewhere[name]}")
    settings.check_names(names, known)


def _check_kind(name: str, value: object, kind: type, words: str) -> None:
    """Raise ValueError for a value that is given (not None) and of another kind."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"`{name}` must be {words}, not {tree.shown(value)}")


def _finite(key: str, values: np.ndarray) -> np.ndarray:
    """Return the values of an adapted copy. Raises ValueError where some are not finite."""
    if not np.isfinite(values).all():
        raise ValueError(f"the adapted copy of {key} has values that are not finite")
    return values


def _precision(dtype: str | None, use_fp16: bool, device: torch.device) -> tuple[str, list[str]]:
    """Return the name of the network's precision, and what the user should know of it."""
    if dtype is None and use_fp16 and device.type == "cpu":
        return "float32", ["`use_fp16` True is float32 on a CPU"]
    name = dtype or ("float16" if use_fp16 else "float32")
    speed = relative_speed(device, DTYPES[name])
    times = f"{speed:.2g} times its speed, as measured"
    slow = f"`dtype` {name} is slower than float32 on this {device.type}: {times}"
    return name, [slow] if speed < 1 else []
