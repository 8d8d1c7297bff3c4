"""Command lines: how flags are written, read and answered, and what commands print."""

import json
import os
import shlex
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from DDA import commands, settings

FLAGS = """
config YAML  what is run
--out DIR!  where it goes,
    on two lines
--count INT = 3
--rate float:0..1  a share
--names NAME+ = [a,b]  several
--more NAME+ = []  none by default
--kind {one,two} = two
--layout {LAYOUTS}  by name
--rule RULE+  shown as RULE
--flip yes|no = no  mirror
--train BOOL = True
--title TEXT = 'two words'
--sev->severity int:1..5
--dry_run  print and stop
[machine] what it runs on
-d, --device auto|cpu = auto
"""


@pytest.fixture
def parser():
    return commands.parser(
        "x.py", "Does something.", FLAGS, LAYOUTS=("tree", "flat"), RULE=("sum", "gate")
    )


def test_a_line_is_a_flag_with_its_type_and_default(parser):
    args, _ = parser.read(["a.yaml", "--out", "here"])
    assert args == {
        "config": Path("a.yaml"),
        "out": Path("here"),
        "count": 3,
        "rate": None,
        "names": ["a", "b"],
        "more": [],
        "kind": "two",
        "layout": None,
        "rule": None,
        "flip": False,
        "train": True,
        "title": "two words",
        "severity": None,
        "dry_run": False,
        "device": "auto",
    }
    line = (
        "a.yaml --out x --count 5 --rate 0.5 --names c --layout flat --rule gate sum --flip "
        "--sev 2 --train no --dry_run -d cpu"
    )
    given, _ = parser.read(shlex.split(line))
    changes = {
        "out": Path("x"),
        "count": 5,
        "rate": 0.5,
        "names": ["c"],
        "layout": "flat",
        "rule": ["gate", "sum"],
        "flip": True,
        "severity": 2,
        "train": False,
        "dry_run": True,
        "device": "cpu",
    }
    assert given == args | changes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the following arguments are required: --out"),
        (["--out", "x", "--kind", "three"], "invalid choice: 'three'"),
        (["--out", "x", "--rule", "max"], "invalid choice: 'max'"),
        (["--out", "x", "--count", "many"], "invalid int value"),
        (["--out", "x", "--cuont", "3"], "did you mean --count?"),
        (["--out=--"], "argument --out: -- is no value"),
        (["--out", "x", "--names=--"], "argument --names: -- is no value"),
    ],
)
def test_a_wrong_flag_is_answered_in_one_line(parser, capsys, flags, words):
    with pytest.raises(SystemExit):
        parser.parse_args(["a.yaml", *flags])
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_help_says_what_the_text_says(parser):
    text = " ".join(parser.format_help().split())
    for part in (
        "where it goes, on two lines",
        "--count INT (default: 3)",
        "--flip, --no-flip",
        "machine: what it runs on",
        "--rule RULE [RULE ...] shown as RULE",
        "--layout {tree,flat} by name",
    ):
        assert part in text
    assert "[]" not in text


# ---------------------------------------------------------------------------------- what is printed


def run(parser, argv, work, capsys):
    status = commands.run(parser, argv, work)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


REQUIRED = ["a.yaml", "--out", "x"]


def test_settings_in_backquotes_become_flags(parser, capsys):
    def work(values, output):
        output.say("the plan names `count`, `severity` and `nothing`")
        raise ValueError("`layout` tree does not go with `names`; see `config`")

    status, out, err = run(parser, REQUIRED, work, capsys)
    assert status == 2 and out == "the plan names --count, --sev and `nothing`\n"
    assert err == "x.py: error: --layout tree does not go with --names; see YAML\n"


def test_settings_of_subcommands_become_flags(capsys):
    parser = commands.Parser("y.py")
    subcommands = parser.add_subparsers(dest="command")
    for name, flags in (("make", "--base_samples->source FILE"), ("see", "--out FILE!")):
        commands.add_flags(subcommands.add_parser(name), flags + commands.OUTPUT)

    def work(values, output):
        raise FileNotFoundError("`source` x does not exist, nor does `out`")

    status, _, err = run(parser, ["make", "--base_samples", "x"], work, capsys)
    assert status == 2 and err == "y.py: error: --base_samples x does not exist, nor does --out\n"


def talk(values, output):
    output.say("plan")
    output.note("a note")
    output.step("step 1 of `count`")
    output.progress(2).add([(1, 0)])
    output.warn("`count` went wrong")
    numbers = {"nan": float("nan"), "one": np.float32(1), "many": (np.int64(2), {"a": np.inf})}
    output.result("the result", {"path": Path("a/b"), **numbers})
    return 1


def test_a_command_prints_its_plan_and_result_on_stdout_and_the_rest_on_stderr(parser, capsys):
    status, out, err = run(parser, REQUIRED, talk, capsys)
    assert status == 1 and out == "plan\nthe result\n"
    assert "x.py: note: a note\nstep 1 of --count\nfirst 1 in " in err and err.endswith(
        "--count went wrong\n"
    )


def test_quiet_leaves_the_result_and_what_went_wrong(parser, capsys):
    status, out, err = run(parser, [*REQUIRED, "--quiet"], talk, capsys)
    assert (status, out, err) == (1, "the result\n", "x.py: --count went wrong\n")


def test_json_is_one_object_on_stdout_and_all_else_is_on_stderr(parser, capsys):
    status, out, err = run(parser, [*REQUIRED, "--json"], talk, capsys)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    assert status == 1 and out.count("\n") == 1
    result = json.loads(out, parse_constant=refuse)
    assert result == {"path": "a/b", "nan": None, "one": 1.0, "many": [2, {"a": None}]}
    assert "plan\n" in err and "x.py: note: a note" in err


@dataclass
class Count:
    done: int
    share: float
    folder: Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("-inf"), None),
        (np.float64("nan"), None),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan]), [0.5, None]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({10, 9, 2}, [2, 9, 10]),
        (frozenset({"b", "a", 1}), [1, "a", "b"]),
        (Count(3, float("nan"), Path("a/b")), {"done": 3, "share": None, "folder": "a/b"}),
        ([Count(1, 0.5, Path("c"))], [{"done": 1, "share": 0.5, "folder": "c"}]),
        ({1: None, Path("p"): "ü"}, {"1": None, "p": "ü"}),
    ],
)
def test_a_result_is_valid_json_whatever_it_holds(capsys, value, expected):
    commands.Output(as_json=True).result("", {"value": value})
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {"value": expected}
    assert out.count("\n") == 1


def test_a_command_of_several_ranks_is_quiet_and_prints_json(parser, capsys):
    def work(world, values, output):
        assert world.size == 1 and "quiet" not in values and "json" not in values
        return talk(values, output)

    assert commands.run_ranks(parser, [*REQUIRED, "--quiet", "--json"], work) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == "a/b" and err == "x.py: --count went wrong\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line(parser, capsys, number):
    def work(values, output):
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        status, out, err = run(parser, REQUIRED, work, capsys)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert (status, out) == (130, "")
    assert err == "x.py: interrupted; run the same command again to go on\n"


def test_a_command_of_several_ranks_translates_too(parser, capsys):
    def work(world, values, output):
        return world.on_root(fail)

    def fail():
        raise ValueError("`rate` 2 is outside 0..1")

    assert commands.run_ranks(parser, REQUIRED, work) == 2
    assert capsys.readouterr().err == "x.py: error: --rate 2 is outside 0..1\n"


def test_a_warning_is_a_note_and_is_said_once(parser, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def work(values, output):
        for text in ("`count` is much", "`count` is much", "`rate` too"):
            warnings.showwarning(UserWarning(text), UserWarning, "file.py", 1)
        return 0

    monkeypatch.setattr(warnings, "showwarning", print_warning)
    for _ in range(2):  # each command has its own
        assert commands.run(parser, REQUIRED, work) == 0
        notes = ["x.py: note: --count is much", "x.py: note: --rate too"]
        assert capsys.readouterr().err.splitlines() == notes


def print_warning(message, category, filename, lineno):
    """Print a warning as Python does outside of pytest."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def test_control_characters_of_names_reach_the_terminal_as_escapes(capsys):
    parser = commands.parser("prog.py", "About.", "--steps INT = 5")
    with pytest.raises(SystemExit, match="2"):
        parser.read(["\x1b[31m", "\x7f\r"])
    assert "\\x1b[31m \\x7f\\r (--help" in capsys.readouterr().err
    commands.Output(program="prog.py").warn("error: a\x1b[31m.png\nand ü")
    assert capsys.readouterr().err == "prog.py: error: a\\x1b[31m.png\nand ü\n"
    with pytest.raises(ValueError, match=r"`data.a\\nb` is unknown"):
        settings.check_names(["a\nb"], ["x"], "data.")
