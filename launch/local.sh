#!/usr/bin/env bash
# Trains on every accelerator of this machine, or on its CPU, in one process.
#
#   launch/local.sh CONFIG [--workdir DIR] [--config.key=value ...] [--dry-run]
#
# The same command again resumes. JHMR_PYTHON is the Python to use (default: python). Exit codes: launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
parse "$0" "" "" "$@"

command=("$python" -m jhmr.train --config "$config" ${train_args[@]+"${train_args[@]}"})
show "${command[@]}"
if [[ -z $dry_run ]]; then exec "${command[@]}"; fi
