"""The loop that trains any `Task`, under one process or several.

The random numbers of a step follow from the seed and the number of the step. The learning rate
follows from the number of the step and the share of the budget that is spent. So a run that was
interrupted at any step ends with the same weights as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from DDA.progress import printable
from DDA.ranks import World
from DDA.training.task import Batches, Moment, Task

LOOK_EVERY = 10  # steps between looks at the losses; a look waits for the device
MEASURED, LONG = 3, 20.0  # steps by which a training is estimated, and their seconds at most
LARGEST = 1e12  # the most steps, epochs or minutes of a budget
ENDLESS = 1 << 40  # the last step of a budget in minutes alone
# the settings of each schedule of the learning rate
SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "linear": ("steps",),
    "multistep": ("milestones", "gamma"),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training: its budget and how each step is made.

    The budget is epochs, steps and minutes, of which the first to end counts. The schedule of the
    learning rate is stretched over it. Raises ValueError for values that cannot be used.
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128  # images of each group in a step, over all ranks
    accumulate: int = 1  # parts of a rank's batch, one after the other
    warmup: int = 0  # steps of rising learning rate
    clip_norm: float = 0.0  # largest norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the averaged weights; 0: no average
    early_stop: int = 0  # epochs without a better validation that end the run; 0: none do
    amp: bool | None = None  # compute in bfloat16; None: what is measured to be faster
    label_smoothing: float = 0.0  # share of the target that is spread over all classes
    decay_norms: bool = True  # weight decay pulls on norms and biases too
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not (self.epochs or self.steps or self.minutes):
            raise ValueError("give a budget, one of epochs, steps, minutes")
        for name in ("epochs", "steps", "minutes", "warmup", "clip_norm", "early_stop", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= LARGEST:
                raise ValueError(f"`{name}` {value} is not a number from 0 to {LARGEST:g}")
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` {getattr(self, name)} must be at least 1")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` {getattr(self, name)} is outside 0..1")

    def total_steps(self, per_epoch: int) -> int | None:
        """Return the steps of the budget, or None for a budget in minutes alone."""
        limits = [self.steps] if self.steps else []
        limits += [max(1, round(self.epochs * per_epoch))] if self.epochs else []
        return min(limits, default=None)


# the entries of a saved state that are no tensors
_PLAIN = ("step", "seconds", "waited", "best", "best_epoch", "losses", "epochs", "dtype")


@dataclass
class State:
    """All that a run needs to go on."""

    task: Task
    optimizer: torch.optim.Optimizer
    ema: Task | None = None  # the task with averaged weights
    step: int = 0  # steps that are done
    seconds: float = 0.0  # time of training, for a budget in minutes
    waited: float = 0.0  # the part of it that was spent waiting for data
    best: float | None = None  # best value of the task's monitor
    best_epoch: int = 0  # validation that measured it, counted from 1
    # one entry a step, each loss a mean over the ranks
    losses: list[dict[str, float]] = field(default_factory=list)
    # one entry a validation
    epochs: list[dict[str, Any]] = field(default_factory=list)
    dtype: str = "float32"  # name of the precision in which the run computes

    @property
    def judged(self) -> Task:
        """The task that is judged and used: the averaged one where there is one."""
        return self.task if self.ema is None else self.ema

    def as_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        averaged = {} if self.ema is None else {"ema": self.ema.state_dict()}
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **averaged,
            **plain,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over what `as_dict` returned.

        Raises KeyError, ValueError or RuntimeError for anything else.
        """
        self.task.load_state_dict(saved["task"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        for name in _PLAIN:
            setattr(self, name, saved[name])


def start(
    task: Task, recipe: Recipe, optimizer: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> State:
    """Return the state of a task before its first step.

    optimizer: ``type`` and settings, as `make_optimizer` takes them. dtype: the run's precision.
    """
    averaged = copy.deepcopy(task).requires_grad_(False).eval() if recipe.ema else None
    chosen = make_optimizer(optimizer, task, decay_norms=recipe.decay_norms)
    return State(task, chosen, averaged, dtype=str(dtype).removeprefix("torch."))


def make_optimizer(
    chosen: Mapping[str, Any], task: nn.Module, *, decay_norms: bool = True
) -> torch.optim.Optimizer:
    """Return an optimizer of the parameters of a task that learn.

    chosen: ``type``, a class of torch.optim, and its settings, such as ``{"type": "AdamW",
    "lr": 0.001}``. decay_norms: whether weight decay pulls on norms and biases too. Raises
    ValueError for an unknown type, or for settings that the type does not take.
    """
    settings = dict(chosen)
    name = settings.pop("type", None)
    kind = getattr(torch.optim, str(name), None)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(
            f"`optimizer.type`: {name!r} is no optimizer of torch.optim, such as SGD, RAdam, AdamW"
        )
    rate = settings.get("lr")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"`optimizer.lr` must be a number above 0, not {rate!r}")
    parameters: list[Any] = _learning(task)
    if not decay_norms:
        weights = [parameter for parameter in parameters if parameter.ndim > 1]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        parameters = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    known = [*inspect.signature(kind).parameters][1:]
    unknown = ", ".join(name for name in settings if name not in known)
    if unknown:
        raise ValueError(
            f"`optimizer`: {kind.__name__} does not take these settings: {printable(unknown)}; it "
            f"takes {', '.join(known)}"
        )
    try:
        return kind(parameters, **settings)
    except (TypeError, ValueError) as error:
        refusal = f"`optimizer`: {kind.__name__} does not take these settings: {error}"
        raise ValueError(printable(refusal)) from None


def _learning(task: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that learn."""
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def _check_schedule(kind: Any, settings: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise ValueError for an unknown schedule, or for settings that it does not take."""
    if kind not in SCHEDULES:
        raise ValueError(f"schedule.type: {kind!r} is unknown; use one of {', '.join(SCHEDULES)}")
    if set(settings) - set(SCHEDULES[kind]) or (kind == "multistep" and len(settings) < 2):
        takes = ", ".join(SCHEDULES[kind]) or "no settings"
        given = printable(", ".join(settings)) or "none"
        raise ValueError(f"schedule: {kind} takes {takes}, not {given}")
    milestones = settings.get("milestones", [])
    singles = [value for name, value in settings.items() if name != "milestones"]
    if not isinstance(milestones, list | tuple) or isinstance(settings.get("gamma"), list):
        raise ValueError("schedule: multistep takes a list of milestones and one gamma")
    numbers = [*milestones, *singles]
    if not all(isinstance(number, int | float) and abs(number) <= LARGEST for number in numbers):
        shown = ", ".join(str(number)[:40] for number in numbers)
        raise ValueError(f"schedule: {kind} takes numbers, not {shown}")
    if kind == "multistep" and not recipe.epochs:
        needs = "so train.epochs must be given"
        raise ValueError(f"schedule: the milestones of multistep are epochs, {needs}")


def make_rate(
    base: float, schedule: Mapping[str, Any], recipe: Recipe
) -> Callable[[Moment], float]:
    """Return a function that gives the learning rate at a moment.

    The rate is ``base``, changed by the schedule. It rises linearly over the first
    ``recipe.warmup`` steps. Raises ValueError for a schedule that cannot be used.

    schedule: ``type`` and its settings. ``constant`` changes nothing. ``cosine`` and ``linear``
    fall to 0 at the end of the budget; ``linear`` with ``steps`` falls to 0 after so many steps.
    ``multistep`` multiplies by ``gamma`` after each of ``milestones``. These are epochs of
    ``recipe.epochs``, and a budget in steps or minutes stretches them.
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
            epoch = moment.spent * recipe.epochs
            passed = [place for place in settings["milestones"] if epoch >= place - 1e-9]
            return settings["gamma"] ** len(passed)
        return 1.0

    def rate(moment: Moment) -> float:
        risen = min(1.0, (moment.step + 1) / recipe.warmup) if recipe.warmup else 1.0
        return base * factor(moment) * risen

    return rate


def moment_of(state: State, recipe: Recipe, per_epoch: int) -> Moment:
    """Return how far a training has come."""
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
    """Train until the budget is spent or nothing improves, and return True.

    Returns False where ``after_look`` stopped the training. Raises FloatingPointError for a loss
    that is not finite.

    rate: the learning rate at a moment, as `make_rate` returns it. after_look: is called after the
    losses have been looked at, on all ranks after the same step; True stops the training.
    after_epoch: is called after a validation, and is given whether the state is the best so far.
    """
    world = world or World()
    fitting = _Fitting(state, recipe, rate, batches.per_epoch, world)
    last = recipe.total_steps(batches.per_epoch) or ENDLESS
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


def step_seconds(
    state: State,
    batches: Batches,
    recipe: Recipe,
    rate: Callable[[Moment], float],
    world: World | None = None,
) -> float:
    """Return how many seconds a step takes: the mean of 3 after a first one, or of fewer long ones.

    The state is changed by these steps, and is not to be used afterwards.
    """
    fitting = _Fitting(state, recipe, rate, batches.per_epoch, world or World())
    stream = batches.stream(state.step, state.step + 1 + MEASURED)
    state.task.train()
    seconds: list[float] = []
    for _ in range(1 + MEASURED):
        begun = time.perf_counter()
        fitting.step(stream)
        fitting.look()  # it waits for the device
        seconds.append((world or World()).mean([time.perf_counter() - begun])[0])
        if sum(seconds) > LONG:
            break
    measured = seconds[1:] or seconds
    return sum(measured) / len(measured)


def _is_stale(state: State, recipe: Recipe) -> bool:
    """Tell whether the last ``recipe.early_stop`` validations brought nothing better."""
    return bool(recipe.early_stop) and len(state.epochs) - state.best_epoch >= recipe.early_stop


class _Fitting:
    """The steps of `fit`, and what does not change while it runs."""

    def __init__(
        self,
        state: State,
        recipe: Recipe,
        rate: Callable[[Moment], float],
        per_epoch: int,
        world: World,
    ):
        self._state, self._recipe, self._rate = state, recipe, rate
        self._per_epoch, self._world = per_epoch, world
        self._device = next(state.task.parameters()).device
        self._task: nn.Module = state.task
        if world.size > 1:
            self._task = nn.parallel.DistributedDataParallel(state.task)
        self._parameters = _learning(state.task)
        self._autocast = getattr(torch, state.dtype)
        self._waiting: list[dict[str, torch.Tensor]] = []
        self._looked = time.perf_counter()

    def moment(self) -> Moment:
        """Return how far the training has come."""
        return moment_of(self._state, self._recipe, self._per_epoch)

    def step(self, stream: Iterator[list[Any]]) -> None:
        """Make one step of the optimizer with the next batch of a stream."""
        state, begun = self._state, time.perf_counter()
        parts = next(stream)
        waited = time.perf_counter() - begun
        # for dropout and stochastic depth
        torch.manual_seed(seed_of(self._recipe.seed, state.step, self._world.rank))
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
        if self._recipe.minutes:  # all ranks must end after the same step
            seconds, waited = self._world.mean([seconds, waited])
        state.seconds += seconds
        state.waited += waited

    def _backward(self, parts: list[Any]) -> dict[str, torch.Tensor]:
        """Add up the gradients of the parts of a batch, and return the means of their losses."""
        moment, rows = self.moment(), []
        is_mixed = self._autocast != torch.float32
        for number, part in enumerate(parts, start=1):
            # the ranks exchange gradients once, after the last part
            waits = self._world.size > 1 and number < len(parts)
            with self._task.no_sync() if waits else contextlib.nullcontext():
                with torch.autocast(self._device.type, self._autocast, enabled=is_mixed):
                    losses = self._task(part.to(self._device), moment)
                (losses["loss"] / len(parts)).backward()
            rows.append({name: value.detach() for name, value in losses.items()})
        if len(rows) == 1:
            return rows[0]
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    @torch.no_grad()
    def _average(self) -> None:
        """Update the averaged task: average its parameters and copy its buffers."""
        state = self._state
        if state.ema is None:
            return
        # the first steps are forgotten faster
        decay = min(self._recipe.ema, (1 + state.step) / (10 + state.step))
        torch._foreach_lerp_(list(state.ema.parameters()), list(state.task.parameters()), 1 - decay)
        for averaged, fresh in zip(state.ema.buffers(), state.task.buffers(), strict=True):
            averaged.copy_(fresh)

    def wants_look(self) -> bool:
        """Tell whether it is time to look at the losses.

        Several ranks look after the same step, so only a process alone goes by the clock.
        """
        is_due = self._world.size == 1 and time.perf_counter() - self._looked > 1
        return is_due or len(self._waiting) >= LOOK_EVERY

    def look(self) -> None:
        """Record the losses since the last look, averaged over the ranks.

        Raises FloatingPointError for a loss that is not finite.
        """
        names = list(self._waiting[0])
        rows = [[losses[name].float() for name in names] for losses in self._waiting]
        table = torch.stack([torch.stack(row) for row in rows]).double()
        values = np.array(self._world.mean(table.flatten().tolist())).reshape(table.shape)
        first = self._state.step - len(self._waiting)
        for offset, row in enumerate(values):
            if not math.isfinite(row[0]):
                raise FloatingPointError(f"the loss at step {first + offset} is {row[0]}")
            self._state.losses.append(dict(zip(names, map(float, row), strict=True)))
        self._waiting, self._looked = [], time.perf_counter()

    def end_epoch(self, after_epoch: Callable[[bool], None]) -> None:
        """Validate the state, and remember it where it is the best so far."""
        state = self._state
        state.judged.eval()
        measured = state.judged.evaluate(self._world)
        if measured:
            value = measured[state.task.monitor]
            is_best = self._is_best(value)
            place = {"epoch": state.step / self._per_epoch, "step": state.step}
            state.epochs.append({**place, **measured})
            if is_best:
                state.best, state.best_epoch = value, len(state.epochs)
            after_epoch(is_best)
        state.task.train()

    def _is_best(self, value: float) -> bool:
        """Tell whether a value of the task's monitor is better than all before."""
        best = self._state.best
        if best is None:
            return True
        return value > best if self._state.task.higher_is_better else value < best


def seed_of(*parts: int) -> int:
    """Return a seed for torch that follows from these numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
