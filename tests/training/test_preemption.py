import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cnn_jax.training.preemption import StopSignals

SCRIPT = """
import hashlib, signal, sys, time
from cnn_jax.training.preemption import StopSignals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
with StopSignals(lambda text: print(text, flush=True)) as stop:
    {held}
    print("ready", flush=True)
    # A call that gives Python's own handlers no chance to run for minutes, as compiling does.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@contextlib.contextmanager
def started(held):
    script = SCRIPT.format(held="stop.hold()" if held else "")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_waits_and_the_second_ends_the_process_even_in_a_long_call(number):
    with started(held=True) as process:
        process.send_signal(number)
        expected = f"{number.name}: the step under way is finished and saved; a second signal stops at once\n"
        assert process.stdout.readline() == expected
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number


def test_where_nothing_is_held_the_first_signal_ends_the_process():
    with started(held=False) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM: stopped at once; there was nothing to save\n"
        assert process.wait(timeout=30) == 75


def test_a_signal_is_seen_by_the_loop_and_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    said = []
    with StopSignals(said.append) as stop:
        stop.hold()
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 30
        while stop.received is None and time.monotonic() < until:
            time.sleep(0.01)
        assert stop.received == "SIGTERM" and len(said) == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "stop-signals"]


def test_outside_of_the_main_thread_it_does_nothing():
    seen = []

    def work():
        with StopSignals(print) as stop:
            stop.hold()
            stop.release()
            seen.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(pytest.fail) as stop:
            stop.hold()
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
