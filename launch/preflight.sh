#!/usr/bin/env bash
# Compiles training for the chips of a cluster on a machine without them, before you queue a job:
#
#   TOPOLOGY=v5e:4x4 launch/preflight.sh --config=resnet50:imagenet2012 --config.batch_size=4096
#
# The other scripts call it first with DRY_RUN=1 and TOPOLOGY. Options that do not change what is compiled, such as
# --workdir, are left out. Exit code 2: it does not fit, or the command has a mistake.

set -euo pipefail

options=()
for word in "$@"; do
  case $word in
    --config=* | --config.*=* | --noconfig.* | --from=*) options+=("$word") ;;
  esac
done
exec python -m cnn_jax preflight "--for=${TOPOLOGY:?set it to chips such as v5e:4x4 or h100x16}" ${options[@]+"${options[@]}"}
