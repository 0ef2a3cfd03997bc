#!/usr/bin/env bash
# Trains under SLURM: one process for each task, in the folder from which the job is submitted.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 launch/slurm.sh --config=configs/resnet50.py:imagenet2012
#   sbatch --array=0-2 launch/slurm.sh --config=configs/lenet5.py    # a run for each seed
#   DRY_RUN=1 launch/slurm.sh --config=configs/lenet5.py             # prints the command
#   DRY_RUN=1 TOPOLOGY=h100x16 launch/slurm.sh ...                   # compiles for 16 GPUs first; see preflight.sh
#
# The processes find each other by the variables that srun sets. On GPUs, start as many tasks as GPUs: each process
# takes the GPU with its number on the node, so all tasks of a node must see all of its GPUs (--gpus-per-node, not
# --gpus-per-task). Set partition, time limit and account by options of sbatch, as usual.
#
#SBATCH --job-name=cnn_jax
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM two minutes before the time limit, and when the job is preempted (GraceTime): the run saves and exits with 75.
#SBATCH --signal=TERM@120

set -euo pipefail

# A job keeps its number when it is queued again, and so its folder. Options on the command line come last and win.
job=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-JOB}}${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
arguments=("--workdir=runs/slurm-$job")
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  arguments+=("--config.seed=$SLURM_ARRAY_TASK_ID")
fi
# If one process fails, jax's runtime ends the others with a message: srun must wait for them.
command=(srun --kill-on-bad-exit=0 --label python -u -m cnn_jax.main "${arguments[@]}" "$@")

if [[ ${DRY_RUN:-} && ${TOPOLOGY:-} ]]; then
  "$(dirname "$0")/preflight.sh" "$@"
fi
if [[ ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

if [[ ${SLURM_CPUS_PER_TASK:-} ]]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it from sbatch
fi
trap : TERM # this script ignores the signal, to see how the processes end
code=0
"${command[@]}" || code=$?

# The same command resumes from the checkpoint after 75 (stopped by a signal, everything saved) and 128 or more (ended by a
# signal: 143 before anything could be saved, 137 killed, 134 because another process was lost); after 74 (storage refuses)
# a few times. A job that no longer counts as running was canceled, or SLURM queues it again after preemption.
restarts=${SLURM_RESTART_COUNT:-0}
if (((code == 75 || code >= 128) && restarts < ${MAX_RESTARTS:-100} ||
  code == 74 && restarts < ${MAX_STORAGE_RESTARTS:-5})) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  echo "exit code $code: queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
