#!/usr/bin/env bash
# Trains with several processes on this machine, which share its GPUs or its CPUs:
#
#   PROCESSES=2 launch/local.sh --config=configs/lenet5.py --workdir=runs/two
#   DRY_RUN=1 PROCESSES=2 launch/local.sh --config=configs/lenet5.py    # prints the commands
#   DRY_RUN=1 TOPOLOGY=a100x2 launch/local.sh ...                       # compiles for two GPUs first; see preflight.sh
#
# One process uses all devices of a machine: start several to try what a cluster will do. With GPUS_PER_PROCESS=1 each
# process sees its own GPU. PORT (4321) is the port of process 0.
#
# SIGTERM and Ctrl-C go to all processes, which save. If one fails, jax's runtime ends the others within GRACE (120) seconds;
# any that are left then are killed. The script exits with the first exit code that is not 0.

set -euo pipefail

processes=${PROCESSES:-2}
gpus=${GPUS_PER_PROCESS:-0}
if [[ ! $processes =~ ^[1-9][0-9]*$ || ! $gpus =~ ^[0-9]+$ ]]; then
  echo "PROCESSES is '$processes' and GPUS_PER_PROCESS is '$gpus', but they must be numbers, and PROCESSES at least 1" >&2
  exit 2
fi
if [[ ${DRY_RUN:-} && ${TOPOLOGY:-} ]]; then
  "$(dirname "$0")/preflight.sh" "$@"
fi
set -m # separate process groups: Ctrl-C reaches the processes only through this script, as one signal

running=()
for ((process = 0; process < processes; process++)); do
  command=(python -u -m cnn_jax.main "--coordinator=localhost:${PORT:-4321}" "--processes=$processes"
    "--process=$process" "$@")
  if ((gpus)); then
    visible=$(seq -s, $((process * gpus)) $((process * gpus + gpus - 1)))
    command=(env "CUDA_VISIBLE_DEVICES=$visible" "${command[@]}")
  fi
  if [[ ${DRY_RUN:-} ]]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}" &
    running+=($!)
  fi
done

pass_on() { kill -s "$1" "${running[@]}" 2>/dev/null || true; }
trap 'pass_on TERM' TERM INT HUP EXIT

code=0
while ((${#running[@]})); do
  left=()
  for process in "${running[@]}"; do
    if kill -0 "$process" 2>/dev/null; then
      left+=("$process")
      continue
    fi
    ended=0
    wait "$process" || ended=$?
    if ((ended && !code)); then
      code=$ended
      failed=$SECONDS
    fi
  done
  running=(${left[@]+"${left[@]}"})
  if ((code && ${#running[@]} && SECONDS - failed > ${GRACE:-120})); then # SECONDS counts whole seconds: > never ends early
    pass_on KILL
  fi
  sleep 0.2
done
exit "$code"
