"""The folder of a training: its saved state, its logs and its results.

``resume.pt`` holds the state from which the same command goes on. ``machine.json`` says on what the
training ran. CSV files have a line for each step and for each validation, and TensorBoard's events
have the same numbers where TensorBoard is installed. The results depend on what is trained.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from DDA import files, ledger, ranks, shapes, weights
from DDA.devices import fastest_dtype
from DDA.progress import Estimate, Show, duration
from DDA.ranks import World
from DDA.training.loop import Recipe, State, fit, moment_of, step_seconds
from DDA.training.task import Batches, Moment

RESUME, MACHINE = "resume.pt", "machine.json"
SHOW_EVERY = 15.0  # seconds between lines of progress


def precision(recipe: Recipe, network: nn.Module, example: Sequence[torch.Tensor]) -> torch.dtype:
    """Return the precision of a new run: that of its recipe, else what is measured to be faster.

    A run that goes on keeps the precision of its saved state. example: an input of the network.
    """
    if recipe.amp is None:
        return fastest_dtype(network, example)
    return torch.bfloat16 if recipe.amp else torch.float32


class Saved(TypedDict):
    """The entries of a saved state that are no tensors, beside its settings."""

    step: int
    seconds: float
    waited: float
    best: float | None
    best_epoch: int
    losses: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    dtype: str


def resume(folder: Path, state: State, settings: Mapping[str, Any], advice: str) -> None:
    """Load the saved state of a folder where there is one.

    Raises BadFile for a damaged state, and ValueError for the state of another run. settings: what
    identifies the run. advice: what the user can do where the settings of the state differ.
    """
    path = folder / RESUME
    if not path.is_file():
        return
    anew = f"remove {folder} to start anew"
    try:
        content = weights.read(path, "state of a run", is_mapped=False)
    except files.BadFile as error:
        reason = f"{error}".removesuffix("; get it again")
        raise files.BadFile(f"{reason}; {anew}") from None
    if "task" not in content or not isinstance(content.get("settings"), dict):
        raise files.BadFile(f"{path} was saved by another version and cannot be read; {advice}")
    differ = ledger.differences(content["settings"], settings)
    if differ:
        raise ValueError(f"{folder} is a run with other settings: {'; '.join(differ)}; {advice}")
    fault = shapes.fault_of(content, Saved)
    if fault is not None:
        raise files.BadFile(f"{path} is damaged: {fault}; {anew}")
    with files.parsing(path, "state of this run", anew):
        state.load(content)


def estimate(
    world: World,
    state: State,
    batches: Batches,
    recipe: Recipe,
    rate: Callable[[Moment], float],
) -> Estimate:
    """Return how long a training would take, by some steps that are not kept.

    A budget in minutes counts where it ends first. Validations come on top.
    """
    device = next(state.task.parameters()).device
    first, before = state.step, state.seconds
    with world.process_group(device.type):
        each = step_seconds(state, batches, recipe, rate, world)
    steps = recipe.total_steps(batches.per_epoch)
    limits = [] if steps is None else [max(0, steps - first) * each]
    limits += [max(0.0, 60 * recipe.minutes - before)] if recipe.minutes else []
    return Estimate(min(limits), each, "a step", "a few steps")


def is_foreign(folder: Path) -> bool:
    """Tell whether a folder holds files that are no run's.

    A run that was killed before it saved its state leaves files behind, which are not foreign.
    """
    if not folder.is_dir() or (folder / RESUME).is_file():
        return False
    return any(
        not path.name.startswith((MACHINE, "events.")) and path.suffix != files.TEMPORARY
        for path in folder.iterdir()
    )


class Machine(TypedDict, total=False):
    """The content of ``machine.json``: on what each part of a run ran."""

    parts: list[dict[str, Any]]


class Run:
    """A training that saves itself to its folder while it runs.

    settings: what identifies the run. images: the number of images in a step, over all ranks.
    save_minutes: the time between saved states. end_seconds: what a budget in minutes keeps for the
    work after the training; it counts as spent with the last step. losses: the name of the file of
    the losses. on_save: writes the results when the state is saved. on_epoch: writes the results
    after a validation, and is given whether the state is the best so far. Both are called on rank
    0.
    show: where the progress is shown (default: on stderr).
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        state: State,
        settings: Mapping[str, Any],
        *,
        images: int,
        save_minutes: float,
        end_seconds: float = 0.0,
        losses: str = "losses.csv",
        on_save: Callable[[], None] = lambda: None,
        on_epoch: Callable[[bool], None] = lambda is_best: None,
        show: Show | None = None,
    ):
        self._world, self._folder, self._state = world, folder, state
        self._settings, self._images, self._losses = dict(settings), images, losses
        self._save_seconds, self._end_seconds = 60 * save_minutes, end_seconds
        self._on_save, self._on_epoch = on_save, on_epoch
        self._show = show or Show()

    def train(
        self, batches: Batches, recipe: Recipe, rate: Callable[[Moment], float], *, advice: str
    ) -> None:
        """Train to the end of the budget and save the state.

        Raises KeyboardInterrupt where the user stopped the training, after the state was saved, and
        `SharedError` for a loss that is not finite. advice: what the user can do about such a loss.
        """
        # the step in hand is finished first, so that the saved state is whole
        with ranks.Stop() as self._stop:
            finished = self._fit(batches, recipe, rate, advice)
            if finished and self._state.step > self._first_step:
                self._state.seconds += self._end_seconds
            self.save()
        if not finished:
            raise KeyboardInterrupt

    def _fit(
        self, batches: Batches, recipe: Recipe, rate: Callable[[Moment], float], advice: str
    ) -> bool:
        """Train and tell whether the budget was spent, as opposed to stopped by the user."""
        if recipe.minutes:
            recipe = replace(recipe, minutes=recipe.minutes - self._end_seconds / 60)
        self._recipe, self._per_epoch = recipe, batches.per_epoch
        self._saved = self._shown = time.monotonic()
        self._first_step, self._first_seconds = self._state.step, self._state.seconds
        self._written = len(self._state.losses)
        self._events = _events(self._folder, self._state.step) if self._world.rank == 0 else None
        device = next(self._state.task.parameters()).device
        self._note_machine(device)
        with self._world.process_group(device.type):
            try:
                return fit(
                    self._state,
                    batches,
                    recipe,
                    rate,
                    world=self._world,
                    after_look=self._after_look,
                    after_epoch=self._after_epoch,
                )
            except FloatingPointError as error:
                go_on = "the same command goes on from the last saved step"
                raise ranks.SharedError(f"{error}: {advice}; {go_on}") from None

    def _note_machine(self, device: torch.device) -> None:
        """Record on what the run runs. These facts do not identify the run."""
        if self._world.rank == 0:
            path = self._folder / MACHINE
            before = shapes.read_json(path, Machine).get("parts", []) if path.is_file() else []
            here = {
                "from_step": self._state.step,
                "device": device.type,
                "dtype": self._state.dtype,
                "ranks": self._world.size,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
            files.write_json(path, {"parts": [*before, here]})

    def _after_look(self) -> bool:
        """Show the progress and save the state when due; tell whether the user asked to stop."""
        now = time.monotonic()
        asked, due = self._world.total([bool(self._stop), now - self._saved > self._save_seconds])
        if self._world.rank == 0 and now - self._shown > SHOW_EVERY:
            self._shown = now
            self._show_progress()
        if due and not asked:
            begun = time.monotonic()
            self.save()
            # a budget in minutes includes the writing of rank 0, for which the others wait
            [writing] = self._world.total([time.monotonic() - begun])
            self._state.seconds += writing
        return asked > 0

    def _after_epoch(self, is_best: bool) -> None:
        """Write the results and the events of a validation."""
        if self._world.rank == 0:
            self._on_epoch(is_best)
            if self._events is not None:
                row = self._state.epochs[-1]
                for name, value in row.items():
                    self._events.add_scalar(f"validation/{name}", value, self._state.step)

    def _show_progress(self) -> None:
        """Show the step, the loss, the speed since the start, and the time that is left."""
        state = self._state
        steps, seconds = state.step - self._first_step, state.seconds - self._first_seconds
        if not steps:
            return
        rate = steps * self._images / max(seconds, 1e-9)
        spent = moment_of(state, self._recipe, self._per_epoch).spent
        left = f", {duration(state.seconds / spent * (1 - spent))} left" if spent else ""
        loss = np.mean([row["loss"] for row in state.losses[-50:]])
        self._show.step(f"step {state.step:,}, loss {loss:.4f}, {rate:.3g} images/s{left}")

    def save(self) -> None:
        """Write the state, the logs and the results on rank 0, each file whole."""
        self._saved = time.monotonic()
        if self._world.rank != 0:
            return
        state, folder = self._state, self._folder
        content = {**state.as_dict(), "settings": self._settings}
        files.write_with(folder / RESUME, lambda file: torch.save(content, file))
        files.write_bytes(folder / self._losses, as_csv(state.losses))
        if state.epochs:
            files.write_bytes(folder / "epochs.csv", as_csv(state.epochs, "epoch"))
        self._on_save()
        if self._events is not None:
            for step in range(self._written, len(state.losses)):
                for name, value in state.losses[step].items():
                    self._events.add_scalar(f"training/{name}", value, step + 1)
            self._written = len(state.losses)
            self._events.flush()


def _events(folder: Path, step: int) -> Any:
    """Return a writer of TensorBoard's events, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with files.writing(folder):
        return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def as_csv(rows: Sequence[Mapping[str, Any]], first: str = "step") -> bytes:
    """Return rows as CSV, one line for each; without rows the result is empty.

    first: the first column, which numbers the rows from 1 where they do not tell it.
    """
    if not rows:
        return b""
    text = io.StringIO()
    columns = [first, *(name for name in rows[0] if name != first)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        writer.writerow({first: number, **{name: f"{value:.6g}" for name, value in row.items()}})
    return text.getvalue().encode()
