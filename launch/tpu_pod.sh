#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU pod slice, each with one process, and shows what they print:
#
#   TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh --config=configs/resnet50.py:imagenet2012 --workdir=/mnt/shared/run
#   DRY_RUN=1 TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh --config=configs/resnet50.py    # prints the command
#
# With DRY_RUN=1 and TOPOLOGY, that of the slice (v5e:4x4, v4:2x2x4), training is compiled for it first; see preflight.sh.
#
# First, put the same clone at DIRECTORY (cnn_jax, below the home folder) of every host, and run there
# `pip install -e '.[tpu]'`, by the same `gcloud compute tpus tpu-vm ssh ... --worker=all`. The processes find each other
# by the pod's metadata. --workdir is a folder that all hosts see, such as Filestore, or one in a bucket (gs://).
#
# gcloud's exit code is that of a host. After 75, run the same command again: it resumes from the latest checkpoint. A
# preempted pod must be created again first.

set -euo pipefail

if [[ ${DRY_RUN:-} && ${TOPOLOGY:-} ]]; then
  "$(dirname "$0")/preflight.sh" "$@"
fi

arguments=$(printf '%q ' "$@") # quoted again, for the hosts' shells
remote="cd $(printf '%q' "${DIRECTORY:-cnn_jax}") && exec python3 -u -m cnn_jax.main $arguments"
command=(gcloud compute tpus tpu-vm ssh "${TPU:?set it to the name of the TPU}" "--zone=${ZONE:?set it to the zone of the TPU}"
  --worker=all "--command=$remote")

if [[ ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
