"""launch/: what the scripts start, under a real SLURM where one is installed, and the JobSet's fields."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cnn_jax.tracking.recorder import read_jsonl
from several_processes import SMALL, free_port

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
AWKWARD = ("--config.data.augment=('pad_crop:2',)", "--workdir=a folder/$HOME")
ENDLESS = (
    "--config.duration=1000000steps",
    "--config.eval.every=1000000steps",
    "--config.checkpoint.every=1000000steps",
)


def environment(**more):
    known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one
    return known | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | more


def printed(script, *arguments, **variables):
    """Returns the commands that a dry run prints, each as the words that a shell makes of it."""
    line = [str(LAUNCH / script), *arguments]
    result = subprocess.run(line, env=environment(DRY_RUN="1", **variables), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    shellcheck = shutil.which("shellcheck", path=environment()["PATH"])
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# ---------------------------------------------------------------- several processes of this machine


def test_local_starts_every_process_with_its_place_and_gpus():
    commands = printed("local.sh", *AWKWARD, PROCESSES="3", PORT="1234")
    train = ["python", "-u", "-m", "cnn_jax.main", "--coordinator=localhost:1234", "--processes=3"]
    assert commands == [[*train, f"--process={process}", *AWKWARD] for process in range(3)]
    commands = printed("local.sh", PROCESSES="2", GPUS_PER_PROCESS="2")
    assert [command[:2] for command in commands] == [["env", f"CUDA_VISIBLE_DEVICES={ids}"] for ids in ("0,1", "2,3")]


def local(*arguments, **variables):
    line = [str(LAUNCH / "local.sh"), *SMALL, "--heartbeat-timeout=10", *arguments]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    own = environment(PROCESSES="2", PORT=str(free_port()), **variables)
    return subprocess.Popen(line, cwd=ROOT, env=own, **pipes)


def wait_for_first_step(process):
    assert any(line.startswith("first step") for line in process.stdout)


@pytest.mark.slow
def test_local_trains(tmp_path):
    process = local("--config.duration=6steps", "--config.log.every=2steps", f"--workdir={tmp_path}")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and "this is process 0 of 2" in out, out
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl") if record["kind"] == "train"] == [
        2,
        4,
        6,
    ]


@pytest.mark.slow
def test_local_passes_a_signal_to_all_processes(tmp_path):
    process = local(*ENDLESS, f"--workdir={tmp_path}")
    wait_for_first_step(process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 75 and out.count("checkpoint saved") == 2, out


def test_local_ends_the_others_with_the_code_of_one_that_fails(tmp_path):
    failing = tmp_path / "python"  # fails as process 1, stays for ever as process 0
    failing.write_text('#!/bin/sh\ncase "$*" in *--process=1*) exit 42;; esac\nexec sleep 1000\n')
    failing.chmod(0o755)
    own = environment(PROCESSES="2", GRACE="1")
    own["PATH"] = f"{tmp_path}{os.pathsep}{own['PATH']}"
    began = time.monotonic()
    result = subprocess.run([LAUNCH / "local.sh"], env=own, capture_output=True, text=True, timeout=60)
    assert result.returncode == 42, result.stderr
    assert 1 <= time.monotonic() - began < 30


# ---------------------------------------------------------------- TPU pods


def test_tpu_pod_quotes_the_command_once_more_for_the_hosts():
    (command,) = printed("tpu_pod.sh", *AWKWARD, TPU="pod", ZONE="zone", DIRECTORY="a clone")
    assert command[:7] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone"]
    assert command[7] == "--worker=all" and command[8].startswith("--command=") and len(command) == 9
    remote = shlex.split(command[8].removeprefix("--command="))
    assert remote == ["cd", "a clone", "&&", "exec", "python3", "-u", "-m", "cnn_jax.main", *AWKWARD]


def test_tpu_pod_needs_a_name():
    result = subprocess.run([LAUNCH / "tpu_pod.sh"], env=environment(), capture_output=True, text=True)
    assert result.returncode != 0 and "TPU: set it to the name of the TPU" in result.stderr


# ---------------------------------------------------------------- SLURM


def test_slurm_gives_every_job_and_every_task_of_an_array_its_folder():
    train = ["srun", "--kill-on-bad-exit=0", "--label", "python", "-u", "-m", "cnn_jax.main"]
    assert printed("slurm.sh", *AWKWARD, SLURM_JOB_ID="7") == [[*train, "--workdir=runs/slurm-7", *AWKWARD]]
    array = dict(SLURM_JOB_ID="9", SLURM_ARRAY_JOB_ID="8", SLURM_ARRAY_TASK_ID="1")
    assert printed("slurm.sh", **array) == [[*train, "--workdir=runs/slurm-8-1", "--config.seed=1"]]


@pytest.mark.parametrize(
    ("code", "restarts", "state", "queued"),
    [
        *((code, 0, "RUNNING", int(code in (74, 75, 134, 137, 143))) for code in (0, 1, 2, 3, 74, 75, 134, 137, 143)),
        (74, 1, "RUNNING", 1),
        (74, 2, "RUNNING", 0),
        (75, 3, "RUNNING", 1),
        (75, 4, "RUNNING", 0),
        (75, 0, "COMPLETING", 0),
    ],
)
def test_slurm_queues_a_running_job_again_by_its_exit_code(tmp_path, code, restarts, state, queued):
    for name, does in (("srun", f"exit {code}"), ("scontrol", 'echo "$@"'), ("squeue", f"echo {state}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    own = environment(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts), MAX_RESTARTS="4", MAX_STORAGE_RESTARTS="2")
    own["PATH"] = f"{tmp_path}{os.pathsep}{own['PATH']}"
    result = subprocess.run([LAUNCH / "slurm.sh"], env=own, capture_output=True, text=True)
    assert (result.returncode, result.stdout.count("requeue 7")) == (code, queued), result.stdout + result.stderr


CONFIGURATION = """
ClusterName=one
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=60
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=localhost PriorityTier=10 PreemptMode=off State=UP
"""


@pytest.fixture
def slurm(tmp_path):
    """A controller and a node of two processors on this machine; returns a function that calls SLURM's commands."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("munged", "slurmctld", "slurmd"))):
        pytest.skip("SLURM needs the packages slurm-wlm and munge, and root")
    folder = tmp_path / "slurm"
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    key, configuration = folder / "munge" / "key", folder / "slurm.conf"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    (folder / "munge").chmod(0o700)
    configuration.write_text(CONFIGURATION.format(folder=folder, controller=free_port(), node=free_port()))
    own = environment(SLURM_CONF=str(configuration))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder / 'munge' / name}" for option, name in files.items()]
    daemons = (
        ["munged", "--force", "--foreground", *options],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-N", "localhost", "-f", str(configuration)],
    )
    running = []

    def call(*words):
        result = subprocess.run(words, env=own, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout

    try:
        for daemon in daemons:
            running.append(subprocess.Popen(daemon, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(1)
        yield call
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=own)
        time.sleep(2)
    finally:
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(timeout=60)


@pytest.mark.nightly
def test_slurm_preempted_job_is_queued_again_and_resumes(tmp_path, slurm):
    log = tmp_path / "log"

    def wait_for(words, times=1):
        until = time.monotonic() + 500
        while (log.read_text() if log.exists() else "").count(words) < times:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)

    options = ("--parsable", "--ntasks=2", f"--output={log}")
    arguments = (*SMALL, *ENDLESS, "--heartbeat-timeout=100", f"--workdir={tmp_path / 'run'}")
    job = slurm("sbatch", *options, str(LAUNCH / "slurm.sh"), *arguments).strip()
    wait_for("first step after")
    slurm("sbatch", "--partition=high", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for("resuming from the checkpoint of step")
    text = log.read_text()
    saved = re.search(r"^\d: Stopped by a signal at step ([\d,]+)/.*; checkpoint saved", text, re.M)
    assert saved, text
    assert f"resuming from the checkpoint of step {saved[1]}" in text
    assert "exit code 75: queued again" in text and "process 1 of 2" in text
    assert " Restarts=1 " in slurm("scontrol", "show", "job", job)

    slurm("scancel", job)  # which is another signal, and no wish to be queued again
    wait_for("Stopped by a signal", times=4)
    time.sleep(5)
    assert "JobState=CANCELLED " in slurm("scontrol", "show", "job", job)
    assert log.read_text().count("queued again") == 1


# ---------------------------------------------------------------- Kubernetes

# The fields of jobset.x-k8s.io/v1alpha2, by hand: name -> type, or the fields below, or a list of one of both.
TEXTS = [str]
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "labels": dict, "annotations": dict},
    "spec": {
        "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
        "successPolicy": {"operator": str, "targetReplicatedJobs": TEXTS},
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": str,
            "rules": [
                {
                    "name": str,
                    "action": str,
                    "onJobFailureReasons": TEXTS,
                    "onJobFailureMessagePatterns": TEXTS,
                    "targetReplicatedJobs": TEXTS,
                }
            ],
        },
        "suspend": bool,
        "coordinator": {"replicatedJob": str, "jobIndex": int, "podIndex": int},
        "managedBy": str,
        "ttlSecondsAfterFinished": int,
        "replicatedJobs": [{"name": str, "groupName": str, "replicas": int, "template": dict, "dependsOn": list}],
    },
}


def check_fields(value, schema, where):
    if isinstance(schema, type):
        assert type(value) is schema, f"{where} is {value!r}"
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for i, item in enumerate(value):
            check_fields(item, schema[0], f"{where}[{i}]")
    else:
        for name, item in value.items():
            assert name in schema, f"{where} has no field {name}"
            check_fields(item, schema[name], f"{where}.{name}")


def jobset():
    return yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))


def test_the_jobset_has_known_fields():
    found = jobset()
    check_fields(found, JOBSET, "JobSet")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = found["spec"]["failurePolicy"]
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate", "InPlaceRestart")
    actions = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
    for rule in policy["rules"]:
        assert rule["action"] in actions and re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])


@pytest.mark.parametrize("wrong", [{"spec": {"replicas": 2}}, {"spec": {"failurePolicy": {"maxRestarts": "20"}}}])
def test_an_unknown_field_or_type_is_detected(wrong):
    with pytest.raises(AssertionError):
        check_fields(wrong, JOBSET, "JobSet")


def check_model(value, kind, client, where):
    """Checks a value against the type of Kubernetes' own client that is called `kind`, with all that it holds."""
    if kind.startswith("list["):
        for i, item in enumerate(value):
            check_model(item, kind[5:-1], client, f"{where}[{i}]")
    elif hasattr(client, kind):
        model = getattr(client, kind)
        names = {key: name for name, key in model.attribute_map.items()}
        assert set(value) <= set(names), f"{where} has no field {set(value) - set(names)}"
        for name, item in value.items():
            check_model(item, model.openapi_types[names[name]], client, f"{where}.{name}")
    else:
        simple = {"str": str, "int": int, "bool": bool}
        assert kind not in simple or type(value) is simple[kind], f"{where} is {value!r}, but must be {kind}"


def test_the_job_of_the_jobset_has_fields_that_kubernetes_knows():
    client = pytest.importorskip("kubernetes").client
    (job,) = jobset()["spec"]["replicatedJobs"]
    check_model(job["template"], "V1JobTemplateSpec", client, "template")
    with pytest.raises(AssertionError, match="has no field"):
        check_model({"spec": {"completion": 2}}, "V1JobTemplateSpec", client, "template")


def test_the_jobset_starts_its_pods_with_their_indices(tmp_path):
    found = jobset()
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert spec["completions"] == spec["parallelism"] == int(given["PROCESSES"])
    echo = tmp_path / "python"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    own = dict(PATH=f"{tmp_path}:{os.environ['PATH']}", JOB_COMPLETION_INDEX="1", PROCESSES="2")
    own["JOBSET"] = found["metadata"]["name"]
    result = subprocess.run([*container["command"], *container["args"]], env=own, capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        *("-u", "-m", "cnn_jax.main", f"--coordinator={own['JOBSET']}-{job['name']}-0-0.{own['JOBSET']}:4321"),
        *("--processes=2", "--process=1", *container["args"]),
    ]


# ---------------------------------------------------------------- preflight


@pytest.fixture
def echo(tmp_path):
    """A `python` that prints its words, one a line, and ends with CODE."""
    path = tmp_path / "bin" / "python"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit "${CODE:-0}"\n')
    path.chmod(0o755)
    return f"{path.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "tpu_pod.sh"])
@pytest.mark.parametrize("code", [0, 2])
def test_a_dry_run_for_a_topology_compiles_first(script, code, echo):
    own = environment(DRY_RUN="1", TOPOLOGY="v5e:4x4", CODE=str(code), TPU="pod", ZONE="zone") | {"PATH": echo}
    line = [LAUNCH / script, "--config=resnet50", *AWKWARD, "--noconfig.residual", "--extend"]
    result = subprocess.run(line, env=own, capture_output=True, text=True)
    compiled = ["-m", "cnn_jax", "preflight", "--for=v5e:4x4", "--config=resnet50", AWKWARD[0], "--noconfig.residual"]
    printed_first, rest = result.stdout.splitlines()[:7], result.stdout.splitlines()[7:]
    assert printed_first == compiled and result.returncode == code
    assert bool(rest) is (code == 0)  # what does not fit is not started


def test_preflight_needs_a_topology():
    result = subprocess.run([LAUNCH / "preflight.sh"], env=environment(), capture_output=True, text=True)
    assert result.returncode != 0 and "TOPOLOGY: set it to chips such as v5e:4x4" in result.stderr


# ---------------------------------------------------------------- the text


def test_the_flags_of_xla_in_the_text_are_those_of_the_installed_version():
    flags = re.findall(r"--xla_gpu_\w+=\w+", (LAUNCH / "README.md").read_text(encoding="utf-8"))
    assert len(flags) >= 3
    line = [sys.executable, "-c", "import jax; jax.devices()"]  # ends with an error at a flag that it does not know
    for given, known in ((flags, True), (["--xla_gpu_no_such_flag=true"], False)):
        result = subprocess.run(line, env=environment(XLA_FLAGS=" ".join(given)), capture_output=True, text=True)
        assert (result.returncode == 0) == known, result.stderr
