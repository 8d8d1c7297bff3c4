"""How Ctrl-C and SIGTERM end a command: in one line, from its first import to its last step.

Ctrl-C usually raises KeyboardInterrupt. Nothing catches it before ``main`` is called, and libraries
that are being imported may crash on it. So a command ends at once while its modules are imported,
and later waits for the end of an import. In programs of other people nothing changes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

# the programs whose first import of this package takes over Ctrl-C
COMMANDS = frozenset(
    (
        *("image_sample.py", "image_train.py", "make_data.py", "train.py", "train_all_deg.py"),
        *("test_ensemble.py", "test_corrupt.py", "gate.py", "predict.py", "report.py"),
        *("pipeline.py", "ladder.py", "search.py", "benchmark.py", "docs_tables.py"),
    )
)
GO_ON = "run the same command again to go on"
BOTH = (signal.SIGINT, signal.SIGTERM)


def begin() -> None:
    """Let a command that is interrupted while it imports its modules end in one line.

    It does nothing in other programs, and in those that ignore Ctrl-C or have their own answer.
    """
    is_command = bool(sys.argv) and os.path.basename(sys.argv[0]) in COMMANDS
    is_main = threading.current_thread() is threading.main_thread()
    if is_command and is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for number in BOTH:
            signal.signal(number, _leave)


def work() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt from now on, but not within an import.

    Outside of commands Ctrl-C stays as it is. It does nothing outside the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, _interrupt)


def end() -> None:
    """Let a command that has done its work end silently when it is interrupted."""
    if threading.current_thread() is threading.main_thread():
        for number in BOTH:
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at once: nothing is done yet."""
    text = f"{os.path.basename(sys.argv[0])}: interrupted; {GO_ON}\n"
    os.write(sys.__stderr__.fileno(), text.encode())
    os._exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or ask again in a moment where a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
