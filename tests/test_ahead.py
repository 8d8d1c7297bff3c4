"""Work that is prepared in threads."""

import threading
import time

import pytest

from DDA.ahead import prepared


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_whatever_finishes_first(threads):
    def slow(item):
        time.sleep(0.01 * (item % 3))
        return item * item

    assert list(prepared(slow, range(12), threads=threads)) == [item * item for item in range(12)]


def test_no_more_than_asked_wait_and_an_error_comes_out_in_its_place():
    begun = []

    def work(item):
        begun.append(item)
        return 1 / (item - 5)

    results = prepared(work, range(100), threads=2, most=3)
    assert next(results) == 1 / -5
    time.sleep(0.1)
    assert len(begun) <= 4
    with pytest.raises(ZeroDivisionError):
        list(results)
    time.sleep(0.2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert len(begun) < 20
