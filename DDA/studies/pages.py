"""The tables of the documentation, made of the result files in docs/results.

A table stands between two comments, of which the first names its kind and its file:

  <!-- table means docs/results/cifar10c.json -->
  <!-- end -->

Of a summary.json, which test_ensemble.py writes, there are two kinds: means has a line for each
column, corruptions a line for each corruption. The kind of a ladder.json is ladder, and that of a
search.json is search.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from DDA import commands, files
from DDA.model_adapt import results, tables
from DDA.model_adapt.settings import Facts
from DDA.studies import ladder, search

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"(?P<head><!-- table (?P<kind>\S+) (?P<file>\S+) -->\n)(?P<body>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def means(summary: Mapping[str, Any]) -> str:
    """Return a line for each column: top-1, interval, paired differences, share of copies."""
    facts, overall = Facts.read(summary["facts"]), summary["all"]
    names = results.shown(overall, facts)
    texts = tables.measures(overall, names, facts)
    heads = [head for head in texts if head not in (*tables.FORMATS, "adapted images %")]
    rows = []
    for place, name in enumerate(names):
        share = 100 * overall[name].get("adapted", float(name not in ("source", "first")))
        numbers = [texts[head][place] for head in heads]
        top1 = f"{100 * overall[name]['top1']:.1f}"
        rows.append((results.title(name, facts), top1, *numbers, f"{share:.0f}"))
    return commands.grid(("", "top-1 %", *heads, "adapted images %"), rows)


KINDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "means": means,
    "corruptions": partial(tables.markdown, flips=False),
    "ladder": ladder.table,
    "search": search.table,
}


def documents() -> list[Path]:
    """Return the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """Return a page with its tables made anew. Raises FileNotFoundError and ValueError."""

    def replace(block: re.Match[str]) -> str:
        return f"{block['head']}{_table(block['kind'], block['file'])}{block['end']}"

    return BLOCK.sub(replace, text)


def _table(kind: str, name: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"there is no table of the kind {kind}; use one of {', '.join(KINDS)}")
    return KINDS[kind](files.read_json(ROOT / name))


def update(*, check: bool = False) -> list[str]:
    """Fill in every table, and return the pages whose tables were not those of their files.

    check: whether the pages are only compared, and stay as they are.
    """
    changed = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        expected = filled(text)
        if expected != text:
            changed.append(path.relative_to(ROOT).as_posix())
            if not check:
                files.write_bytes(path, expected.encode())
    return changed
