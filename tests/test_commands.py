"""Command lines written as their help reads."""

from pathlib import Path

import pytest

from DDA import commands

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
    args = vars(parser.parse_args(["a.yaml", "--out", "here"]))
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
    given = [
        "--count",
        "5",
        "--rate",
        "0.5",
        "--names",
        "c",
        "--layout",
        "flat",
        "--rule",
        "gate",
        "sum",
        "--flip",
    ]
    args = parser.parse_args(
        ["a.yaml", "--out", "x", *given, "--sev", "2", "--train", "no", "--dry_run", "-d", "cpu"]
    )
    assert (args.count, args.rate, args.names, args.layout, args.rule) == (
        5,
        0.5,
        ["c"],
        "flat",
        ["gate", "sum"],
    )
    assert (args.flip, args.severity, args.train, args.dry_run, args.device) == (
        True,
        2,
        False,
        True,
        "cpu",
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the following arguments are required: --out"),
        (["--out", "x", "--kind", "three"], "invalid choice: 'three'"),
        (["--out", "x", "--rule", "max"], "invalid choice: 'max'"),
        (["--out", "x", "--count", "many"], "invalid int value"),
        (["--out", "x", "--cuont", "3"], "did you mean --count?"),
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
