"""What commands share: their command lines, how one of a single process ends, how one runs another."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from DDA import ranks


def run(work: Callable[[], int], program: str, go_on: str = "run the same command again to go on") -> int:
    """The exit status: that of ``work``, 2 where the input is wrong (ValueError, OSError), 130 where the user stopped it.

    program: name for messages. go_on: what the user does after an interruption. Commands of several ranks: `ranks.run`.
    """
    ranks.keep_memory()
    try:
        return work()
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {go_on}", file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """Of a command line: its help keeps the lines of the description, flags are not shortened, an error is one line."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        words = message.split() if message.startswith("unrecognized arguments") else []
        unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
        close = [name for word in unknown for name in difflib.get_close_matches(word, self._option_string_actions, 1)]
        meant = f"; did you mean {close[0]}?" if close else ""
        self.exit(2, f"{self.prog}: error: {message}{meant} (--help lists the flags)\n")


def boolean(text: str) -> bool:
    """The type of a flag that takes True or False."""
    if text.lower() in ("true", "1", "yes", "y", "t"):
        return True
    if text.lower() in ("false", "0", "no", "n", "f"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def call(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run another command to its end and return its exit status (128 + N after signal N).

    env: variables on top of this process's. An interruption, which a terminal sends to both, waits for the command to save its
    state, and is raised then (KeyboardInterrupt); a SIGTERM is passed on.
    """
    process = subprocess.Popen(command, env={**os.environ, **(env or {})})
    interrupted = False
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
    finally:
        signal.signal(signal.SIGTERM, before)
    if interrupted or status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    return status if status >= 0 else 128 - status
