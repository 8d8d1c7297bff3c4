"""The messages of long work: its plan, how far it is, and how long it will take."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO


def printable(text: str) -> str:
    """Return text with its control characters as escapes, such as ``\\x1b``.

    Names in people's files may have some, which would move or colour what a terminal shows.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], text)


@dataclass(frozen=True)
class Show:
    """The place where long work tells people about itself: its plan, its notes, its progress.

    quiet: show nothing. The results of the work tell what went wrong.
    """

    quiet: bool = False

    def say(self, text: str) -> None:
        """Print a part of the plan, on stdout."""
        if not self.quiet:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Print what the user should know, on stderr."""
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        """Print how far the work is, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print what went wrong, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def progress(self, total: int, ranks: int = 1) -> Progress:
        """Return a new count of ``total`` images, shown on stderr."""
        return Progress(total, ranks, quiet=self.quiet)


class Progress:
    """The number of finished images, the images a second and the time left, on stderr.

    A terminal gets one line that moves, a file gets a line now and then.
    """

    def __init__(
        self, total: int, ranks: int = 1, stream: TextIO | None = None, *, quiet: bool = False
    ):
        stream = stream or sys.stderr
        self._quiet = quiet
        self.total, self.done, self.failed = total, 0, 0
        self._ranks = ranks
        self._estimated = False
        self._stream = stream
        self._moving = stream.isatty()
        self._every = 0.5 if self._moving else 15.0
        self._started = self._shown = time.monotonic()

    def add(self, reports: Sequence[tuple[int, int]]) -> None:
        """Count the images and failures of each report, and print them when it is time."""
        if not reports:
            return
        self.done += sum(written + failed for written, failed in reports)
        self.failed += sum(failed for _, failed in reports)
        seconds = max(time.monotonic() - self._started, 1e-9)
        if not self._estimated and self.failed < self.done < self.total:
            # ranks that have not reported yet are about as far as those that have
            rate = self.done / seconds * max(1, self._ranks / len(reports))
            remaining = duration(max(self.total / rate - seconds, 0))
            took = duration(seconds)
            self._say(f"first {self.done} in {took}: about {remaining} for the rest", keep=True)
            self._estimated = True
        elif self.done == self.total:
            self._say(f"{self._counts(seconds)}, in {duration(seconds)}", keep=True)
        elif time.monotonic() - self._shown >= self._every:
            remaining = duration(seconds * (self.total / self.done - 1))
            self._say(f"{self._counts(seconds)}, {remaining} left", keep=False)
            self._shown = time.monotonic()

    def _counts(self, seconds: float) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} images{failed}, {self.done / seconds:.3g} images/s"

    def _say(self, text: str, *, keep: bool) -> None:
        if self._quiet:
            return
        if self._moving:
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if keep else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


@dataclass(frozen=True)
class Estimate:
    """The time that work would take, by what a part of it took on this machine.

    seconds: of all of it. each: the seconds of one ``unit``, such as an image or a step.
    measured: on what, in words.
    """

    seconds: float
    each: float
    unit: str
    measured: str

    def __str__(self) -> str:
        each = f"{self.each:.2g} s {self.unit}"
        return f"{duration(self.seconds)} ({each}, measured on {self.measured} on this machine)"


def duration(seconds: float) -> str:
    """Return seconds as text: ``9 s``, ``4 min 10 s``, ``3 h 05 min``, ``2 d 4 h``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
