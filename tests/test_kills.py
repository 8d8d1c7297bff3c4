"""The campaign of kills (tests/kills.py): how it compares trees, and all of it as ``slow``.

KILLS is another number of kills for the slow test, and KILLS_WORK a folder that lets it go on.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import kills
import numpy as np
import pytest


def test_trees_are_compared_without_what_tells_of_a_run(tmp_path):
    def tree(name, stamp, seconds, loss):
        folder = tmp_path / name / stamp
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps({"seconds": seconds, "loss": loss}))
        np.savez(folder / "scores.npz", first=np.full(3, loss), digest=np.array(stamp))
        return kills.contents(tmp_path / name)

    whole = tree("whole", "20250101_000000_000001", 1.5, 0.25)
    assert sorted(whole) == ["run/scores.npz", "run/settings.json"]
    assert kills.compare(whole, tree("same", "20260101_000000_000001", 2.5, 0.25)) == []
    other = tree("other", "20260101_000000_000001", 1.5, 0.5)
    assert kills.compare(whole, other) == ["other run/scores.npz", "other run/settings.json"]
    left = {**whole, "run/x.partial": ""}
    assert kills.compare(whole, left) == ["stray run/x.partial"]
    assert kills.compare(left, whole) == ["missing run/x.partial"]


def test_processes_are_known_by_their_mark_and_ended(tmp_path):
    mark, script = f"{tmp_path}/0/", "import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, kills.MARK: mark})
    try:
        while not (found := kills.processes(f"{tmp_path}/")):
            assert process.poll() is None
        assert found == [process.pid] and kills.processes(f"{tmp_path}/1") == []
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills.processes(mark) == []


def test_counts_are_those_of_the_signals_that_were_sent():
    sent = [{"signal": name} for name in ("SIGKILL", "SIGINT", "SIGKILL", None)]
    series = [{"number": 0, "job": "train", "kills": sent, "faults": ["stray x"]}]
    counts = kills.summary({"seed": 1, "series": series})
    assert counts["kills"] == 3 and counts["faults"] == 1
    assert counts["commands"] == {"train": {"SIGINT": 1, "SIGKILL": 2, "series": 1}}


@pytest.mark.slow
def test_commands_that_are_killed_again_and_again_end_with_the_same_files(tmp_path):
    pytest.importorskip("mpi4py")
    work, count = os.environ.get("KILLS_WORK", tmp_path / "work"), os.environ.get("KILLS", "1000")
    script = Path(kills.__file__)
    flags = ["--kills", count, "--work", work, "--json", tmp_path / "kills.json"]
    words = [sys.executable, script, *flags, "--minutes", "600"]
    result = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    counts = json.loads((tmp_path / "kills.json").read_text())
    assert counts["kills"] >= int(count) and counts["faults"] == 0
