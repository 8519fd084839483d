#!/usr/bin/env bash
# Trains on a Cloud TPU slice: asks for it if told to, installs jhmr on every worker, runs the same command on all of
# them, and again after a preemption.
#
#   launch/tpu_pod.sh CONFIG --name NAME --zone ZONE --workdir DIR [--create --type TYPE [--spot]]
#                     [--config.key=value ...]
#
#   --name NAME        of the queued resource and of its TPU VM
#   --zone ZONE        such as us-east5-a
#   --project P        (default: gcloud's)
#   --workdir DIR      on a disk every worker has mounted at the same place
#   --create           ask for the slice if there is none of that name, and anew when it was taken away
#   --type TYPE        such as v4-64, v5litepod-64, v5p-128, v6e-64 (for --create)
#   --version V        software of the TPU VM (default: the one for TYPE)
#   --spot             cheaper, may be preempted
#   --poll S           seconds between looks at a slice that is not there yet (default 30)
#   --max-reruns N     how often to go on after a preemption or a lost worker (default 100)
#   --delete           give the slice back at the end, unless training ended with 1 or 2
#   --dry-run          print the commands, run nothing
#
# Each option may come from the environment: JHMR_TPU_NAME, JHMR_TPU_ZONE, JHMR_TPU_PROJECT, JHMR_TPU_TYPE,
# JHMR_TPU_VERSION. ^C or SIGTERM here is passed on to the workers: they save and end with 75, and so does this.
# The workers' disks are not shared: training writes to DIR from all of them, so a folder of one worker will not do.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
opt_name=${JHMR_TPU_NAME:-} opt_zone=${JHMR_TPU_ZONE:-} opt_project=${JHMR_TPU_PROJECT:-} opt_type=${JHMR_TPU_TYPE:-}
opt_version=${JHMR_TPU_VERSION:-} opt_create='' opt_spot='' opt_delete='' opt_poll=30 opt_max_reruns=100
parse "$0" "name zone project type version poll max-reruns" "create spot delete" "$@"
[[ -n $opt_name ]] || die "no slice named: add --name NAME"
[[ -n $opt_zone ]] || die "no zone given: add --zone ZONE"
[[ -z $opt_create || -n $opt_type ]] || die "--create needs --type TYPE, for example v5litepod-64"
[[ " ${train_args[*]-}" == *" --workdir="* ]] || die "no workdir given: add --workdir DIR on a disk all workers mount"
whole poll "$opt_poll"
whole max-reruns "$opt_max_reruns"
[[ -n $dry_run ]] || command -v gcloud > /dev/null || die "no gcloud here: install the Google Cloud CLI"

# Source: Google Cloud documentation, "TPU VM images": one image for each generation, a common one for v4 and older.
default_version() {
  case $opt_type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

pid_file=train.pid # in the folder that jhmr is copied to
where=(--zone="$opt_zone" ${opt_project:+"--project=$opt_project"})
queue=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
on_all=("${vm[@]}" ssh "$opt_name" "${where[@]}" --worker=all)

state() {
  "${queue[@]}" describe "$opt_name" "${where[@]}" --format='value(state.state)' 2> /dev/null || echo ABSENT
}

create() {
  run "${queue[@]}" create "$opt_name" --node-id="$opt_name" "${where[@]}" --accelerator-type="$opt_type" \
    --runtime-version="${opt_version:-$(default_version)}" ${opt_spot:+--spot}
}

remove() {
  run "${queue[@]}" delete "$opt_name" "${where[@]}" --force --quiet
}

# Until the slice is there; asks for it, if that was asked for, when there is none or it was taken away.
wait_for_slice() {
  local now
  show "${queue[@]}" describe "$opt_name" "${where[@]}" --format='value(state.state)'
  while [[ -z $dry_run ]]; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      ABSENT) if [[ -n $opt_create ]]; then create; else die "no slice $opt_name in $opt_zone: add --create"; fi ;;
      FAILED | SUSPENDED)
        [[ -n $opt_create ]] || die "slice $opt_name is $now: delete it, or add --create to have it asked for anew"
        remove
        continue
        ;;
    esac
    echo "+ $opt_name is $now: looking again in $opt_poll s"
    sleep "$opt_poll"
  done
  if [[ -n $opt_create ]]; then create; fi
}

# The library as it is here, and a Python it can use, which the images lack: uv brings it.
install() {
  local archive remote content=(jhmr configs pyproject.toml README.md LICENSE)
  archive=${TMPDIR:-/tmp}/jhmr-$opt_name.tar.gz
  run tar --create --gzip --file="$archive" --exclude=__pycache__ "${content[@]}" || return
  run "${vm[@]}" scp "$archive" "$opt_name:jhmr.tar.gz" "${where[@]}" --worker=all || return
  remote="set -e; mkdir -p jhmr; tar --extract --gzip --file=jhmr.tar.gz --directory=jhmr; cd jhmr;\
 python3 -m pip install --quiet --user uv; [ -d .venv ] || python3 -m uv venv --quiet --python 3.12 .venv;\
 python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'"
  run "${on_all[@]}" --command="$remote"
}

# One run on all workers. gcloud does not keep their exit codes apart, so each worker says its own at the end.
train() {
  local remote output codes
  # A worker whose connection was lost may still be training: it is stopped first.
  remote="cd jhmr; old=\$(cat $pid_file 2> /dev/null); kill -TERM \$old 2> /dev/null;\
 while kill -0 \$old 2> /dev/null; do sleep 1; done;\
 $(quote .venv/bin/python -m jhmr.train --config "$config" "${train_args[@]}") & echo \$! > $pid_file;\
 wait \$!; code=\$?; rm -f $pid_file; echo \"jhmr-exit-code \$code\"; exit \$code"
  show "${on_all[@]}" --command="$remote"
  if [[ -n $dry_run ]]; then return; fi
  output=$(mktemp)
  "${on_all[@]}" --command="$remote" < /dev/null 2>&1 | tee "$output" &
  until wait $!; do kill -0 $! 2> /dev/null || break; done # a trap ends the first wait; the workers are still saving
  read -ra codes <<< "$(sed -n 's/.*jhmr-exit-code \([0-9]*\).*/\1/p' "$output" | tr '\n' ' ')"
  rm -f "$output"
  code=$(worst ${codes[@]+"${codes[@]}"})
  if ((${#codes[@]} == 0)); then code=3; fi # not one worker lived to say how it ended
}

# shellcheck disable=SC2329  # the trap calls it
stop() {
  stopped=1
  run "${on_all[@]}" --command="kill -TERM \$(cat jhmr/$pid_file)" || true
}

code=0 stopped=''
trap stop TERM INT
for ((reruns = 0; ; reruns++)); do
  wait_for_slice
  if ! install; then
    [[ $(state) != ACTIVE ]] || die "jhmr could not be installed on $opt_name: its messages are above"
    continue # taken away meanwhile
  fi
  train
  if [[ -n $dry_run ]]; then break; fi
  echo "+ ended with exit code $code after $reruns reruns"
  if [[ -n $stopped ]] || ((reruns >= opt_max_reruns)); then break; fi
  if [[ ! $code =~ ^(75|3|134|137|143)$ ]]; then break; fi
done
if [[ -n $opt_delete && $code != 1 && $code != 2 ]]; then remove; fi
exit "$code"
