"""Large blocks are kept for the next request of their size, within the memory that a process needed at once."""

import json
import subprocess
import sys

import pytest

from cnn_jax.core import large_arrays
from commands import environment

LIBRARY = large_arrays._allocator() if large_arrays._is_new_glibc() else None
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C++ compiler, or not glibc 2.35")

# In a process of its own, where the library is loaded before the C library.
START = """
import ctypes, json, mmap, os, threading, time
libc = ctypes.CDLL(None)
for name in ("aligned_alloc", "realloc", "malloc"):
    getattr(libc, name).restype = ctypes.c_void_p
    getattr(libc, name).argtypes = [ctypes.c_void_p if name == "realloc" else ctypes.c_size_t] + [ctypes.c_size_t]
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.malloc_usable_size.argtypes = [ctypes.c_void_p]
libc.malloc_usable_size.restype = ctypes.c_size_t
MB = 2**20
def take(size, *, write=True):
    p = libc.aligned_alloc(64, size)
    if write:
        ctypes.memset(p, 7, size)
    return p
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE / MB
def say(*values):
    print(json.dumps(values))
"""


def run(script):
    """Returns what a script says, line by line."""
    variables = environment() | {"LD_PRELOAD": str(LIBRARY), "GLIBC_TUNABLES": ""}
    result = subprocess.run([sys.executable, "-c", START + script], env=variables, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_block_is_kept_for_the_next_of_its_size_as_it_was():
    ((same, kept, other, huge),) = run("""
first = take(100 * MB); libc.free(first)
second = take(100 * MB - 5, write=False)
content = ctypes.string_at(second + 99 * MB, 3)
third = take(64 * MB, write=False)
say(first == second, content == b"\\7" * 3, third != second, first % (2 * MB) == 0)
""")
    assert same and kept and other and huge


def test_blocks_of_one_size_at_once_leave_as_little_as_without():
    ((most, least),) = run("""
before = resident()
blocks = [take(64 * MB) for _ in range(4)]
most = resident() - before
for block in blocks:
    libc.free(block)
say(most, resident() - before)
""")
    assert most > 250 and least < 10


def test_all_blocks_never_exceed_what_was_in_use_at_once():
    ((most,),) = run("""
before, most = resident(), 0
for size in (200, 100, 64, 128, 200, 40):
    p = take(size * MB)
    most = max(most, resident() - before)
    libc.free(p)
say(most)
""")
    assert 195 < most < 210


def test_small_arrays_are_left_to_the_c_library():
    ((aligned, usable, moved),) = run("""
p = take(MB)
q = libc.realloc(p, 3 * MB)
say(p % 64 == 0, libc.malloc_usable_size(q) >= 3 * MB, ctypes.string_at(q + MB - 1, 1) == b"\\7")
libc.free(q)
libc.free(None)
""")
    assert aligned and usable and moved


def test_a_block_can_be_resized():
    ((usable, larger, smaller),) = run("""
p = take(64 * MB)
usable = libc.malloc_usable_size(p)
q = libc.realloc(p, 70 * MB)
larger = ctypes.string_at(q + 64 * MB - 1, 1) == b"\\7"
r = libc.realloc(take(64 * MB), 100)
say(usable == 64 * MB, larger, ctypes.string_at(r, 100) == b"\\7" * 100)
libc.free(q)
libc.free(r)
""")
    assert usable and larger and smaller


def test_a_request_waits_a_little_for_the_block_of_its_size():
    ((waited, gave_up),) = run("""
def given_back_meanwhile():
    p = take(64 * MB)
    timer = threading.Timer(0.001, libc.free, [p])
    timer.start()
    q = take(64 * MB, write=False)
    timer.join()
    libc.free(q)
    return p == q
waited = any(given_back_meanwhile() for _ in range(50))  # a busy machine may start the timer late
say(waited, take(64 * MB) != take(64 * MB))
""")
    assert waited and gave_up


def test_threads_and_children_share_it_safely():
    (results,) = run("""
def work():
    for i in range(50):
        p = take((32 + i % 3) * MB, write=False)
        ctypes.memset(p, i, 4096)
        good.append(ctypes.string_at(p + 4095, 1) == bytes([i]))
        libc.free(p)
good = []
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
codes = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        libc.free(take(40 * MB, write=False))
        os._exit(3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for thread in threads:
    thread.join()
say(len(good), all(good), codes)
""")
    assert results == [200, True, [3] * 5]
