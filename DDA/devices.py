"""The device that computes, and the precision in which it computes fastest. Both are measured."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# the factor by which another precision has to be faster than float32; it costs accuracy, and
# timings scatter
MARGIN = 1.25


def pick_device(device: str | torch.device | None, local_rank: int = 0) -> torch.device:
    """Return the device of this process, and make it the current one.

    device: ``auto`` or None (a GPU where there is one), ``cpu``, ``cuda`` (the GPU of this
    process's place on its machine), ``cuda:1``, the numbers of GPUs that the processes share out,
    such as ``0,1``, or a `torch.device`. Raises ValueError for a device that does not exist.
    """
    text = "auto" if device is None else str(device)
    named = re.fullmatch(r"auto|cpu|cuda|(?:cuda:)?(?P<numbers>\d+(?:,\d+)*)", text)
    if named is None:
        raise ValueError(
            f"`device` {text} is unknown; use auto, cpu, cuda, cuda:NUMBER or numbers of GPUs, "
            "such as 0,1"
        )
    gpus = torch.cuda.device_count()
    if text == "cpu" or (text == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise ValueError(f"`device` {text}: there is no GPU that torch can use; use auto or cpu")
    numbers = named["numbers"]
    indices = [int(number) for number in numbers.split(",")] if numbers else list(range(gpus))
    if max(indices) >= gpus:
        advice = f"use auto or cpu, or numbers below {gpus}"
        raise ValueError(f"`device` {text}: torch sees {gpus} GPUs here; {advice}")
    chosen = torch.device("cuda", indices[local_rank % len(indices)])
    torch.cuda.set_device(chosen)
    return chosen


def fastest_dtype(network: nn.Module, example: Sequence[torch.Tensor]) -> torch.dtype:
    """Return bfloat16 where this network trains faster in it, else float32.

    Some passes of a copy, forward and backward, are timed in turns. example: the network's input
    for some images, on its device. The network itself is measured, because many small layers lose
    what one convolution gains.
    """
    device, twin = example[0].device, copy.deepcopy(network).train()
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for turn in range(4):
                for dtype, times in seconds.items():
                    took = _pass_seconds(twin, example, dtype)
                    if turn:  # kernels are chosen and memory is taken the first time
                        times.append(took)
                if turn and sum(map(sum, seconds.values())) > 2:
                    break
    except (RuntimeError, NotImplementedError):
        return torch.float32
    is_faster = min(seconds[torch.float32]) > MARGIN * min(seconds[torch.bfloat16])
    return torch.bfloat16 if is_faster else torch.float32


def _pass_seconds(network: nn.Module, example: Sequence[torch.Tensor], dtype: torch.dtype) -> float:
    device, begun = example[0].device, time.perf_counter()
    with torch.enable_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(*example)
        output = output if isinstance(output, torch.Tensor) else output.logits
        output.float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


@lru_cache
def relative_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many times faster than in float32 this device computes, forward and backward.

    A convolution and a product are timed for some 50 ms, once in a process. The flags of a
    processor do not tell it: some CPUs list bfloat16 instructions and multiply at half of the rate
    of float32, and a GPU may emulate them. The result is 0 where the device cannot compute in
    ``dtype`` at all.
    """
    if dtype == torch.float32:
        return 1.0
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], dtype: []}
    try:
        work = _Work(device)
        for kind in seconds:  # kernels are chosen and memory is taken the first time
            work.run(kind)
        for _ in range(5):  # turns, because the machine's speed may change
            for kind, times in seconds.items():
                times.append(work.run(kind))
            if seconds[dtype][0] > 3 * seconds[torch.float32][0]:
                break
    except (RuntimeError, NotImplementedError):
        return 0.0
    return min(seconds[torch.float32]) / min(seconds[dtype])


class _Work:
    """A convolution, a normalisation and a product in the layout of our networks."""

    def __init__(self, device: torch.device):
        self._device = device
        batch = 128 if device.type != "cpu" else 8
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            layers = (
                nn.Conv2d(64, 64, 3, padding=1),
                nn.BatchNorm2d(64),
                nn.Flatten(2),
                nn.Linear(256, 256),
            )
            x = torch.randn(batch, 64, 16, 16)
        self._layers = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)
        self._x = x.to(device, memory_format=torch.channels_last)

    def run(self, dtype: torch.dtype) -> float:
        """Return the seconds of one pass forward and backward."""
        begun = time.perf_counter()
        with (
            torch.enable_grad(),
            torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32),
        ):
            self._layers(self._x).float().square().mean().backward()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - begun


T = TypeVar("T")


class Parts:
    """The work on batches, in parts that fit into the memory of their device.

    Where a batch does not fit, its parts and those of all batches to come are half as large, until
    they fit. This is said once, as a warning.
    """

    def __init__(self) -> None:
        self._most: int | None = None  # the images of a part; None means all of a batch

    def work(self, function: Callable[[slice], T], count: int, device: torch.device) -> list[T]:
        """Return what ``function`` returns for each part of ``count`` images.

        Raises ValueError where one image does not fit.
        """
        before, done, first = self._most, [], 0
        while first < count or not done:
            size = min(self._most or count, count - first)
            try:
                done.append(function(slice(first, first + size)))
                first += size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise ValueError(
                        f"one image does not fit into the memory of {device}"
                    ) from None
                self._most = size // 2
        if self._most != before:
            warnings.warn(
                f"`batch_size` {count} does not fit into the memory of {device}; the work goes on "
                f"with {self._most} images at once",
                stacklevel=2,
            )
        return done
