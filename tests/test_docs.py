"""The documentation: its tables are those of the result files, and its scripts can be run."""

import os
import sys

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_tables

from DDA.studies import pages


def test_every_table_is_its_result_files(capsys):
    assert docs_tables.main(["--check"]) == 0, capsys.readouterr().out
    named = [
        found["file"]
        for path in pages.documents()
        for found in pages.BLOCK.finditer(path.read_text())
    ]
    kept = sorted(
        path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/results").glob("*.json")
    )
    assert sorted(set(named)) == kept and kept  # a result that nobody shows is no result


def test_a_changed_number_is_found():
    texts = [path.read_text() for path in pages.documents()]
    changed = 0
    for text in texts:
        for found in pages.BLOCK.finditer(text):
            start, end = found.span("body")
            digit = next(i for i in range(end - 1, start, -1) if text[i].isdigit())
            other = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
            assert pages.filled(other) == text
            changed += 1
    assert changed


def test_what_starts_as_a_script_can_be_run_as_one():
    there = [
        path
        for folder in ("scripts", "DDA", "DistilledClassifier")
        for path in (ROOT / folder).rglob("*.py")
    ]
    scripts = [path for path in there if path.read_text().startswith("#!")]
    assert len(scripts) > 5 and all(os.access(path, os.X_OK) for path in scripts)
