"""Threads that read ahead: the order of the results, what is held, and what happens when one fails or hangs."""

import subprocess
import sys
import threading
import time

import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.data.workers import read_ahead


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def wait_for_their_end():
    until = time.monotonic() + 30
    while workers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not workers()


@pytest.fixture(autouse=True)
def none_is_left():
    wait_for_their_end()
    yield
    wait_for_their_end()


def slow_first(item):
    time.sleep(0.02 if item % 4 == 0 else 0)
    return item * item


@pytest.mark.parametrize(("count", "ahead"), [(1, 0), (1, 3), (4, 2), (4, 9)])
def test_results_come_in_the_order_of_the_items(count, ahead):
    found = list(read_ahead(slow_first, range(30), workers=count, ahead=ahead, timeout=60))
    assert found == [i * i for i in range(30)]
    assert list(read_ahead(slow_first, [], workers=count, ahead=ahead, timeout=60)) == []


def test_reading_ahead_is_bounded():
    started = []

    def function(item):
        started.append(item)
        return item

    results = read_ahead(function, range(100), workers=4, ahead=5, timeout=60)
    for taken in range(1, 20):
        next(results)
        time.sleep(0.005)
        assert len(started) <= taken + 5
    results.close()
    wait_for_their_end()
    assert len(started) <= 19 + 5


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), ValueError("a defect"), SystemExit(3), TimeoutError("nfs")]
)
def test_an_error_in_a_worker_replaces_its_result(error):
    def function(item):
        if item >= 5:
            raise error
        return item

    taken = []
    with pytest.raises(type(error)) as found:
        for result in read_ahead(function, range(1000), workers=3, ahead=4, timeout=60):
            taken.append(result)
    assert found.value is error and taken == [0, 1, 2, 3, 4]


def test_a_worker_that_hangs_is_reported_and_not_waited_for():
    release = threading.Event()

    def function(item):
        if item == 2:
            release.wait()
        return item

    results = read_ahead(function, range(50), workers=2, ahead=3, timeout=1, describe="photo {}.jpg".format)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"photo 2.jpg could not be read in 1 s.*--config.data.timeout"):
        list(results)
    assert time.monotonic() - started < 20  # not forever
    assert any(thread.daemon for thread in workers())  # it still hangs
    release.set()


def test_a_program_with_a_worker_that_hangs_ends():
    script = (
        "import threading\n"
        "from cnn_jax.data.workers import read_ahead\n"
        "list(read_ahead(lambda i: threading.Event().wait(), range(3), workers=2, ahead=1, timeout=0.1))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "UserError: 0 could not be read in 0.1 s" in result.stderr
