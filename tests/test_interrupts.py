"""Ctrl-C and SIGTERM while a command starts."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from DDA import interrupts

SCRIPT = ROOT / "DDA/image_adapt/scripts/image_sample.py"
# stands for a library, asks its process to stop, and is imported in spite of that
LIBRARY = """
import os, signal, sys, time
os.kill(os.getpid(), signal.{number})
time.sleep(0.2)
sys.path.remove({folder!r})
del sys.modules[{name!r}]
import {name}
"""


@contextlib.contextmanager
def handlers_kept():
    before = {number: signal.getsignal(number) for number in interrupts.BOTH}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("folder", ["DistilledClassifier", "bin"])
def test_a_program_of_somebody_else_beside_ours_is_ended_as_ever(tmp_path, folder, number):
    """It imports the library, and never calls what lets a signal through."""
    place = ROOT / folder if folder != "bin" else Path(sys.executable).parent
    code = f"""
import os, signal, sys, types
sys.modules["__main__"] = types.ModuleType("__main__")
sys.modules["__main__"].__file__ = {str(place / "mine.py")!r}
import DDA
print("imported", flush=True)
os.kill(os.getpid(), signal.{number})
print("alive", flush=True)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout == "imported\n" and run.returncode != 0


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("launcher", [(), ("mpiexec", "-n", "2")])
@pytest.mark.parametrize("name", ["dataclasses", "numpy"])  # among the first, and among the last
def test_a_command_that_is_interrupted_while_it_imports_says_so_in_a_line(
    tmp_path, launcher, number, name
):
    if launcher:
        pytest.importorskip("mpi4py")
    text = LIBRARY.format(number=number, folder=str(tmp_path), name=name)
    (tmp_path / f"{name}.py").write_text(text)
    flags = ["--model_path", tmp_path / "prior.pt", "--base_samples", tmp_path]
    words = [*launcher, sys.executable, SCRIPT, *flags, "--save_dir", tmp_path / "out"]
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    run = subprocess.run(
        list(map(str, words)),
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 130, run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("image_sample.py")]
    assert len(set(lines)) == len(lines) and not set(lines) - {
        f"image_sample.py: interrupted{who}; run the same command again to go on"
        for who in ("", " (rank 0 of 2)", " (rank 1 of 2)")
    }
    assert lines and "Traceback" not in run.stderr


def test_an_import_ends_before_keyboard_interrupt_is_raised(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asks.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(0.1)\nDONE = True\n"
    )
    with handlers_kept():
        interrupts.allow()
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module("asks")
            signal.sigtimedwait([], 5)  # a wait that a signal ends
    assert sys.modules.pop("asks").DONE


def test_other_programs_keep_their_own_answer_to_ctrl_c():
    def answer(*_):
        pass

    with handlers_kept():
        signal.signal(signal.SIGINT, answer)
        interrupts.hold()
        assert not set(interrupts.BOTH) & signal.pthread_sigmask(signal.SIG_BLOCK, ())
        interrupts.allow()
        assert signal.getsignal(signal.SIGINT) is answer
        interrupts.end()
        assert signal.getsignal(signal.SIGINT) is answer


def test_a_main_function_that_another_program_calls_leaves_its_answers_to_signals():
    with handlers_kept():
        for number in interrupts.BOTH:
            signal.signal(number, signal.default_int_handler)
        before = [signal.getsignal(number) for number in interrupts.BOTH]
        for _ in range(2):
            interrupts.allow()
            assert all(signal.getsignal(number) not in before for number in interrupts.BOTH)
            interrupts.end()
            assert [signal.getsignal(number) for number in interrupts.BOTH] == before
