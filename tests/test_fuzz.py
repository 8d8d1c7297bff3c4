"""Mutated files and command lines, for some seconds by default and for an hour as ``slow``.

tests/fuzz.py makes the cases. FUZZ_SECONDS is another time for the slow test.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = float(os.environ.get("FUZZ_SECONDS", "3600"))


@pytest.mark.parametrize(
    ("seconds", "seed"), [(15, 0), pytest.param(SLOW, 1, marks=pytest.mark.slow)]
)
def test_mutated_files_are_read_or_refused_in_words(seconds, seed, capsys):
    fuzz = Path(__file__).with_name("fuzz.py")
    result = subprocess.run(
        [sys.executable, fuzz, "--seconds", str(seconds), "--seed", str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    with capsys.disabled():
        print(f"\n{result.stdout.splitlines()[-1] if result.stdout else result.stderr}")
    cases = re.search(r"^([\d,]+) cases .*, 0 faults", result.stdout, re.MULTILINE)
    assert result.returncode == 0 and cases, (result.stdout + result.stderr)[-3000:]
    assert int(cases[1].replace(",", "")) > 10 * seconds
