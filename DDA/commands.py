"""What commands share: their command lines, how one of a single process ends, how one runs another."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from DDA import files, ranks


def run(
    work: Callable[[], int], program: str, go_on: str = "run the same command again to go on"
) -> int:
    """The exit status: that of ``work``, 2 where the input is wrong (ValueError, OSError), 130 or 143 where it was stopped.

    program: name for messages. go_on: what the user does after an interruption. Commands of several ranks: `ranks.run`.
    """
    ranks.keep_memory()
    try:
        return work()
    except (ValueError, OSError) as error:
        ranks.say(program, f"error: {error}")
        return 2
    except KeyboardInterrupt as stop:
        ranks.say(program, f"interrupted; {go_on}")
        return stop.status if isinstance(stop, Stopped) else 130


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop while another command ran for it; ``status`` is what the process then ends with."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Parser(argparse.ArgumentParser):
    """Of a command line: its help keeps the lines of the description, flags are not shortened, an error is one line."""

    def __init__(self, *args, **settings):
        super().__init__(
            *args,
            **{
                "formatter_class": argparse.RawDescriptionHelpFormatter,
                "allow_abbrev": False,
                **settings,
            },
        )

    def error(self, message: str) -> NoReturn:
        words = message.split() if message.startswith("unrecognized arguments") else []
        unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
        close = [
            name
            for word in unknown
            for name in difflib.get_close_matches(word, self._option_string_actions, 1)
        ]
        meant = f"; did you mean {close[0]}?" if close else ""
        self.exit(2, f"{self.prog}: error: {message}{meant} (--help lists the flags)\n")


_FLAG = re.compile(
    r"(?P<names>[\w-]+(?:, -[\w-]+)*)(?:->(?P<dest>\w+))?"
    r"(?: (?P<kind>\{[^}]*\}|\S+?)(?P<many>\+)?(?P<required>!)?)?"
    r"(?: = (?P<default>'[^']*'|\S+))?(?:  +(?P<help>.*))?"
)


def parser(program: str, about: str | None, flags: str, **choices: Iterable[str]) -> Parser:
    """The parser of a command. about: what it does, as its help begins; flags, choices: as in `add_flags`."""
    made = Parser(program, description=about)
    add_flags(made, flags, **choices)
    return made


def add_flags(parser: Any, text: str, **choices: Iterable[str]) -> None:
    """Add the flags that ``text`` lists as a help does, one a line; lines that begin with blanks go on with the one above.

    A line is ``NAMES KIND = DEFAULT  HELP``, with two blanks before the help. KIND is what the help shows for the value: INT,
    FLOAT and BOOL are numbers and True or False, FILE, DIR, PATH and their like are paths, others text; ``int:1..5`` names
    the type beside it, ``{a,b}`` the choices, ``{NAME}`` or NAME those of ``choices``; ``yes|no`` makes ``--flag`` and
    ``--no-flag``; ``+`` takes several values, ``!`` must be given. Without KIND a flag is a switch. ``--flag->name`` is
    stored under another name. A line ``[title] description`` begins a group.
    """
    group = parser
    for line in re.sub(r"\n[ ]+", " ", inspect.cleandoc(text)).splitlines():
        title = re.fullmatch(r"\[(.*?)\] ?(.*)", line)
        if title is not None:
            group = parser.add_argument_group(title[1], title[2] or None)
        elif line:
            names, settings = _flag(line, choices)
            group.add_argument(*names, **settings)


def _flag(line: str, choices: Mapping[str, Iterable[str]]) -> tuple[list[str], dict[str, Any]]:
    """The names and the settings of one flag, as argparse takes them."""
    part = _FLAG.fullmatch(line)
    names, kind, default = part["names"].split(", "), part["kind"], part["default"]
    shown = part["help"] or ""
    if default not in (None, "[]") and "(default" not in shown:
        shown = f"{shown} (default: %(default)s)".strip()
    settings: dict[str, Any] = {"help": shown or None}
    if kind is None:
        return names, settings | {"action": "store_true"}
    if kind == "yes|no":
        return names, settings | {
            "action": argparse.BooleanOptionalAction,
            "default": default and boolean(default),
        }
    if kind in choices:
        settings |= {"choices": list(choices[kind]), "metavar": kind}
        read = str
    elif kind.startswith("{"):
        settings["choices"], read = list(choices.get(kind[1:-1]) or kind[1:-1].split(",")), str
    else:
        named, _, metavar = kind.rpartition(":")
        if named not in _TYPES:
            named = metavar = kind
        read = _TYPES.get(named, str)
        settings |= {"type": read, "metavar": metavar}
    if default is not None:
        default = (
            [read(one) for one in default.strip("[]").split(",") if one]
            if part["many"]
            else read(default.strip("'"))
        )
    settings |= {"nargs": "+"} if part["many"] else {}
    if names[0].startswith("-"):
        settings |= {"default": default, "required": bool(part["required"])}
        settings |= {"dest": part["dest"]} if part["dest"] else {}
    return names, settings


def boolean(text: str) -> bool:
    """The type of a flag that takes True or False."""
    if text.lower() in ("true", "1", "yes", "y", "t"):
        return True
    if text.lower() in ("false", "0", "no", "n", "f"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


_TYPES = {
    "INT": int,
    "int": int,
    "FLOAT": float,
    "float": float,
    "BOOL": boolean,
    "bool": boolean,
    "find": files.find,
    **dict.fromkeys(("FILE", "DIR", "PATH", "PNG", "CSV", "YAML", "JSON", "TREE", "path"), Path),
}


def at_least_1(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for the first of these flags that is given and below 1."""
    for name in names:
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")


def call(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run another command to its end and return its exit status (128 + N after signal N).

    env: variables on top of this process's. A signal that asks this process to stop (SIGINT, which a terminal sends to both;
    SIGTERM, which is passed on) waits for the command to save its state. Then `Stopped` is raised, whatever the command's
    status is: a command that ends in order says 0.
    """
    asked: list[int] = []
    process: subprocess.Popen | None = None

    def stop(number: int, _: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(command, env={**os.environ, **(env or {})})
        if signal.SIGTERM in asked:  # it came before there was a command to pass it on to
            process.terminate()
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Stopped(asked[-1])
    if status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    return status if status >= 0 else 128 - status


def grid(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    head, *lines = (f"| {' | '.join(map(str, cells))} |\n" for cells in (heads, *rows))
    return f"{head}{'|---' * len(heads)}|\n{''.join(lines)}"
