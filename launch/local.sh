#!/usr/bin/env bash
# Trains on every accelerator of this machine (or its CPU): launch/local.sh CONFIG [--dry-run] [more train flags]
set -euo pipefail
cd "$(dirname "$0")/.."
config=${1:?"usage: launch/local.sh configs/quickstart.py [--dry-run] [--config.key=value ...]"}
shift
dry=
args=()
for arg in "$@"; do
  if [[ $arg == --dry-run ]]; then dry=1; else args+=("$arg"); fi
done
command=(python -m jhmr.train --config "$config" "${args[@]}")
printf '+ %s\n' "${command[*]}"
if [[ -z $dry ]]; then exec "${command[@]}"; fi
