#!/usr/bin/env python3
"""The tables of the documentation, made of the result files in docs/results: nobody types a number.

  scripts/docs_tables.py            fills in every table of README.md and docs/
  scripts/docs_tables.py --check    changes nothing; fails where a table is not its result file's

A table stands between two comments, of which the first names its kind and its file:

  <!-- table means docs/results/cifar10c.json -->
  <!-- end -->

Kinds, of the summary.json of test_ensemble.py: means, a line for each column; corruptions, one for each corruption. Of the
ladder.json that ladder.py leaves: ladder. Of the search.json of search.py: search.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ladder
import search

from DDA import commands, files
from DDA.model_adapt import results, tables
from DDA.model_adapt.settings import Facts

PROGRAM = "docs_tables.py"
BLOCK = re.compile(
    r"(?P<head><!-- table (?P<kind>\S+) (?P<file>\S+) -->\n)(?P<body>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def means(summary: Mapping[str, Any]) -> str:
    """A line for each column: top-1, its interval, paired differences, and the share of the images that were adapted."""
    facts, overall = Facts.read(summary["facts"]), summary["all"]
    names = results.shown(overall, facts)
    texts = tables.measures(overall, names, facts)
    heads = [head for head in texts if head not in (*tables.FORMATS, "adapted images %")]
    rows = []
    for i, name in enumerate(names):
        share = 100 * overall[name].get("adapted", float(name not in ("source", "first")))
        rows.append(
            (
                results.title(name, facts),
                f"{100 * overall[name]['top1']:.1f}",
                *(texts[head][i] for head in heads),
                f"{share:.0f}",
            )
        )
    return commands.grid(("", "top-1 %", *heads, "adapted images %"), rows)


KINDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "means": means,
    "corruptions": partial(tables.markdown, flips=False),
    "ladder": ladder.table,
    "search": search.table,
}


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 where --check finds a difference, 2 for wrong input."""
    parser = commands.parser(PROGRAM, __doc__, "--check  change nothing, say what differs")
    return commands.run(lambda: _main(parser.parse_args(argv)), PROGRAM)


def _main(args: argparse.Namespace) -> int:
    status = 0
    for path in documents():
        text = path.read_text(encoding="utf-8")
        right = filled(text)
        if right == text:
            continue
        if args.check:
            print(
                f"{PROGRAM}: {path.relative_to(ROOT)} has a table that is not its result file's",
                file=sys.stderr,
            )
            status = 1
        else:
            files.write_bytes(path, right.encode())
            print(f"written     {path.relative_to(ROOT)}")
    return status


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A document with its tables made anew. Raises FileNotFoundError, ValueError."""
    return BLOCK.sub(
        lambda block: f"{block['head']}{_table(block['kind'], block['file'])}{block['end']}", text
    )


def _table(kind: str, name: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no table of the kind {kind}; use one of {', '.join(KINDS)}")
    return KINDS[kind](files.read_json(ROOT / name))


if __name__ == "__main__":
    sys.exit(main())
