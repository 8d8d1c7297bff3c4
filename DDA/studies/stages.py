"""The stages of a pipeline: run in order, skipped where they are done, gone on with, estimated.

A stage is one or more of the project's commands, run as processes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from DDA import commands, files, shapes
from DDA.progress import Show, duration, printable
from DDA.studies.ladder import launcher
from DistilledClassifier.experiments.stages import latest_finished

ROOT = Path(__file__).resolve().parents[2]
# the commands that stages may run, by their names
SCRIPTS = {
    "make_data.py": "DistilledClassifier/make_data.py",
    "train.py": "DistilledClassifier/train.py",
    "train_all_deg.py": "DistilledClassifier/train_all_deg.py",
    "image_train.py": "DDA/image_adapt/scripts/image_train.py",
    "image_sample.py": "DDA/image_adapt/scripts/image_sample.py",
    "test_ensemble.py": "DDA/model_adapt/test_ensemble.py",
    "report.py": "DDA/model_adapt/report.py",
}
# those whose time a dry run tells
ESTIMATED = ("image_train.py", "image_sample.py", "train.py", "train_all_deg.py")

Command = tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Commands that belong together.

    commands: argument lists whose first word is one of SCRIPTS. ranks: the number of processes of
    each command. needs: the titles of the stages whose results the commands read.
    """

    title: str
    commands: tuple[Command, ...]
    ranks: int = 1
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: its folder, its exit status, its stages and its report.

    status: 0, or that of the command that failed. stages: the status and the seconds of each stage,
    by its title. The status is 0, that of a command that failed, ``done before``, or ``planned``.
    In a dry run a stage has its commands too, as a shell reads them, and for each the seconds that
    it would take, None where that cannot be told yet. report: the page, once it is made.
    """

    out: Path
    status: int
    stages: Mapping[str, Mapping[str, Any]]
    report: Path | None = None

    def __str__(self) -> str:
        """Return the path of the report, the stage that failed, or the planned commands."""
        if self.report is not None:
            return f"report      {self.report}"
        if self.status:
            return f"stopped     {list(self.stages)[-1]}: status {self.status}"
        lines, times = [], []
        for title, stage in self.stages.items():
            known = [seconds for seconds in stage["estimates"] if seconds is not None]
            times += stage["estimates"]
            note = f", about {duration(sum(known))}" if known else ""
            note = ", done before" if stage["status"] == "done before" else note
            lines += [f"# {title}{note}", *stage["commands"]]
        known = [seconds for seconds in times if seconds is not None]
        note = f"{duration(sum(known))} for {len(known)} of {len(times)} commands"
        lines.append(f"# estimate: {note}; the others are measured when the stages before are done")
        return "\n".join(lines)


def command_lines(stage: Stage) -> list[str]:
    """Return the commands of a stage as a shell reads them."""
    return [shlex.join((*launcher(stage.ranks), *command)) for command in stage.commands]


def outlook(stages: Sequence[Stage], out: Path, threads: int | None, show: Show) -> Outcome:
    """Return what a run would do, and how long the commands take that can be measured now.

    Nothing is written.
    """
    state, digests = _State(out), _digests(stages)
    done = {stage for stage, digest in digests.items() if state.finished.get(stage) == digest}
    planned = {}
    for stage in stages:
        planned[stage.title] = entry = {"commands": command_lines(stage)}
        if stage.title in done:
            entry |= {"status": "done before", "estimates": []}
            continue
        is_ready = done >= set(stage.needs) & digests.keys()
        if is_ready and any(name in ESTIMATED for name, *_ in stage.commands):
            show.step(f"measured: {stage.title}")
        times = [_estimate(one, stage.ranks, threads, is_ready) for one in stage.commands]
        entry |= {"status": "planned", "estimates": times}
    return Outcome(out, 0, planned)


def _estimate(command: Command, ranks: int, threads: int | None, is_ready: bool) -> float | None:
    """Return the seconds that a command takes, by its own dry run or by its budget in minutes.

    None where neither tells. is_ready: whether the stages before it are done.
    """
    name, *words = command
    if name == "image_train.py" and "--minutes" in words and "--steps" not in words:
        return 60 * float(words[words.index("--minutes") + 1])
    if name not in ESTIMATED or not is_ready:
        return None
    try:
        line, env = _process((name, *words, "--dry_run", "--json", "--quiet"), ranks, threads)
    except FileNotFoundError:  # a command of the same stage makes it
        return None
    run = subprocess.run(line, env={**os.environ, **env}, capture_output=True, check=False)
    if run.returncode:  # such a command too
        return None
    estimate = json.loads(run.stdout)["estimate"]
    return 0.0 if estimate is None else estimate["seconds"]


def run_stages(stages: Sequence[Stage], out: Path, threads: int | None, show: Show) -> Outcome:
    """Run the stages that are not finished, and note the finished ones in ``pipeline.json``.

    Raises ValueError where the folder has images that these stages do not make: they would be taken
    for theirs.
    """
    files.make_folder(out)
    state = _State(out)
    state.check(stages)
    outcome: dict[str, dict[str, Any]] = {}
    begun, digests = time.monotonic(), _digests(stages)
    for number, stage in enumerate(stages, start=1):
        digest = digests[stage.title]
        where = f"{number} of {len(stages)}: {stage.title}"
        if state.finished.get(stage.title) == digest:
            show.say(f"== {where}: done before")
            outcome[stage.title] = {"status": "done before", "seconds": 0.0}
            continue
        started = time.monotonic()
        show.say(f"\n== {where} ({duration(started - begun)})")
        # all of these run again, even if this run ends early
        state.forget(_dependents(stages, stage.title))
        for command in stage.commands:
            state.note(command)
            if status := _run(command, stage.ranks, threads, show):
                show.warn(
                    f"stage {where} ended with status {status}; its messages above tell why. "
                    "Mend it and run the same pipeline again: it goes on from here"
                )
                outcome[stage.title] = {"status": status, "seconds": time.monotonic() - started}
                return Outcome(out, status, outcome)
        state.finish(stage.title, digest)
        outcome[stage.title] = {"status": 0, "seconds": time.monotonic() - started}
    show.say(f"\n== finished in {duration(time.monotonic() - begun)}")
    return Outcome(out, 0, outcome, out / "eval" / "report.html")


def _digests(stages: Iterable[Stage]) -> dict[str, str]:
    """Return what identifies the work of each stage: its commands and those that it builds on.

    The stages are in order. A stage that is needed but not planned, because its result is given,
    changes nothing.
    """
    digests: dict[str, str] = {}
    for stage in stages:
        below = [digests[title] for title in stage.needs if title in digests]
        content = json.dumps([below, stage.commands])
        digests[stage.title] = hashlib.sha256(content.encode()).hexdigest()
    return digests


def _dependents(stages: Iterable[Stage], title: str) -> list[str]:
    """Return the titles of a stage and of all that build on it."""
    titles = [title]
    for stage in stages:
        if set(stage.needs) & set(titles):
            titles.append(stage.title)
    return titles


class Progress(TypedDict, total=False):
    """The content of ``pipeline.json``.

    finished: the digest of each finished stage, by its title. made: commands that made images.
    """

    finished: dict[str, str]
    made: list[str]


class _State:
    """The content of ``pipeline.json``: the finished stages, and the commands that made images."""

    def __init__(self, out: Path):
        self._out, self._path = out, out / "pipeline.json"
        remedy = "remove it, and all stages run again"
        is_there = self._path.is_file()
        content = shapes.read_json(self._path, Progress, remedy) if is_there else {}
        self.finished: dict[str, str] = content.get("finished", {})
        self._made: list[str] = content.get("made", [])

    def check(self, stages: Iterable[Stage]) -> None:
        """Raise ValueError where the folder holds images that these stages do not make."""
        own: list[str] = []
        for command in itertools.chain.from_iterable(stage.commands for stage in stages):
            own += self._text(command)
        others = [command for command in self._made if command not in own]
        if others:
            raise ValueError(
                f"{self._out} has images of another YAML, made by: {printable(others[0])}; "
                "give another out, or remove this one"
            )

    def _text(self, command: Command) -> list[str]:
        """Return the note of a command that makes images, or nothing for other commands.

        The note does not depend on the place of the folder.
        """
        if command[0] != "make_data.py":
            return []
        return [shlex.join(command).replace(str(self._out), "OUT")]

    def forget(self, titles: Iterable[str]) -> None:
        """Remove the marks of stages that are to be run."""
        for title in titles:
            self.finished.pop(title, None)

    def note(self, command: Command) -> None:
        """Note a command before it runs."""
        self._made = list(dict.fromkeys((*self._made, *self._text(command))))
        self._write()

    def finish(self, title: str, digest: str) -> None:
        """Mark a stage as finished."""
        self.finished[title] = digest
        self._write()

    def _write(self) -> None:
        files.write_json(self._path, {"finished": self.finished, "made": self._made})


def _run(command: Command, ranks: int, threads: int | None, show: Show) -> int:
    """Run a command and return its exit status."""
    name, *words = command
    words = list(map(_latest, words))
    show.say(f"$ {shlex.join((name, *words))}")
    line, env = _process((name, *words), ranks, threads)
    return commands.call(line, env, show)


def _process(command: Command, ranks: int, threads: int | None) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a process, and its variables on top of this process's."""
    name, *words = command
    env = {} if threads is None else {"OMP_NUM_THREADS": str(max(1, threads // ranks))}
    script = str(ROOT / SCRIPTS[name])
    return [*launcher(ranks), sys.executable, script, *map(_latest, words)], env


def _latest(part: str) -> str:
    """Return the file of a pattern in the newest finished run of a stage.

    A word without a pattern stays as it is. Raises FileNotFoundError where no run has such a file.
    """
    if "*" not in part:
        return part
    above, _, pattern = part.partition("/*/")
    path = latest_finished(Path(above), pattern)
    if path is None:
        raise FileNotFoundError(
            f"{part}: no finished run has such a file; was the stage before removed?"
        )
    return str(path)
