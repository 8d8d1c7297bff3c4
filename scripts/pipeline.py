#!/usr/bin/env python3
"""Run the whole method from one YAML: prepare, degrade, adapt, train, distil, evaluate, report.

  scripts/pipeline.py scripts/pipelines/digits.yaml
  scripts/pipeline.py mine.yaml --dry_run             prints the commands
  scripts/pipeline.py mine.yaml --set out=elsewhere prior.minutes=10

Every stage is one or more of the project's commands, printed before it runs. Finished stages are
skipped and a stopped one goes on. A stage whose command changed is run again, and those after it.
Trees that were made otherwise are refused, not replaced: give another out. The first failure stops
the pipeline and says what to do.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
__import__("DDA")  # from here on both signals wait

from dataclasses import asdict
from typing import Any

from DDA import commands

PROGRAM = "pipeline.py"
FLAGS = """
config YAML
--set->changes NAME=VALUE+ = []  entries of the YAML
--dry_run  print the commands and stop
"""


def main(argv: list[str] | None = None) -> int:
    """Run the pipeline and return the exit status, or that of the stage that failed."""
    return commands.run(parser(), argv, _work, "run the same pipeline again to go on")


def parser() -> commands.Parser:
    """Return the parser of the command line."""
    return commands.parser(PROGRAM, __doc__, FLAGS)


def _work(values: dict[str, Any], output: commands.Output) -> int:
    from DDA.studies import pipeline
    from DistilledClassifier.experiments.settings import assignments

    changes = assignments(values["changes"])
    config, dry_run = Path(values["config"]), values["dry_run"]
    outcome = pipeline.run_config(config, changes, dry_run=dry_run, show=output)
    output.result(f"{outcome}", asdict(outcome))
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
