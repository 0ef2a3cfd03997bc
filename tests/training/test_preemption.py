"""Signals, sent to processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from cnn_jax.training import preemption
from cnn_jax.training.preemption import NoSignals

SCRIPT = """
import hashlib, signal, sys, time
from cnn_jax.training.preemption import StopSignals
signal.signal(signal.SIGHUP, signal.{hangup})  # the tests may run under nohup
with StopSignals() as stop:
    stop.save_first({saves})
    print("ready", flush=True)
    # A call that gives Python's own handlers no chance to run for minutes, as compiling does.
    {call}
    print("received", stop.received, stop.requested(1), flush=True)
print("ended", flush=True)
time.sleep(60)
"""
LONG = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'
WAIT = "[time.sleep(0.01) for _ in range(6000) if stop.received is None]"
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@contextlib.contextmanager
def started(*, saves, call=LONG, hangup="SIG_DFL"):
    script = SCRIPT.format(saves=saves, call=call, hangup=hangup)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", STOPS)
def test_first_signal_waits_second_ends_even_in_a_long_call(number):
    with started(saves=True) as process:
        process.send_signal(number)
        expected = f"{number.name} received: finishing this step and saving. Send it again to quit now.\n"
        assert process.stderr.readline() == expected
        process.send_signal(number)  # as `timeout` does, which signals the process and then its group
        time.sleep(preemption.ECHO + 0.2)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == -number


@pytest.mark.parametrize("number", STOPS)
def test_signal_ends_the_process_if_nothing_is_unsaved(number):
    with started(saves=False) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", STOPS)
def test_loop_sees_the_signal_and_defaults_come_back(number):
    with started(saves=True, call=WAIT) as process:
        process.send_signal(number)
        assert process.stdout.readline() == f"received {number.name} True\n"
        assert process.stdout.readline() == "ended\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == -number


def test_hangup_stays_ignored_under_nohup():
    with started(saves=False, call="time.sleep(1)", hangup="SIG_IGN") as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "received None False\n"


def test_training_without_signals_leaves_handlers_alone():
    before = signal.getsignal(signal.SIGINT)
    with NoSignals() as stop:
        stop.save_first(True)
        assert signal.getsignal(signal.SIGINT) is before and not stop.requested(1)


def test_requests_of_a_loop_in_python():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    lines = []
    with preemption.requests(lines.append) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + 30
        while not received and time.monotonic() < until:
            time.sleep(0.01)
        assert received == ["SIGTERM"] and len(lines) == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
