#!/usr/bin/env python3
"""Write the report of an evaluation: a page that opens offline, a CSV file, Markdown, a gallery.

report.py eval               writes report.html, report.csv, report.md and gallery.png there
report.py eval --images 8    more images of each corruption
report.py eval --images 0    no images (the degraded and adapted trees may be gone)
report.py eval --clean FOLDER    their clean originals, where the degraded tree does not tell them
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # also from a checkout that is not installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __import__("DDA")  # from here on both signals wait

from typing import Any

from DDA import commands
from DDA.settings import check_at_least

PROGRAM = "report.py"
FLAGS = """
out path:EVAL  the folder that test_ensemble.py wrote
--images INT = 5  shown of each corruption
--clean find:PATH  the clean originals, where the degraded tree does not tell them
--title TEXT = 'Classifying images whose degradation is unknown'
"""


def main(argv: list[str] | None = None) -> int:
    """Write the report and return the exit status."""
    return commands.run(parser(), argv, _work, "run the same command again")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS)


def check(values: dict[str, Any], ranks: int = 1) -> None:
    """Raise ValueError for values that the command would refuse, without opening anything."""
    check_at_least(0, images=values["images"])


def _work(values: dict[str, Any], output: commands.Output) -> int:
    from DDA.model_adapt.page import write

    check(values)
    paths = write(values["out"], values["images"], values["title"], values["clean"])
    gallery = f"gallery     {paths[-1]}\n" if values["images"] else ""
    output.result(f"{gallery}report      {paths[0]}", {"files": paths})
    return 0


if __name__ == "__main__":
    sys.exit(main())
