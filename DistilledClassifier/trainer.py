"""The only training loop: a teacher is a student with no teachers.

A step is drawn from the seed and its number (`data.Steps`), the learning rate from the share of the budget that is spent: a run
that was interrupted at any step goes on to the same weights, bit for bit on a CPU with the same threads.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from DistilledClassifier.classifiers import Classifier, Network
from DistilledClassifier.config import Config, learning_rate
from DistilledClassifier.data.batches import Steps, fixed_batches
from DistilledClassifier.data.views import View
from DistilledClassifier.losses import Seen, objective

CPU = torch.device("cpu")
LOOK_EVERY = 10  # steps between looks at the losses, which wait for the device


@dataclass
class State:
    """All that a run needs to go on."""

    network: Network
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # of training, for a budget in minutes
    waited: float = 0.0  # of these, for data
    best: float = -1.0  # validation top-1, in per cent
    best_epoch: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)  # one entry a step
    epochs: list[dict[str, Any]] = field(default_factory=list)  # one entry a validation

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {"model": self.network.model.state_dict(), "optimizer": self.optimizer.state_dict(), **plain}

    def load(self, saved: Mapping[str, Any]) -> None:
        self.network.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in _PLAIN:
            setattr(self, name, saved[name])


_PLAIN = ("step", "seconds", "waited", "best", "best_epoch", "losses", "epochs")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. mean, total: of numbers over all of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    def total(self, values: Sequence[float]) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        return [value / self.size for value in self.total(values)]


def total_steps(config: Config, per_epoch: int) -> int | None:
    """The steps of the budget, None where it is in minutes alone."""
    limits = [config.train.steps] if config.train.steps else []
    limits += [max(1, round(config.train.epochs * per_epoch))] if config.train.epochs else []
    return min(limits, default=None)


def progress(config: Config, per_epoch: int, state: State) -> float:
    """The share of the budget that is spent, 0..1."""
    steps = total_steps(config, per_epoch)
    shares = [state.step / steps] if steps else []
    shares += [state.seconds / (60 * config.train.minutes)] if config.train.minutes else []
    return min(1.0, max(shares))


def train(
    state: State,
    config: Config,
    found: Sequence[View],
    held_out: Sequence[View],
    teachers: Sequence[Classifier],
    *,
    ranks: Ranks | None = None,
    workers: int = 0,
    after_look: Callable[[State], bool] = lambda state: False,
    after_epoch: Callable[[State, bool], None] = lambda state, is_best: None,
) -> bool:
    """Train until the budget is spent or nothing improves; False where ``after_look`` returned True before.

    found, held_out: the views for training and validation; teachers: none, or one for each view, in order. after_look is called
    when the losses so far have been looked at, on all ranks after the same step; after_epoch gets whether this is the best so
    far. Raises FloatingPointError for a loss that is not finite.
    """
    ranks = ranks or Ranks()
    steps = Steps(found, config.augment, config.preprocess, config.train.batch_size, config.train.seed, ranks.rank, ranks.size)
    network = nn.parallel.DistributedDataParallel(state.network) if ranks.size > 1 else state.network
    parameters = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
    last = total_steps(config, steps.per_epoch) or 1 << 40
    batches = steps.loader(state.step, last, workers)
    waiting: list[dict[str, torch.Tensor]] = []
    looked = time.perf_counter()
    state.network.train()
    while progress(config, steps.per_epoch, state) < 1 and not _is_stale(config, state):
        begun = time.perf_counter()
        pixels, labels = next(batches)
        waited = time.perf_counter() - begun
        torch.manual_seed(_seed(config.train.seed, state.step, ranks.rank))  # of dropout and stochastic depth
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, progress(config, steps.per_epoch, state), state.step)
        parts = _losses(config, network, teachers, pixels.to(ranks.device), labels.to(ranks.device))
        parts["loss"].backward()
        if config.train.clip_norm:
            nn.utils.clip_grad_norm_(parameters, config.train.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        waiting.append({name: value.detach() for name, value in parts.items()})
        seconds = time.perf_counter() - begun
        if config.train.minutes:  # all ranks must agree about the end
            seconds, waited = ranks.mean([seconds, waited])
        state.seconds += seconds
        state.waited += waited
        over = progress(config, steps.per_epoch, state) >= 1
        ends_epoch = over or state.step % steps.per_epoch == 0
        impatient = ranks.size == 1 and time.perf_counter() - looked > 1
        if ends_epoch or impatient or len(waiting) >= LOOK_EVERY:
            _look(state, waiting, ranks)
            waiting, looked = [], time.perf_counter()
            if ends_epoch:
                _end_epoch(state, config, steps.per_epoch, held_out, ranks, after_epoch)
            if not over and after_look(state):
                return False
    return True


def _is_stale(config: Config, state: State) -> bool:
    return bool(config.train.early_stop) and len(state.epochs) - state.best_epoch >= config.train.early_stop


def _losses(config: Config, network: nn.Module, teachers: Sequence[Classifier], pixels: torch.Tensor, labels: torch.Tensor):
    amp = torch.autocast(pixels.device.type, torch.bfloat16, enabled=config.train.amp)
    each = len(labels) // max(1, len(teachers))
    with amp:
        features, logits = network(config.preprocess.normalise(pixels))
        seen = []
        with torch.no_grad():
            for i, teacher in enumerate(teachers):
                taught = teacher.network(teacher.preprocess.normalise(pixels[i * each : (i + 1) * each]))
                seen.append(Seen(*(part.float() for part in taught)))
    return objective(Seen(features.float(), logits.float()), labels, seen, config.loss)


def _look(state: State, waiting: list[dict[str, torch.Tensor]], ranks: Ranks) -> None:
    """Fetch the losses of the last steps, averaged over ranks, and check them."""
    names = list(waiting[0])
    table = torch.stack([torch.stack([parts[name] for name in names]) for parts in waiting]).double()
    values = np.array(ranks.mean(table.flatten().tolist())).reshape(table.shape)
    first = state.step - len(waiting)
    for offset, row in enumerate(values):
        if not math.isfinite(row[0]):
            raise FloatingPointError(f"the loss at step {first + offset} is {row[0]}")
        state.losses.append(dict(zip(names, map(float, row), strict=True)))


def _end_epoch(state, config, per_epoch, held_out, ranks, after_epoch) -> None:
    measured = validate(state.network, held_out, config, ranks)
    top1 = measured["top1"]
    state.epochs.append({"epoch": state.step / per_epoch, "step": state.step, **measured})
    is_best = top1 > state.best
    if is_best:
        state.best, state.best_epoch = top1, len(state.epochs)
    after_epoch(state, is_best)
    state.network.train()


@torch.no_grad()
def validate(network: Network, found: Sequence[View], config: Config, ranks: Ranks) -> dict[str, float]:
    """Top-1 and top-5 in per cent and cross-entropy: of each view, and their means over the views. Every image counts once."""
    network.eval()
    measured: dict[str, float] = {}
    for view in found:
        sums = np.zeros(4)
        for pixels, labels in fixed_batches(view, config.preprocess, 256, ranks.rank, ranks.size):
            logits = network(config.preprocess.normalise(pixels.to(ranks.device)))[1].float().cpu()
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            sums += [len(labels), float(ranked[:, 0].sum()), float(ranked.sum()), float(loss)]
        count, first, five, loss = ranks.total(sums.tolist())
        measured |= {f"{view.name}_top1": 100 * first / count, f"{view.name}_top5": 100 * five / count,
                     f"{view.name}_loss": loss / count}  # fmt: skip
    means = {name: float(np.mean([measured[f"{view.name}_{name}"] for view in found])) for name in ("top1", "top5", "loss")}
    return {**means, **measured}


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def as_csv(rows: Sequence[Mapping[str, Any]], first: str = "step") -> bytes:
    """One line a row; numbers rows from 1 where they do not tell ``first``."""
    if not rows:
        return b""
    text = io.StringIO()
    writer = csv.DictWriter(text, [first, *(name for name in rows[0] if name != first)], lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        writer.writerow({first: number, **{name: f"{value:.6g}" for name, value in row.items()}})
    return text.getvalue().encode()
