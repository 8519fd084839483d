#!/usr/bin/env bash
# Submits a training to SLURM: one process for each GPU, every process the same command, resumed until it is done.
#
#   launch/slurm.sh CONFIG --workdir DIR [--nodes N] [--gpus G] [--time T] [--sbatch ARG ...] [--config.key=value ...]
#
#   --workdir DIR      on a disk every node sees (required)
#   --nodes N          how many (default 1)
#   --gpus G           GPUs, and so processes, of each node (default 8)
#   --time T           limit of one run of the job, as sbatch takes it (default: the partition's)
#   --cpus C           CPU cores for each process (default 8)
#   --notice S         seconds before the time limit at which SIGTERM comes, to save the state (default 120)
#   --max-requeues N   how often the job may go back into the queue (default 100)
#   --sbatch ARGS      more arguments of sbatch, split at spaces: --sbatch "--partition=gpu --account=me"
#   --dry-run          print the commands, run nothing
#
# A run that ends preempted (75) or because a process was lost (3) or killed (134, 137, 143) goes back into the queue
# and resumes from DIR; 0, 1, 2 and everything else end the job. Its output is DIR/logs/slurm/JOB.out, appended to.
# `scancel JOB` ends it for good, `scancel --signal=TERM JOB` saves and requeues it. JHMR_PYTHON is the Python to use on
# the nodes (default: python).
#
# JAX takes addresses and process numbers from SLURM, and one GPU for each process: the one of its number on the node.
# So every task must see all GPUs of its node: --gpus-per-node, never --gpus-per-task.
set -euo pipefail

# --- one process: its exit code goes to a file, because srun reports only the highest
if [[ ${1:-} == --task ]]; then
  codes=$2
  shift 2
  trap : TERM INT # training got them too; stay, to write down how it ended
  code=0
  "$@" || code=$?
  echo "$code" > "$codes/$SLURM_PROCID"
  exit "$code"
fi

# --- inside the job
if [[ ${1:-} == --job ]]; then
  workdir=$2 num_tasks=$3 max_requeues=$4 dry_run=''
  shift 4
  source launch/common.sh
  codes=$workdir/logs/slurm/$SLURM_JOB_ID.codes
  rm -rf "$codes"
  mkdir -p "$codes"
  code=0
  # The others of a lost process end by themselves within a minute; --wait is for those that do not.
  run srun --kill-on-bad-exit=0 --wait=300 --label launch/slurm.sh --task "$codes" "$@" || code=$?
  read -ra all <<< "$(cat "$codes"/* 2> /dev/null | tr '\n' ' ')"
  if ((code != 0 && ${#all[@]} > 0)); then
    if ((${#all[@]} < num_tasks)); then all+=(137); fi # killed with its node, before it could say so
    code=$(worst "${all[@]}")
  fi
  restarts=${SLURM_RESTART_COUNT:-0}
  echo "+ ended with exit code $code (processes: ${all[*]-}) after $restarts requeues"
  if [[ $code =~ ^(75|3|134|137|143)$ ]] && ((restarts < max_requeues)); then
    run scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$code"
fi

# --- submission
cd "$(dirname "$0")/.."
source launch/common.sh
opt_nodes=1 opt_gpus=8 opt_time='' opt_cpus=8 opt_notice=120 opt_max_requeues=100 opt_sbatch=''
parse "$0" "nodes gpus time cpus notice max-requeues sbatch" "" "$@"
for name in nodes gpus cpus notice max_requeues; do
  value=opt_$name
  whole "${name//_/-}" "${!value}"
done
workdir=''
for arg in ${train_args[@]+"${train_args[@]}"}; do
  if [[ $arg == --workdir=* ]]; then workdir=${arg#*=}; fi
done
[[ -n $workdir ]] || die "no workdir given: add --workdir DIR on a disk every node sees"
[[ -n $dry_run ]] || command -v sbatch > /dev/null || die "no sbatch here: run this on a login node of the cluster"

read -ra more <<< "$opt_sbatch"
num_tasks=$((opt_nodes * opt_gpus))
job=(launch/slurm.sh --job "$workdir" "$num_tasks" "$opt_max_requeues"
  "$python" -m jhmr.train --config "$config" "${train_args[@]}")
submit=(sbatch --job-name="jhmr-$(basename "$workdir")" --nodes="$opt_nodes" --ntasks="$num_tasks"
  --ntasks-per-node="$opt_gpus" --gpus-per-node="$opt_gpus" --cpus-per-task="$opt_cpus"
  --signal="TERM@$opt_notice" --requeue
  --output="$workdir/logs/slurm/%j.out" --open-mode=append --chdir="$root" ${opt_time:+"--time=$opt_time"}
  ${more[@]+"${more[@]}"} --wrap="exec $(quote "${job[@]}")")
run mkdir -p "$workdir/logs/slurm"
run "${submit[@]}"
