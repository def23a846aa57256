#!/usr/bin/env bash
# Submit a test to Slurm, on one or more GPUs; options are those of slurm_train.sh.
#
#   tools/slurm_test.sh -p PARTITION [-N NODES] [-g GPUS_PER_NODE] ... CONFIG CHECKPOINT [ARGUMENT OF test.py]...
set -euo pipefail
tools=$(realpath "$(dirname "$0")")
export SCRIPT=$tools/test.py
exec "$tools/slurm_train.sh" "$@"
