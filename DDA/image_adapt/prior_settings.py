"""The settings of a prior's training. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from DDA import settings, tree
from DDA.image_adapt.choices import FIXED_VARIANCES, NOISE_SCHEDULES

# The settings of the network and of the process, in the order of `ema.json`.
NETWORK = (
    "num_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_resolutions",
    "class_cond",
    "learn_sigma",
    "resblock_updown",
    "use_scale_shift_norm",
    "image_size",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_new_attention_order",
)
PROCESS = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "fixed_variance")
# The settings that `training.loop.Recipe` takes beside the budget.
RECIPE = ("batch_size", "accumulate", "warmup", "clip_norm", "ema", "seed")
# A run is identified by these, its images, its network and its process, but not by its budget.
IDENTITY = (*RECIPE, "lr", "weight_decay", "anneal", "anneal_steps", "flip")
SAMPLE_STEPS = 50  # steps of DDIM in which samples are drawn; a process has as many or more
AT_LEAST = {
    SAMPLE_STEPS: ("diffusion_steps",),
    1: ("batch_size", "accumulate", "anneal_steps", "num_channels", "num_res_blocks", "num_heads"),
    0: ("warmup", "clip_norm", "seed", "weight_decay", "cache_gib"),
}
POSITIVE = ("steps", "minutes", "lr", "diffusion_steps", "save_minutes", "image_size")


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """Settings of a prior's training: the images, the network, the process and the recipe.

    The budget is ``steps``, ``minutes`` or the first of both to end. Raises ValueError for values
    that cannot be used.
    """

    source: Path  # a folder of images, or a data set's files
    save_dir: Path
    cell: str = "."  # only this folder of the source
    flip: bool = False  # mirror half of the images
    # the network, as in guided-diffusion
    image_size: int | None = None  # None: that of the images
    num_channels: int = 64
    num_res_blocks: int = 2
    num_heads: int = 4
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    channel_mult: str | None = None  # None: `default_channel_mult`
    attention_resolutions: str | None = None  # None: that of the smallest level
    dropout: float = 0.0
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    # the process
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    rescale_timesteps: bool = False
    fixed_variance: str = "small"  # of samples, without learn_sigma
    timesteps: str | None = None  # train only these, such as "0-200"; None: all
    # the training
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64  # images of a step, over all ranks
    accumulate: int = 1  # parts of a rank's batch
    lr: float = 0.0004
    weight_decay: float = 0.0
    warmup: int = 200  # steps of rising learning rate
    anneal: bool = True  # lower the learning rate linearly to 0
    anneal_steps: int | None = None  # over so many steps; None: over the budget
    clip_norm: float = 1.0  # of the gradient; 0: no limit
    ema: float = 0.9999  # decay of the averaged weights
    seed: int = 0
    # the machine
    bf16: bool | None = None  # None: what is measured to be faster
    save_minutes: float = 2.0  # between saved states
    cache_gib: float = 8.0  # memory for decoded images

    def __post_init__(self) -> None:
        """Check what can be checked without opening the images."""
        settings.check_kinds(vars(self), get_type_hints(PriorSettings))
        settings.check_one_of("noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
        settings.check_one_of("fixed_variance", self.fixed_variance, FIXED_VARIANCES)
        if self.steps is None and self.minutes is None:
            raise ValueError("give a budget: `steps` or `minutes`")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` {value} must be above 0")
        for least, names in AT_LEAST.items():
            settings.check_at_least(least, **self.chosen(*names))
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` {getattr(self, name)} must be at least 0 and below 1")
        if self.lr > 1:
            raise ValueError(f"`lr` {self.lr:g} must be at most 1; 0.0001 to 0.001 are usual")
        self._check_network()
        self.last_timestep()
        settings.check_writable("save_dir", self.save_dir)

    def _check_network(self) -> None:
        """Raise ValueError for a setting of the network that no network can have."""
        if self.class_cond:
            raise ValueError(
                "`class_cond` True makes a prior that cannot adapt images, whose class is unknown; "
                "leave it out"
            )
        for name in ("num_head_channels", "num_heads_upsample"):
            value = getattr(self, name)
            if value != -1 and value < 1:
                raise ValueError(f"`{name}` {value} must be at least 1, or -1 for not given")
        if self.channel_mult is not None and not _is_list(self.channel_mult, float):
            value = tree.shown(self.channel_mult)
            raise ValueError(f'`channel_mult` {value} must be multipliers like "1,2,2"')
        if self.attention_resolutions and not _is_list(self.attention_resolutions, int):
            value = tree.shown(self.attention_resolutions)
            raise ValueError(f'`attention_resolutions` {value} must be image sizes like "16,8"')

    def last_timestep(self) -> int:
        """Return the last timestep that is trained. Raises ValueError where that is none."""
        end = self.diffusion_steps - 1
        last = end if self.timesteps is None else last_of(self.timesteps)
        if last is None or not 0 < last <= end:
            raise ValueError(
                f"`timesteps` {tree.shown(self.timesteps)} must be 0 and the last timestep to "
                f'train, at most {end}, such as "0-{min(200, end)}"; every walk ends at 0'
            )
        return last

    def record(self) -> dict[str, Any]:
        """Return the entries of ``ema.json`` that tell for what the prior is good."""
        is_part = self.last_timestep() < self.diffusion_steps - 1
        return {"timesteps": f"0-{self.last_timestep()}"} if is_part else {}

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError where a batch cannot be shared by so many ranks."""
        parts = ranks * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"`batch_size` {self.batch_size} cannot be shared by {ranks} ranks in "
                f"`accumulate` {self.accumulate} parts; use a multiple of {parts}"
            )

    def check_attention(self, image_size: int) -> None:
        """Raise ValueError for an attention size that no level of the network has."""
        flags = self.flags(image_size)
        levels = range(len(flags["channel_mult"].split(",")))
        sizes = [image_size // 2**level for level in levels]
        wanted = [part for part in flags["attention_resolutions"].split(",") if part.strip()]
        unknown = [part for part in wanted if int(part) not in sizes]
        if unknown:
            raise ValueError(
                f"`attention_resolutions` {unknown[0]} is no size of the network's levels: "
                f"{', '.join(map(str, sizes))}"
            )

    def chosen(self, *names: str) -> dict[str, Any]:
        """Return the values of these settings, by their names."""
        return {name: getattr(self, name) for name in names}

    def flags(self, image_size: int) -> dict[str, Any]:
        """Return the content of ``ema.json``: the settings of the network and of the process."""
        widths, attention = self.channel_mult, self.attention_resolutions
        if widths is None:
            widths = default_channel_mult(image_size)
        if attention is None:
            attention = f"{image_size // 2 ** widths.count(',')}"
        own = dict(channel_mult=widths, attention_resolutions=attention, image_size=image_size)
        return {**self.chosen(*NETWORK, *PROCESS, "dropout"), **own}

    def schedule(self) -> Mapping[str, Any]:
        """Return the schedule of the learning rate, as `training.loop.make_rate` takes it."""
        if not self.anneal:
            return {"type": "constant"}
        return {"type": "linear", "steps": self.anneal_steps or 0}


def default_channel_mult(image_size: int) -> str:
    """Return the widths of the levels of a network for images of a size.

    Each level halves the image. There are three levels, or as many as it takes to come to 16
    pixels; fewer where the size cannot be halved so often.

    >>> [default_channel_mult(size) for size in (15, 32, 64, 128)]
    ['1', '1,2,2', '1,2,2', '1,1,2,2']
    """
    levels = 3
    while image_size > 16 * 2 ** (levels - 1) and image_size % 2**levels == 0:
        levels += 1
    while image_size % 2 ** (levels - 1):
        levels -= 1
    widths = [1] * (levels - 2) + [2, 2]
    return ",".join(map(str, widths if levels > 2 else [1, 2][:levels]))


def last_of(timesteps: str) -> int | None:
    """Return the last of the timesteps of a range from 0; None for another text.

    >>> last_of("0-200"), last_of("100-200")
    (200, None)
    """
    match = re.fullmatch(r"0-(\d{1,6})", timesteps, re.ASCII)
    return None if match is None else int(match[1])


def _is_list(text: str, kind: Callable[[str], float]) -> bool:
    """Tell whether a text lists numbers of a kind that are above 0."""
    try:
        return all(0 < kind(part) < 1e6 for part in text.split(","))
    except ValueError:
        return False
