"""The documentation: its tables are those of the result files, and its scripts can be run."""

import itertools
import os
import sys

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_tables

from DDA.studies import pages


def blocks():
    """Return the tables of all pages, each with its comments."""
    texts = [path.read_text() for path in pages.documents()]
    return list(itertools.chain.from_iterable(map(pages.BLOCK.finditer, texts)))


def test_every_table_is_its_result_files(capsys):
    assert docs_tables.main(["--check"]) == 0, capsys.readouterr().out
    named = {block["file"] for block in blocks()}
    paths = (ROOT / "docs/results").glob("*.json")
    kept = {path.relative_to(ROOT).as_posix() for path in paths}
    assert named == kept and kept  # a result that no page shows is no result


def test_a_changed_number_is_found():
    for block in blocks():
        text, (start, end) = block.string, block.span("body")
        digit = next(i for i in range(end - 1, start, -1) if text[i].isdigit())
        other = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
        assert pages.filled(other) == text


def test_what_starts_as_a_script_can_be_run_as_one():
    folders = [ROOT / name for name in ("scripts", "DDA", "DistilledClassifier")]
    paths = itertools.chain.from_iterable(folder.rglob("*.py") for folder in folders)
    scripts = [path for path in paths if path.read_text().startswith("#!")]
    assert len(scripts) > 5 and all(os.access(path, os.X_OK) for path in scripts)
