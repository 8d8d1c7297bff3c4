"""The progress of long work: the first estimate, the rate and the time left."""

import io
import time

import pytest

from DDA.progress import Progress, duration


def test_progress_gives_an_estimate_then_the_rate_and_the_time_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = Progress(100, 1, stream)
    for seconds, written, failed in ((10, 10, 0), (15, 15, 0), (2, 2, 0), (13, 12, 1), (60, 60, 0)):
        clock[0] += seconds
        progress.add([(written, failed)])
    assert stream.getvalue().splitlines() == [
        "first 10 in 10 s: about 1 min 30 s for the rest",
        "25/100 images, 1 images/s, 1 min 15 s left",
        "40/100 images, 1 failed, 1 images/s, 1 min 0 s left",
        "100/100 images, 1 failed, 1 images/s, in 1 min 40 s",
    ]


@pytest.mark.parametrize(
    ("total", "ranks", "reports", "lines"),
    [
        # the estimate waits for an image, and the last line always comes
        (
            4,
            1,
            [(0, 1), (1, 0), (2, 0)],
            [
                "first 2 in 10 s: about 10 s for the rest",
                "4/4 images, 1 failed, 0.4 images/s, in 10 s",
            ],
        ),
        # it counts on the other ranks
        (80, 4, [(10, 0)], ["first 10 in 10 s: about 10 s for the rest"]),
    ],
)
def test_the_first_estimate(total, ranks, reports, lines):
    stream = io.StringIO()
    progress = Progress(total, ranks, stream)
    progress._started -= 10
    for report in reports:
        progress.add([report])
    assert stream.getvalue().splitlines() == lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (3660, "1 h 01 min"), (90000, "1 d 1 h")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
