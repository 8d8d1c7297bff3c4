"""A run: the folder in which a training lives, what it says, how it stops and goes on.

The folder holds ``resume.pt``, from which the same command goes on; a line for each step and for each validation in CSV files,
and TensorBoard's events where it is installed; ``machine.json``, on what it ran; and the results of its kind.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from DDA import files, ledger, ranks
from DDA.devices import fastest_dtype
from DDA.progress import Show, duration
from DDA.ranks import World
from DDA.training.loop import Recipe, State, fit, moment_of
from DDA.training.task import Batches, Moment

RESUME, MACHINE = "resume.pt", "machine.json"


def read_tensors(path: Path, expected: str) -> dict[str, Any]:
    """A file of tensors and plain values, by their names, on the CPU; nothing in it is executed.

    Raises FileNotFoundError, and BadFile for any other file. expected: what it should be, for the message.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; expected a {expected}")
    with files.parsing(path, expected):
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise files.BadFile(f"{path} holds a {type(content).__name__}, not a {expected}")
    return content


def precision(recipe: Recipe, network: nn.Module, example: Sequence[torch.Tensor]) -> torch.dtype:
    """What a new run computes in: what its recipe says, else what is measured to be faster. A saved state has its own.

    example: what the network takes, of some images.
    """
    if recipe.amp is None:
        return fastest_dtype(network, example)
    return torch.bfloat16 if recipe.amp else torch.float32


def resume(folder: Path, state: State, settings: Mapping[str, Any], advice: str) -> None:
    """Go on from the state in a folder, where there is one.

    settings: what identifies the run. advice: what to do where those of the state differ. Raises BadFile where it is damaged,
    ValueError where it is another run's.
    """
    path = folder / RESUME
    if not path.is_file():
        return
    content = read_tensors(path, "state of a run")
    if "task" not in content or not isinstance(content.get("settings"), dict):
        raise files.BadFile(
            f"{path} is no state of this version, which keeps other things; {advice}"
        )
    differ = ledger.differences(content["settings"], settings)
    if differ:
        raise ValueError(f"{folder} is a run with other settings: {'; '.join(differ)}; {advice}")
    try:
        state.load(content)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError):
        raise files.BadFile(f"{path} is damaged; remove {folder} to start anew") from None


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds something that is not a run, nor what a run leaves that was killed before it saved its state."""
    if not folder.is_dir() or (folder / RESUME).is_file():
        return False
    return any(
        not path.name.startswith((MACHINE, "events.")) and path.suffix != files.TEMPORARY
        for path in folder.iterdir()
    )


class Run:
    """Keeps a training in its folder while it runs.

    settings: what identifies it; images: of a step, over all ranks. on_save: writes what is made of the state now and then;
    on_epoch: writes what is made of it after a validation, and gets whether it is the best so far. Both are called on rank 0.
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
        losses: str = "losses.csv",
        on_save: Callable[[], None] = lambda: None,
        on_epoch: Callable[[bool], None] = lambda is_best: None,
        show: Show | None = None,
    ):
        self._tell = show or Show()
        self._world, self._folder, self._state, self._settings = (
            world,
            folder,
            state,
            dict(settings),
        )
        self._images, self._save_seconds, self._losses = images, 60 * save_minutes, losses
        self._on_save, self._on_epoch = on_save, on_epoch

    def train(
        self, batches: Batches, recipe: Recipe, rate: Callable[[Moment], float], *, advice: str
    ) -> None:
        """Train to the end of the budget; a stop by the user is a KeyboardInterrupt, after the state was saved.

        advice: what to do where the loss is no number, which is a `SharedError`.
        """
        self._stop = ranks.Stop()  # the step is finished first, so that the saved state is whole
        self._recipe, self._per_epoch = recipe, batches.per_epoch
        self._saved = self._shown = time.monotonic()
        self._first, self._written = (
            (self._state.step, self._state.seconds),
            len(self._state.losses),
        )
        self._events = _events(self._folder, self._state.step) if self._world.rank == 0 else None
        device = next(self._state.task.parameters()).device
        self._note_machine(device)
        with self._world.process_group(device.type):
            try:
                finished = fit(
                    self._state,
                    batches,
                    recipe,
                    rate,
                    world=self._world,
                    after_look=self._after_look,
                    after_epoch=self._after_epoch,
                )
            except FloatingPointError as error:
                raise ranks.SharedError(
                    f"{error}: {advice}; the same command goes on from the last saved step"
                ) from None
        self.save()
        if not finished:
            raise KeyboardInterrupt

    def _note_machine(self, device: torch.device) -> None:
        """Record on what the run runs: facts, of which none identifies it."""
        if self._world.rank == 0:
            path = self._folder / MACHINE
            before = files.read_json(path).get("parts", []) if path.is_file() else []
            here = {
                "from_step": self._state.step,
                "device": device.type,
                "dtype": self._state.dtype,
                "ranks": self._world.size,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
            self.write(lambda: files.write_json(path, {"parts": [*before, here]}))

    def _after_look(self) -> bool:
        now = time.monotonic()
        asked, due = self._world.total([bool(self._stop), now - self._saved > self._save_seconds])
        if self._world.rank == 0 and now - self._shown > 15:
            self._shown = now
            self._show()
        if due and not asked:
            self.save()
        return asked > 0

    def _after_epoch(self, is_best: bool) -> None:
        if self._world.rank == 0:
            self.write(lambda: self._on_epoch(is_best))
            if self._events is not None:
                row = self._state.epochs[-1]
                for name, value in row.items():
                    self._events.add_scalar(f"validation/{name}", value, self._state.step)

    def _show(self) -> None:
        state, (first, before) = self._state, self._first
        if state.step == first:
            return
        rate = (state.step - first) * self._images / max(state.seconds - before, 1e-9)
        spent = moment_of(state, self._recipe, self._per_epoch).spent
        left = f", {duration(state.seconds / spent * (1 - spent))} left" if spent else ""
        loss = np.mean([row["loss"] for row in state.losses[-50:]])
        self._tell.step(f"step {state.step:,}, loss {loss:.4f}, {rate:.3g} images/s{left}")

    def save(self) -> None:
        """Write the state and the logs, each file whole, by rank 0."""
        self._saved = time.monotonic()
        if self._world.rank != 0:
            return
        state, folder = self._state, self._folder
        content = {**state.as_dict(), "settings": self._settings}
        self.write(
            lambda: files.write_with(folder / RESUME, lambda file: torch.save(content, file))
        )
        self.write(lambda: files.write_bytes(folder / self._losses, as_csv(state.losses)))
        if state.epochs:
            self.write(
                lambda: files.write_bytes(folder / "epochs.csv", as_csv(state.epochs, "epoch"))
            )
        self.write(self._on_save)
        if self._events is not None:
            for step in range(self._written, len(state.losses)):
                for name, value in state.losses[step].items():
                    self._events.add_scalar(f"training/{name}", value, step + 1)
            self._written = len(state.losses)
            self._events.flush()

    def write(self, work: Callable[[], None]) -> None:
        """Do some writing; an OSError says where and what to do."""
        try:
            work()
        except OSError as error:
            raise OSError(
                f"cannot write to {self._folder}: {error.strerror or error}; make room"
            ) from error


def _events(folder: Path, step: int) -> Any:
    """TensorBoard's writer, where it is installed; the CSV files have the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def as_csv(rows: Sequence[Mapping[str, Any]], first: str = "step") -> bytes:
    """One line a row; numbers rows from 1 where they do not tell ``first``."""
    if not rows:
        return b""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [first, *(name for name in rows[0] if name != first)], lineterminator="\n"
    )
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        writer.writerow({first: number, **{name: f"{value:.6g}" for name, value in row.items()}})
    return text.getvalue().encode()
