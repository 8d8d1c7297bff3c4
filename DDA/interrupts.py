"""Ctrl-C and SIGTERM end a command in one line, from its first import to its last step.

Both raise KeyboardInterrupt, which somebody must catch, and libraries that are being imported may
crash on it. So the two signals wait from the first import of a command until its main function has
begun, and later until an import is over. In programs of other people nothing changes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

BOTH = (signal.SIGINT, signal.SIGTERM)
# The programs that call `allow`. In any other one both signals would wait for ever.
COMMANDS = (
    *("image_sample.py", "image_train.py", "make_data.py", "import_classifier.py", "train.py"),
    *("train_all_deg.py", "test_corrupt.py", "test_ensemble.py", "gate.py", "predict.py"),
    *("advise.py", "report.py", "pipeline.py", "ladder.py", "search.py", "benchmark.py"),
    "docs_tables.py",
)
_FOLDERS = ("DDA", "DistilledClassifier", "scripts")  # those of the commands in a checkout
_held: set[int] = set()  # the signals of a process that is a command
_after: dict[int, object] = {}  # what answers a signal when a main function is done


def hold() -> None:
    """Let both signals wait until `allow`, if this process is a command of ours.

    A worker of a command is none: its main file is not known while it is imported again.
    """
    path = getattr(sys.modules["__main__"], "__file__", None) or ""
    package = os.path.dirname(os.path.realpath(__file__))
    homes = [os.path.join(os.path.dirname(package), name, "") for name in _FOLDERS]
    installed = os.path.dirname(path) == os.path.dirname(sys.executable)
    is_ours = installed or os.path.realpath(path).startswith(tuple(homes))
    if os.path.basename(path) in COMMANDS and is_ours:
        _held.update(BOTH)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)


def allow() -> None:
    """Let both signals raise KeyboardInterrupt from now on, those that wait too.

    It does nothing outside the main thread, and nothing about Ctrl-C where it is ignored or
    somebody else answers it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in BOTH:
        handler = signal.getsignal(number)
        if number == signal.SIGTERM or handler is signal.default_int_handler:
            if handler is not _interrupt:
                # a command is about to end then
                is_ours = number in _held or handler is None
                _after[number] = signal.SIG_DFL if is_ours else handler
            signal.signal(number, _interrupt)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BOTH)


def end() -> None:
    """Let a command that is done, or that says that it was interrupted, end without more words.

    Where another program has called its main function, signals are answered as before.
    """
    if threading.current_thread() is threading.main_thread():
        for number, handler in _after.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)


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
