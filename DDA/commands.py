"""The common part of all commands: their command lines, what they print, how they end.

A command translates: it reads its arguments, makes settings of them, calls one function of the
library and prints the result. Messages of the library name settings in backquotes, such as
`batch_size`; a command prints the flag of that setting in its place, such as ``--batch_size``.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from DDA import files, interrupts, ranks
from DDA.progress import Show, printable

STATUSES = """exit status:
  0    everything that was asked for is done
  1    something failed or is missing; what is done is kept
  2    the input is wrong; nothing was done
  130  interrupted (143: by SIGTERM, while another command ran for it);
       run the same command again to go on"""

OUTPUT = """
[output]
--quiet  print the result and errors only, no plan, notes and progress
--json  print the result as one JSON object on stdout; all else goes to stderr
"""


@dataclass(frozen=True)
class Output(Show):
    """The streams of a command: its plan and its result on stdout, notes and progress on stderr.

    program: the name for messages. as_json: stdout gets the result alone, as one JSON object.
    flags: the flag of each setting.
    """

    program: str = ""
    as_json: bool = False
    flags: Mapping[str, str] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a part of the plan."""
        if not self.quiet:
            stream = sys.stderr if self.as_json else sys.stdout
            print(with_flags(text, self.flags), file=stream, flush=True)

    def note(self, text: str) -> None:
        """Print what the user should know, on stderr."""
        if not self.quiet:
            ranks.say(self.program, f"note: {with_flags(text, self.flags)}")

    def step(self, text: str) -> None:
        """Print how far the work is, on stderr."""
        super().step(with_flags(text, self.flags))

    def warn(self, text: str) -> None:
        """Print what went wrong, on stderr, also where all else is quiet."""
        ranks.say(self.program, with_flags(text, self.flags))

    def result(self, text: str, values: Mapping[str, Any]) -> None:
        """Print the result: ``text``, or ``values`` as one JSON object."""
        if self.as_json:
            print(json.dumps(_plain(values), allow_nan=False), flush=True)
        else:
            print(with_flags(text, self.flags), flush=True)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it.

    Dataclasses become objects, sets become sorted lists, numbers and arrays of numpy become numbers
    and lists, NaN and infinity become null, and paths become text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        value = _sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _sorted(values: Iterable[Any]) -> list[Any]:
    """Return values in their order, or in that of their texts where they have none."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Return a message with the flag in the place of each setting in backquotes that has one."""
    return re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[0]), text)


Work = Callable[[dict[str, Any], Output], int]
RanksWork = Callable[[ranks.World, dict[str, Any], Output], int]
GO_ON = "run the same command again to go on"


def run(parser: Parser, argv: Sequence[str] | None, work: Work, go_on: str = GO_ON) -> int:
    """Run a command of one process and return its exit status (`STATUSES`).

    work: takes the values of the command line, by their names, and the place to print. ValueError
    and OSError mean wrong input. go_on: what the user does after an interruption.
    """
    ranks.keep_memory()
    output = _prepared(parser)
    try:
        interrupts.allow()
        values, output = parser.read(argv)
        return work(values, output)
    except (ValueError, OSError) as error:
        output.warn(f"error: {printable(str(error))}")
        return 2
    except KeyboardInterrupt as stop:
        interrupts.end()
        output.warn(f"interrupted; {go_on}")
        return stop.status if isinstance(stop, Stopped) else 130
    finally:
        interrupts.end()


def run_ranks(
    parser: Parser, argv: Sequence[str] | None, work: RanksWork, go_on: str = GO_ON
) -> int:
    """Run a command of any number of processes and return its exit status (`STATUSES`).

    work: as in `run`, with the `World` as its first argument. Every process calls it, with the
    command line of rank 0. It turns errors that the user can mend into a `ranks.SharedError`, by
    `World.together` or `World.on_root`.
    """
    output = _prepared(parser)

    def main(world: ranks.World) -> int:
        values, output = world.on_root(lambda: parser.read(argv))
        return work(world, values, output)

    try:
        return ranks.run(main, parser.prog, go_on, say=output.warn)
    finally:
        interrupts.end()


def _prepared(parser: Parser) -> Output:
    """Return the place to print, and let names of files that are no text be printed, with escapes.

    Warnings are printed as notes, on a line, each of them once.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    output = Output(program=parser.prog, flags=parser.flags)
    notes: set[str] = set()

    def as_note(message: Warning | str, *_: object) -> str:
        if f"{message}" in notes:
            return ""
        notes.add(f"{message}")
        return f"{output.program}: note: {with_flags(f'{message}', output.flags)}\n"

    warnings.formatwarning = as_note
    return output


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop while another command ran for it.

    ``status`` is what the process then ends with.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Parser(argparse.ArgumentParser):
    """A parser whose help keeps the lines of the description and ends with the exit statuses.

    Flags are not shortened, and an error is one line that names the flag that was meant.
    """

    def __init__(self, *args, **settings):
        kept = {
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "epilog": STATUSES,
            "allow_abbrev": False,
        }
        super().__init__(*args, **{**kept, **settings})

    def read(self, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], Output]:
        """Return the values of a command line by their names, and where its command prints.

        A wrong command line ends the process with status 2, as argparse does.
        """
        values = vars(self.parse_args(argv))
        quiet, as_json = values.pop("quiet", False), values.pop("json", False)
        output = Output(quiet=quiet, program=self.prog, as_json=as_json, flags=self.flags)
        return values, output

    @property
    def flags(self) -> dict[str, str]:
        """Return the flag of each setting; a command has those of all its subcommands."""
        flags: dict[str, str] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    flags |= command.flags
            else:
                names = action.option_strings or [str(action.metavar or action.dest.upper())]
                long = [name for name in names if name.startswith("--")]
                flags[action.dest] = (long or names)[0]
        return flags

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse a command line; argparse itself fails without words on ``--flag=--``."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("-") and word.endswith("=--"):
                self.error(f"argument {word.removesuffix('=--')}: -- is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the process with one line that names the fault and the flag that was meant."""
        words = message.split() if message.startswith("unrecognized arguments") else []
        unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
        known = self._option_string_actions
        close = [name for word in unknown for name in difflib.get_close_matches(word, known, 1)]
        meant = f"; did you mean {close[0]}?" if close else ""
        ranks.say(self.prog, f"error: {message}{meant} (--help lists the flags)")
        self.exit(2)


_FLAG = re.compile(
    r"(?P<names>[\w-]+(?:, -[\w-]+)*)(?:->(?P<dest>\w+))?"
    r"(?: (?P<kind>\{[^}]*\}|\S+?)(?P<many>\+)?(?P<required>!)?)?"
    r"(?: = (?P<default>'[^']*'|\S+))?(?:  +(?P<help>.*))?"
)


def parser(program: str, about: str | None, flags: str, **choices: Iterable[str]) -> Parser:
    """Return the parser of a command.

    about: what it does, as its help begins. flags, choices: as in `add_flags`.
    """
    made = Parser(program, description=about)
    add_flags(made, flags + OUTPUT, **choices)
    return made


def add_flags(parser: Any, text: str, **choices: Iterable[str]) -> None:
    """Add the flags that ``text`` lists, one on each line, in the form of a help.

    Lines that begin with blanks continue the line above. A line is ``NAMES KIND = DEFAULT  HELP``,
    with two blanks before the help. Without KIND a flag is a switch. KIND is what the help shows
    for the value:

    * INT, FLOAT and BOOL are numbers and True or False; FILE, DIR, PATH and the like are paths; any
      other word is text. ``int:1..5`` names the type and what the help shows.
    * ``{a,b}`` lists the choices; ``{NAME}`` or NAME takes those of ``choices``.
    * ``yes|no`` makes ``--flag`` and ``--no-flag``.
    * ``+`` after it takes several values, ``!`` makes the flag a required one.

    ``--flag->name`` stores the value under another name. A line ``[title] description`` begins a
    group.
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
    """Return the names and the settings of one flag, as argparse takes them."""
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
    if part["many"]:
        settings["nargs"] = "+"
        default = default and [read(one) for one in default.strip("[]").split(",") if one]
    elif default is not None:
        default = read(default.strip("'"))
    if names[0].startswith("-"):
        settings |= {"default": default, "required": bool(part["required"])}
        settings |= {"dest": part["dest"]} if part["dest"] else {}
    return names, settings


def boolean(text: str) -> bool:
    """Return the value of a flag that takes True or False."""
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


def call(
    command: Sequence[str], env: Mapping[str, str] | None = None, show: Show | None = None
) -> int:
    """Run another command to its end and return its exit status (128 + N after signal N).

    env: variables on top of this process's. show: where this command prints. A quiet one silences
    the other command too, and one that prints JSON keeps its own stdout for that.

    A signal that asks this process to stop waits for the command to save its state: a terminal
    sends SIGINT to both, SIGTERM is passed on. Then `Stopped` is raised, whatever the command's
    status is, because a command that ends in order says 0.
    """
    asked: list[int] = []
    process: subprocess.Popen | None = None

    def stop(number: int, _: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        words, stdout = list(command), None
        if show is not None and show.quiet:
            words, stdout = [*words, "--quiet"], subprocess.DEVNULL
        elif isinstance(show, Output) and show.as_json:
            stdout = sys.stderr
        process = subprocess.Popen(words, env={**os.environ, **(env or {})}, stdout=stdout)
        if signal.SIGTERM in asked:  # the signal came before the command started
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
    """Return a table in Markdown. Its texts are inert: no name ends a cell or begins a tag."""
    lines = [[inert(str(cell)).replace("|", r"\|") for cell in cells] for cells in (heads, *rows)]
    head, *lines = (f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{head}{'|---' * len(heads)}|\n{''.join(lines)}"


def inert(text: str) -> str:
    """Return text on one line in which nothing begins a tag of HTML, for Markdown."""
    return " ".join(text.split()).replace("<", "&lt;")
