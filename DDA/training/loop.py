"""The one loop: it trains any `Task`, under one process or several.

Whatever is random in a step is drawn from the seed and the number of the step, and the learning rate from the share of the
budget that is spent: a run that was interrupted at any step goes on to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from DDA.ranks import World
from DDA.training.task import Batches, Moment, Task

LOOK_EVERY = 10  # steps between looks at the losses, which wait for the device
LARGEST = 1e12  # of steps, epochs, minutes: more cannot be meant
SCHEDULES = {
    "constant": (),
    "cosine": (),
    "linear": ("steps",),
    "multistep": ("milestones", "gamma"),
}


@dataclass(frozen=True)
class Recipe:
    """How long and how to train.

    The budget is the first to end of epochs, steps and minutes; the schedule of the learning rate is stretched over it.
    batch_size: images a step, over all ranks, of each group; accumulate: parts of a rank's batch, one after the other; warmup:
    steps of rising learning rate; clip_norm: of the gradient (0: none); ema: decay of the averaged weights (0: none);
    early_stop: epochs without a better validation (0: never); amp: bfloat16, or not, or (null) what is measured to be faster;
    label_smoothing: share of the target that is spread over all classes; decay_norms: whether weight decay pulls on norms and
    biases too.
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    warmup: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0
    early_stop: int = 0
    amp: bool | None = None
    label_smoothing: float = 0.0
    decay_norms: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.epochs or self.steps or self.minutes):
            raise ValueError("give a budget, one of epochs, steps, minutes")
        for name in ("epochs", "steps", "minutes", "warmup", "clip_norm", "early_stop", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= LARGEST:
                raise ValueError(f"{name} {value} is not a number from 0 to {LARGEST:g}")
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0..1")

    def total_steps(self, per_epoch: int) -> int | None:
        """The steps of the budget, None where it is in minutes alone."""
        limits = [self.steps] if self.steps else []
        limits += [max(1, round(self.epochs * per_epoch))] if self.epochs else []
        return min(limits, default=None)


_PLAIN = ("step", "seconds", "waited", "best", "best_epoch", "losses", "epochs", "dtype")


@dataclass
class State:
    """All that a run needs to go on. dtype: the name of the precision in which it computes."""

    task: Task
    optimizer: torch.optim.Optimizer
    ema: Task | None = None
    step: int = 0
    seconds: float = 0.0  # of training, for a budget in minutes
    waited: float = 0.0  # of these, for data
    best: float | None = None  # of the task's monitor
    best_epoch: int = 0
    losses: list[dict[str, float]] = field(
        default_factory=list
    )  # one entry a step, means over the ranks
    epochs: list[dict[str, Any]] = field(default_factory=list)  # one entry a validation
    dtype: str = "float32"

    @property
    def judged(self) -> Task:
        """The task whose weights are used: the averaged ones where there are any."""
        return self.task if self.ema is None else self.ema

    def as_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        averaged = {} if self.ema is None else {"ema": self.ema.state_dict()}
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **averaged,
            **plain,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `as_dict` gave. Raises KeyError, ValueError or RuntimeError for anything else."""
        self.task.load_state_dict(saved["task"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        for name in _PLAIN:
            setattr(self, name, saved[name])


def start(
    task: Task, recipe: Recipe, optimizer: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> State:
    """The state of a task that has not learnt yet. optimizer: ``type`` and settings, as `make_optimizer` takes them."""
    averaged = copy.deepcopy(task).requires_grad_(False).eval() if recipe.ema else None
    chosen = make_optimizer(optimizer, task, decay_norms=recipe.decay_norms)
    return State(task, chosen, averaged, dtype=str(dtype).removeprefix("torch."))


def make_optimizer(
    chosen: Mapping[str, Any], task: nn.Module, *, decay_norms: bool = True
) -> torch.optim.Optimizer:
    """An optimiser of torch.optim by its name there, ``{"type": "AdamW", "lr": 0.001, …}``, of what learns in ``task``.

    Raises ValueError for an unknown one, or for settings that it does not take.
    """
    settings = dict(chosen)
    name = settings.pop("type", None)
    kind = getattr(torch.optim, str(name), None)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(
            f"optimizer.type: {name!r} is no optimizer of torch.optim, such as SGD, RAdam, AdamW"
        )
    rate = settings.get("lr")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"optimizer.lr: {rate!r} is not a number above 0")
    parameters: list[Any] = [
        parameter for parameter in task.parameters() if parameter.requires_grad
    ]
    if not decay_norms:
        weights, others = (
            [p for p in parameters if (p.ndim > 1) == many] for many in (True, False)
        )
        parameters = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    try:
        return kind(parameters, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer: {kind.__name__} does not take these settings: {error}"
        ) from None


def _check_schedule(kind: Any, settings: Mapping[str, Any], recipe: Recipe) -> None:
    if kind not in SCHEDULES:
        raise ValueError(f"schedule.type: {kind!r} is unknown; use one of {', '.join(SCHEDULES)}")
    if set(settings) - set(SCHEDULES[kind]) or (kind == "multistep" and len(settings) < 2):
        takes = ", ".join(SCHEDULES[kind]) or "no settings"
        raise ValueError(f"schedule: {kind} takes {takes}, not {', '.join(settings) or 'none'}")
    if isinstance(settings.get("gamma"), list) or not isinstance(
        settings.get("milestones", []), list | tuple
    ):
        raise ValueError("schedule: multistep takes a list of milestones and one gamma")
    numbers = [
        number
        for value in settings.values()
        for number in (value if isinstance(value, list | tuple) else [value])
    ]
    if not all(isinstance(number, int | float) and abs(number) <= LARGEST for number in numbers):
        raise ValueError(
            f"schedule: {kind} takes numbers, not {', '.join(str(number)[:40] for number in numbers)}"
        )
    if kind == "multistep" and not recipe.epochs:
        raise ValueError(
            "schedule: the milestones of multistep are epochs, so train.epochs must be given"
        )


def make_rate(
    base: float, schedule: Mapping[str, Any], recipe: Recipe
) -> Callable[[Moment], float]:
    """The learning rate at any moment: ``base``, changed by the schedule, rising over the steps of ``recipe.warmup``.

    schedule: ``{"type": "constant"}``; ``cosine`` or ``linear`` to 0 at the end of the budget (linear: at ``steps``, where they
    are given); ``multistep``, which multiplies by ``gamma`` after each of ``milestones``, epochs of ``recipe.epochs`` (a budget
    in steps or minutes stretches them). Raises ValueError.
    """
    settings = dict(schedule)
    kind = settings.pop("type", None)
    _check_schedule(kind, settings, recipe)

    def factor(moment: Moment) -> float:
        if kind == "cosine":
            return (1 + float(torch.cos(torch.tensor(moment.spent * torch.pi)))) / 2
        if kind == "linear":
            steps = settings.get("steps")
            return max(0.0, 1 - (moment.step / steps if steps else moment.spent))
        if kind == "multistep":
            return settings["gamma"] ** sum(
                moment.spent * recipe.epochs >= place - 1e-9 for place in settings["milestones"]
            )
        return 1.0

    def rate(moment: Moment) -> float:
        risen = min(1.0, (moment.step + 1) / recipe.warmup) if recipe.warmup else 1.0
        return base * factor(moment) * risen

    return rate


def moment_of(state: State, recipe: Recipe, per_epoch: int) -> Moment:
    """Where a training is."""
    steps = recipe.total_steps(per_epoch)
    shares = [state.step / steps] if steps else []
    shares += [state.seconds / (60 * recipe.minutes)] if recipe.minutes else []
    return Moment(state.step, min(1.0, max(shares)))


def fit(
    state: State,
    batches: Batches,
    recipe: Recipe,
    rate: Callable[[Moment], float],
    *,
    world: World | None = None,
    after_look: Callable[[], bool] = lambda: False,
    after_epoch: Callable[[bool], None] = lambda is_best: None,
) -> bool:
    """Train until the budget is spent or nothing improves; False where ``after_look`` returned True before.

    after_look is called when the losses so far have been looked at, on all ranks after the same step; after_epoch gets whether
    the state is the best so far. Raises FloatingPointError for a loss that is not finite.
    """
    world = world or World()
    fitting = _Fitting(state, recipe, rate, batches.per_epoch, world)
    last = recipe.total_steps(batches.per_epoch) or 1 << 40
    stream = batches.stream(state.step, last)
    state.task.train()
    while fitting.moment().spent < 1 and not _is_stale(state, recipe):
        fitting.step(stream)
        over = fitting.moment().spent >= 1
        ends_epoch = over or state.step % batches.per_epoch == 0
        if ends_epoch or fitting.wants_look():
            fitting.look()
            if ends_epoch:
                fitting.end_epoch(after_epoch)
            if not over and after_look():
                return False
    return True


def _is_stale(state: State, recipe: Recipe) -> bool:
    return bool(recipe.early_stop) and len(state.epochs) - state.best_epoch >= recipe.early_stop


class _Fitting:
    """The pieces of `fit`, with what does not change while it runs."""

    def __init__(
        self,
        state: State,
        recipe: Recipe,
        rate: Callable[[Moment], float],
        per_epoch: int,
        world: World,
    ):
        self._state, self._recipe, self._rate, self._per_epoch, self._world = (
            state,
            recipe,
            rate,
            per_epoch,
            world,
        )
        self._device = next(state.task.parameters()).device
        self._task = (
            nn.parallel.DistributedDataParallel(state.task) if world.size > 1 else state.task
        )
        self._parameters = [
            parameter for parameter in state.task.parameters() if parameter.requires_grad
        ]
        self._autocast = getattr(torch, state.dtype)
        self._waiting: list[dict[str, torch.Tensor]] = []
        self._looked = time.perf_counter()

    def moment(self) -> Moment:
        return moment_of(self._state, self._recipe, self._per_epoch)

    def step(self, stream: Iterable[list[Any]]) -> None:
        """One step of the optimiser."""
        state, begun = self._state, time.perf_counter()
        parts = next(stream)
        waited = time.perf_counter() - begun
        torch.manual_seed(
            seed_of(self._recipe.seed, state.step, self._world.rank)
        )  # of dropout and stochastic depth
        for group in state.optimizer.param_groups:
            group["lr"] = self._rate(self.moment())
        self._waiting.append(self._backward(parts))
        if self._recipe.clip_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        self._average()
        state.step += 1
        seconds = time.perf_counter() - begun
        if self._recipe.minutes:  # all ranks must agree about the end
            seconds, waited = self._world.mean([seconds, waited])
        state.seconds += seconds
        state.waited += waited

    def _backward(self, parts: list[Any]) -> dict[str, torch.Tensor]:
        """Add up the gradients of the parts of a batch; the means of their losses."""
        moment, seen = self.moment(), []
        for number, part in enumerate(parts, start=1):
            several = self._world.size > 1 and number < len(parts)
            with self._task.no_sync() if several else contextlib.nullcontext():
                with torch.autocast(
                    self._device.type, self._autocast, enabled=self._autocast != torch.float32
                ):
                    losses = self._task(part.to(self._device), moment)
                (losses["loss"] / len(parts)).backward()
            seen.append({name: value.detach() for name, value in losses.items()})
        return (
            seen[0]
            if len(seen) == 1
            else {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
        )

    @torch.no_grad()
    def _average(self) -> None:
        """Let the averaged weights follow: parameters are averaged, buffers copied."""
        state = self._state
        if state.ema is None:
            return
        decay = min(
            self._recipe.ema, (1 + state.step) / (10 + state.step)
        )  # the first steps are forgotten faster
        torch._foreach_lerp_(list(state.ema.parameters()), list(state.task.parameters()), 1 - decay)
        for averaged, fresh in zip(state.ema.buffers(), state.task.buffers(), strict=True):
            averaged.copy_(fresh)

    def wants_look(self) -> bool:
        impatient = self._world.size == 1 and time.perf_counter() - self._looked > 1
        return impatient or len(self._waiting) >= LOOK_EVERY

    def look(self) -> None:
        """Fetch the losses of the last steps, averaged over ranks, and check them."""
        names = list(self._waiting[0])
        table = torch.stack(
            [torch.stack([losses[name].float() for name in names]) for losses in self._waiting]
        ).double()
        values = np.array(self._world.mean(table.flatten().tolist())).reshape(table.shape)
        first = self._state.step - len(self._waiting)
        for offset, row in enumerate(values):
            if not math.isfinite(row[0]):
                raise FloatingPointError(f"the loss at step {first + offset} is {row[0]}")
            self._state.losses.append(dict(zip(names, map(float, row), strict=True)))
        self._waiting, self._looked = [], time.perf_counter()

    def end_epoch(self, after_epoch: Callable[[bool], None]) -> None:
        """Judge the state, remember whether it is the best, and go back to training."""
        state = self._state
        state.judged.eval()
        measured = state.judged.evaluate(self._world)
        if measured:
            value = measured[state.task.monitor]
            better = state.best is None or (
                value > state.best if state.task.higher_is_better else value < state.best
            )
            state.epochs.append(
                {"epoch": state.step / self._per_epoch, "step": state.step, **measured}
            )
            if better:
                state.best, state.best_epoch = value, len(state.epochs)
            after_epoch(better)
        state.task.train()


def seed_of(*parts: int) -> int:
    """A seed for torch, of numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
