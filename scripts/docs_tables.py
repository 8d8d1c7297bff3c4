#!/usr/bin/env python3
"""Make the tables of the documentation from the result files in docs/results.

scripts/docs_tables.py          fills in every table of README.md and docs/
scripts/docs_tables.py --check  changes nothing; fails where a table is not its result file's
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
__import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands

PROGRAM = "docs_tables.py"
FLAGS = "--check  change nothing, say what differs"


def main(argv: list[str] | None = None) -> int:
    """Fill in the tables and return the exit status: 1 where --check finds a difference."""
    return commands.run(parser(), argv, _work)


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS)


def _work(values: dict[str, Any], output: commands.Output) -> int:
    from DDA.studies import pages

    changed = pages.update(check=values["check"])
    word = "has a table that is not its result file's" if values["check"] else "is written anew"
    text = "\n".join(f"{page} {word}" for page in changed) or "every table is its result file's"
    output.result(text, {"pages": changed})
    return 1 if changed and values["check"] else 0


if __name__ == "__main__":
    sys.exit(main())
