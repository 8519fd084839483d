# What the launchers share: their arguments, how they print commands, which exit code speaks for several processes.
# shellcheck shell=bash
# shellcheck disable=SC2034  # config, dry_run, train_args and the options are read by the scripts that source this

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${JHMR_PYTHON:-python}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# The comment at the top of a script is its help.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
}

# A command as one would type it.
quote() {
  local text
  printf -v text '%q ' "$@"
  printf '%s' "${text% }"
}

show() {
  printf '+ %s\n' "$(quote "$@")"
}

run() {
  show "$@"
  if [[ -z $dry_run ]]; then "$@"; fi
}

# parse SCRIPT "name name ..." "flag flag ..." ARGUMENTS...: the launcher's own options into opt_name, the config into
# `config`, everything meant for training into `train_args`. Options may stand anywhere; anything unknown is refused.
parse() {
  local script=$1 options=" $2 " flags=" $3 dry-run " arg name
  shift 3
  config='' dry_run='' train_args=()
  while (($#)); do
    arg=$1 name=${1#--}
    name=${name%%=*}
    shift
    case $arg in
      -h | --help)
        help "$script"
        exit 0
        ;;
      --config.*=* | --workdir=*) train_args+=("$arg") ;;
      --config.* | --workdir)
        (($#)) || die "$arg lacks its value"
        train_args+=("$arg=$1")
        shift
        ;;
      --*)
        if [[ $flags == *" $name "* && $arg != *=* ]]; then
          printf -v "opt_${name//-/_}" 1
        elif [[ $options == *" $name "* || $name == config ]]; then
          if [[ $arg != *=* ]]; then
            (($#)) || die "$arg lacks its value"
            arg=$arg=$1
            shift
          fi
          if [[ $name == config ]]; then config=${arg#*=}; else printf -v "opt_${name//-/_}" '%s' "${arg#*=}"; fi
        else
          die "unknown option $arg: see ${script##*/} --help"
        fi
        ;;
      *)
        [[ -z $config ]] || die "what is $arg? The config is $config; train flags start with --config. or --workdir"
        config=$arg
        ;;
    esac
  done
  dry_run=${opt_dry_run:-}
  [[ -n $config ]] || die "no config given: ${script##*/} configs/quickstart.py"
  [[ -f $config ]] || [[ -f ${config%:*} ]] || die "config $config does not exist (looked in $PWD)"
}

# whole NAME VALUE: dies unless VALUE is a whole number above 0.
whole() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "--$1 is '$2': give a whole number above 0"
}

# The one exit code that says what to do about several. A bug or wrong input first, since another try would not help;
# an interrupt; then a lost peer (the others see 3 when one is killed); a kill; preempted; done.
worst() {
  local code rank best=0 best_rank=0
  for code in "$@"; do
    case $code in
      0) rank=0 ;;
      75) rank=1 ;;
      3) rank=3 ;;
      130) rank=4 ;;
      2) rank=6 ;;
      1) rank=7 ;;
      *) if ((code > 128)); then rank=2; else rank=5; fi ;;
    esac
    if ((rank > best_rank)); then best=$code best_rank=$rank; fi
  done
  echo "$best"
}
