#!/usr/bin/env bash
# Trains in several processes on this machine's CPU: what a cluster does, without one.
#
#   launch/local_multiprocess.sh CONFIG [--processes N] [--devices D] [--workdir DIR] [--config.key=value ...]
#
#   --processes N   how many (default 2)
#   --devices D     fake CPU devices of each (default 1)
#   --port P        of the coordinator on localhost (default: a free one)
#   --grace S       seconds the others have, once one has failed, before they are killed (default 60)
#   --dry-run       print the commands, run nothing
#
# Every line of process i starts with [i]. SIGTERM and SIGINT are passed on to all, a second one kills them. The exit
# code is the one that says what to do: a bug (1) or wrong input (2) before a lost peer (3) before preemption (75).
# JHMR_PYTHON is the Python to use (default: python).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
opt_processes=2 opt_devices=1 opt_port='' opt_grace=60
parse "$0" "processes devices port grace" "" "$@"
whole processes "$opt_processes"
whole devices "$opt_devices"
whole grace "$opt_grace"

# Below the range systems hand out by themselves (32768 and up), so that nobody takes it before the coordinator does.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    if ! (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
      echo "$port"
      return
    fi
  done
}

opt_port=${opt_port:-$(free_port)}
whole port "$opt_port"
# NPROC: with fewer threads than devices, XLA's CPU collectives wait for each other for ever.
export NPROC=${NPROC:-16} JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$opt_devices"
printf '+ export NPROC=%q JAX_PLATFORMS=cpu XLA_FLAGS=%q\n' "$NPROC" "$XLA_FLAGS"

command=("$python" -m jhmr.train --config "$config" ${train_args[@]+"${train_args[@]}"}
  "--coordinator=localhost:$opt_port" "--num_processes=$opt_processes")
for ((i = 0; i < opt_processes; i++)); do show "${command[@]}" "--process_id=$i"; done
if [[ -n $dry_run ]]; then exit 0; fi

pids=() readers=() codes=() signals=0

prefix() {
  local line
  trap '' INT TERM # ends with the process it reads, not before
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

# signal NAME: to the process group of everything that still runs; its data workers are in there too.
signal() {
  local i
  for i in "${!pids[@]}"; do
    if [[ -z ${codes[i]:-} ]]; then kill "-$1" -- "-${pids[i]}" 2> /dev/null || true; fi
  done
}

# shellcheck disable=SC2329  # the traps call it
forward() {
  signals=$((signals + 1))
  if ((signals == 1)); then
    echo "+ $1 passed on to every process; a second one kills them" >&2
    signal "$1"
  else
    signal KILL
  fi
}
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'signal KILL' EXIT

set -m # every process leads a group of its own: a ^C reaches it through us only
for ((i = 0; i < opt_processes; i++)); do
  exec 3> >(prefix "$i")
  readers+=($!)
  "${command[@]}" "--process_id=$i" < /dev/null >&3 2>&1 3>&- &
  pids+=($!)
  exec 3>&-
done
if ((signals > 0)); then signal TERM; fi # came while they were starting

deadline=0
while ((${#codes[@]} < opt_processes)); do
  for i in "${!pids[@]}"; do
    if [[ -n ${codes[i]:-} ]] || kill -0 "${pids[i]}" 2> /dev/null; then continue; fi
    codes[i]=0
    wait "${pids[i]}" 2> /dev/null || codes[i]=$?
    kill -KILL -- "-${pids[i]}" 2> /dev/null || true # what it left behind
    echo "+ process $i ended with exit code ${codes[i]}" >&2
    if ((codes[i] != 0 && deadline == 0)); then deadline=$((SECONDS + opt_grace)); fi
  done
  if ((deadline > 0 && SECONDS >= deadline && ${#codes[@]} < opt_processes)); then
    echo "+ $((opt_processes - ${#codes[@]})) left after $opt_grace s: killed" >&2
    signal KILL
    deadline=$((SECONDS + opt_grace))
  fi
  sleep 0.1
done
for reader in "${readers[@]}"; do # the last lines; not for ever, somebody may still hold the pipe
  for ((i = 0; i < 50; i++)); do
    if kill -0 "$reader" 2> /dev/null; then sleep 0.1; else break; fi
  done
done
exit "$(worst "${codes[@]}")"
