"""What happens to a run of several processes when one of them is stopped, killed, or fails: with real processes."""

import signal
import time

import pytest
from several_processes import finish, free_port, started, wait_for

from cnn_jax.checkpoint import Checkpoints

ENDLESS = ("--config.duration=1000000steps", "--config.eval.every=1000000steps", "--config.log.every=10steps")


def last_line(text):
    return text.strip().splitlines()[-1]


def test_a_signal_at_one_process_stops_all_at_the_same_step_which_is_saved(tmp_path):
    with started(2, *ENDLESS, f"--workdir={tmp_path}") as running:
        wait_for(running[0], "first step")
        running[1].send_signal(signal.SIGTERM)
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (75, 75), err + other_err
    said, other_said = last_line(err), last_line(other_err)
    assert said.startswith("stopped by a signal at another process after step ")
    assert other_said.startswith("stopped by SIGTERM after step ")
    assert said.split(" after ")[1] == other_said.split(" after ")[1]
    step = int(said.split("after step ")[1].split()[0].replace(",", ""))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(pytest.fail) == step


@pytest.mark.parametrize(("killed", "name"), [(1, "process 1"), (0, "process 0, the coordinator,")])
def test_where_one_process_is_killed_the_others_end_soon_and_name_it(tmp_path, killed, name):
    arguments = ("--config.batch_size=33", "--config.eval.batch_size=33", *ENDLESS)
    with started(3, *arguments, f"--workdir={tmp_path}", heartbeat=5) as running:
        wait_for(running[0], "first step")
        running[killed].kill()
        began = time.monotonic()
        ended = finish(running)
        assert time.monotonic() - began < 60
    assert ended[killed][0] == -signal.SIGKILL
    for process, (code, _, err) in enumerate(ended):
        if process != killed:
            assert code == 76, err
            assert last_line(err) == (
                f"error: {name} of 3 is lost: it was killed, or its machine cannot be reached; process {process} of 3 "
                "stops, too. The same command goes on from the latest checkpoint"
            )


def test_an_error_of_one_process_is_the_message_and_the_exit_code_of_all(tmp_path):
    (tmp_path / "file").write_text("")
    with started(2, *ENDLESS, f"--workdir={tmp_path / 'file' / 'run'}") as running:
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (74, 74)
    assert "file/run cannot be made: Not a directory" in err
    assert last_line(other_err).startswith("error: process 0, the coordinator, of 2 ended: ")
    assert "file/run cannot be made: Not a directory" in other_err


def test_a_coordinator_that_is_not_there_is_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=1", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, _, err),) = finish(running)
    assert code == 2 and f"process 1 of 2 cannot reach process 0 at {where} within 2 s: Connection refused" in err


def test_processes_that_do_not_come_are_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=0", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, _, err),) = finish(running)
    assert code == 2 and last_line(err).startswith(f"error: not all 2 processes came to {where} in time")
