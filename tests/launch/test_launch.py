"""The launchers print what they run and run what they print; processes are signalled, and never left behind."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import runs

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/open_benchmark.py:hmr,smoke"
SCRIPTS = {
    "local.sh": [],
    "local_multiprocess.sh": ["--processes", "3", "--devices=2"],
    "slurm.sh": ["--nodes=4", "--gpus", "8"],
    "tpu_pod.sh": ["--name=pod", "--zone", "us-east5-a", "--create", "--type=v5litepod-64", "--spot"],
}
# What each process of a run does, instead of training: $1 is its script, one line for each process.
STAND_IN = """#!/usr/bin/env bash
for arg in "$@"; do case $arg in --process_id=*) id=${arg#*=} ;; esac; done
id=${id:-${SLURM_PROCID:-0}}
eval "$(sed -n "$((id + 1))p" "$JHMR_STAND_IN")"
"""
UNTIL_TERM = "trap 'echo saved; exit 75' TERM; echo ready; for ((i = 0; i < 300; i++)); do sleep 0.1; done; exit 9"
HANG = "trap '' TERM; echo ready; for ((i = 0; i < 300; i++)); do sleep 0.1; done"


def launch(script, *args, path=None, **env):
  """The finished process of a launcher; `path` is a folder whose programs come first."""
  env = os.environ | {"JHMR_PYTHON": "python"} | env
  if path is not None:
    env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
  return subprocess.run([ROOT / "launch" / script, *args], capture_output=True, text=True, check=False, env=env,
                        timeout=60, stdin=subprocess.DEVNULL)


def printed(done):
  """The commands a launcher printed, as lists of arguments."""
  return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]


def program(path, text):
  path.write_text(text)
  path.chmod(0o755)
  return path


@pytest.fixture(name="stand_in")
def make_stand_in(tmp_path):
  """f(*lines) -> environment under which process i runs line i instead of training."""
  def make(*lines):
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    return {"JHMR_PYTHON": str(program(tmp_path / "stand_in", STAND_IN)), "JHMR_STAND_IN": str(tmp_path / "lines")}
  return make


# --- what every launcher does

@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_prints_the_training_command_and_runs_nothing(script, tmp_path):
  for name in ("python", "sbatch", "gcloud", "tar", "mkdir"):  # would leave a trace
    program(tmp_path / name, f"#!/bin/sh\ntouch {tmp_path}/ran\n")
  done = launch(script, CONFIG, *SCRIPTS[script], "--workdir", "/data/run", "--dry-run", path=tmp_path)
  assert done.returncode == 0 and not done.stderr
  assert f"jhmr.train --config {CONFIG} --workdir=/data/run" in done.stdout.replace("\\", "")
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_arguments_with_spaces_stay_whole(script):
  done = launch(script, CONFIG, *SCRIPTS[script], "--workdir=/data/my run", "--config.body=a 'b' $c", "--dry-run")
  words = [w for c in printed(done) for w in c]
  for _ in range(3):  # SLURM's and ssh's commands are quoted again inside
    words += [inner for w in words if "jhmr" in w and " " in w for inner in shlex.split(w.removeprefix("--wrap="))]
  assert "--workdir=/data/my run" in words and "--config.body=a 'b' $c" in words


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_top(script):
  for flag in ("--help", "-h"):
    done = launch(script, flag)
    assert done.returncode == 0 and f"launch/{script} CONFIG" in done.stdout and not done.stderr
    assert "set -e" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("args, says", [
    ([], "no config given"), (["configs/none.py"], "does not exist"), ([CONFIG, "--proceses=2"], "unknown option"),
    ([CONFIG, "more"], "what is more"), ([CONFIG, "--config.seed"], "lacks its value"),
    ([CONFIG, "--dry-run=1"], "unknown option")])
def test_wrong_usage_is_one_line_and_exit_code_2(script, args, says):
  done = launch(script, *args)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith("error: ") and says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script, args, says", [
    ("local_multiprocess.sh", ["--processes=0"], "--processes"), ("slurm.sh", ["--nodes=two"], "--nodes"),
    ("slurm.sh", [], "no workdir"), ("tpu_pod.sh", [], "no slice named"), ("tpu_pod.sh", ["--name=a"], "no zone"),
    ("tpu_pod.sh", ["--name=a", "--zone=b"], "no workdir"),
    ("tpu_pod.sh", ["--name=a", "--zone=b", "--create"], "needs --type")])
def test_missing_and_wrong_options_are_named(script, args, says):
  done = launch(script, CONFIG, *args, "--dry-run")
  assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_shellcheck_has_nothing_to_say():
  shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
  if not shellcheck:
    pytest.skip("shellcheck is not installed: pip install -e '.[test]'")
  scripts = sorted(map(str, (ROOT / "launch").glob("*.sh")))
  done = subprocess.run([shellcheck, "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT)
  assert len(scripts) == len(SCRIPTS) + 1 and done.returncode == 0, done.stdout
  assert all(len(line) <= 120 for s in scripts for line in pathlib.Path(s).read_text().splitlines())


@pytest.mark.parametrize("codes, speaks", [
    ("", 0), ("0 0", 0), ("75 75", 75), ("75 3", 3), ("0 75", 75), ("3 1 3", 1), ("3 2", 2), ("3 137", 3),
    ("75 137", 137), ("0 137", 137), ("130 3", 130), ("3 134 0", 3), ("9 75", 9)])
def test_the_worst_code_says_what_to_do(codes, speaks):
  done = subprocess.run(["bash", "-c", f"source launch/common.sh; worst {codes}"], capture_output=True, text=True,
                        check=True, cwd=ROOT)
  assert int(done.stdout) == speaks


# --- one machine

def test_local_becomes_the_training_process(stand_in):
  done = launch("local.sh", CONFIG, **stand_in("echo trained; exit 75"))
  assert done.returncode == 75 and "trained" in done.stdout


def test_processes_get_their_numbers_one_coordinator_and_their_devices():
  done = launch("local_multiprocess.sh", CONFIG, "--processes=3", "--devices=2", "--dry-run", XLA_FLAGS="--a=b")
  commands = printed(done)
  assert commands[0] == ["export", "NPROC=" + os.environ.get("NPROC", "16"), "JAX_PLATFORMS=cpu",
                         "XLA_FLAGS=--a=b --xla_force_host_platform_device_count=2"]
  assert [c[-1] for c in commands[1:]] == [f"--process_id={i}" for i in range(3)]
  assert {c[-2] for c in commands[1:]} == {"--num_processes=3"} and len({c[-3] for c in commands[1:]}) == 1


def test_lines_are_prefixed_and_codes_told(stand_in):
  env = stand_in("echo out; echo error >&2; printf unfinished", "echo $NPROC $XLA_FLAGS; exit 0")
  done = launch("local_multiprocess.sh", CONFIG, **env)
  assert done.returncode == 0
  lines = [line for line in done.stdout.splitlines() if not line.startswith("+")]
  assert sorted(lines[i] for i in range(4)) == sorted(
      ["[0] out", "[0] error", "[0] unfinished",
       f"[1] {os.environ.get('NPROC', '16')} " + (os.environ.get("XLA_FLAGS", "") + " ").lstrip() +
       "--xla_force_host_platform_device_count=1"])
  assert "process 1 ended with exit code 0" in done.stderr


@pytest.mark.parametrize("lines, code", [
    (("exit 75", "exit 75"), 75), (("exit 3", "kill -9 $$"), 3), (("exit 3", "exit 1"), 1)])
def test_the_exit_code_is_the_one_that_matters(stand_in, lines, code):
  assert launch("local_multiprocess.sh", CONFIG, **stand_in(*lines)).returncode == code


def test_leftovers_are_killed_with_their_children_after_the_grace(stand_in, tmp_path):
  child = f"sleep 300 & echo $! > {tmp_path}/child; "
  started = time.monotonic()
  done = launch("local_multiprocess.sh", CONFIG, "--grace=1", **stand_in("sleep 0.5; exit 3", child + HANG))
  assert done.returncode == 3 and "1 left after 1 s: killed" in done.stderr and time.monotonic() - started < 15
  stat = pathlib.Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
  assert not stat.exists() or ") Z " in stat.read_text(), "gone, or dead and not yet collected by the system"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_process_and_saving_is_waited_for(stand_in, number):
  lines = (UNTIL_TERM, UNTIL_TERM.replace("echo saved", "sleep 0.5; echo saved"))
  code, out = signalled([number], stand_in(*(x.replace("TERM", number.name[3:]) for x in lines)))
  assert code == 75 and "[0] saved" in out and "[1] saved" in out


def test_a_second_signal_kills(stand_in):
  code, out = signalled([signal.SIGTERM, signal.SIGTERM], stand_in(HANG, HANG))
  assert code == 137 and "saved" not in out


def signalled(numbers, env):
  """(exit code, output) of two processes, sent signals once both have said they are ready."""
  process = subprocess.Popen([ROOT / "launch/local_multiprocess.sh", CONFIG], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, env=os.environ | env, stdin=subprocess.DEVNULL)
  out = ""
  while out.count("ready\n") < 2:
    out += process.stdout.readline()
  for number in numbers:
    process.send_signal(number)
    time.sleep(0.5)
  return process.wait(timeout=60), out + process.stdout.read()


# --- clusters, by stand-ins for their commands

def test_slurm_starts_one_process_for_each_gpu_and_asks_for_notice():
  options = ["--nodes=2", "--gpus=4", "--workdir=w", "--sbatch=-p gpu", "--dry-run"]
  folder, submit = printed(launch("slurm.sh", CONFIG, *options))
  assert folder == ["mkdir", "-p", "w/logs/slurm"] and submit[0] == "sbatch" and {"-p", "gpu"} <= set(submit)
  assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--gpus-per-node=4", "--signal=TERM@120", "--requeue",
          "--open-mode=append"} <= set(submit)
  assert not any("gpus-per-task" in word for word in submit)


# srun runs one task for each line of the stand-in, at once, and exits with the highest code.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
pids=() worst=0
for ((i = 0; i < $(wc -l < "$JHMR_STAND_IN"); i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do code=0; wait "$pid" || code=$?; ((code > worst)) && worst=$code; done
exit "$worst"
"""


@pytest.mark.parametrize("lines, restarts, code, requeued", [
    (("exit 0", "exit 0"), 0, 0, False), (("exit 75", "exit 75"), 0, 75, True), (("exit 3", "exit 75"), 4, 3, True),
    (("exit 3", "exit 1"), 0, 1, False), (("exit 2", "exit 2"), 0, 2, False), (("exit 75", "exit 75"), 5, 75, False),
    (("exit 3", "kill -9 $$ $PPID"), 0, 3, True)])
def test_a_slurm_job_is_requeued_when_another_try_helps(stand_in, tmp_path, lines, restarts, code, requeued):
  env = stand_in(*lines) | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
  program(tmp_path / "srun", SRUN)
  program(tmp_path / "scontrol", f"#!/bin/sh\necho $* > {tmp_path}/requeued\n")
  options = ["--gpus=2", f"--workdir={tmp_path}/w", "--max-requeues=5", "--dry-run"]
  submit = printed(launch("slurm.sh", CONFIG, *options, **env))
  job = next(word.removeprefix("--wrap=") for word in submit[-1] if word.startswith("--wrap="))
  done = subprocess.run(["sh", "-c", job], capture_output=True, text=True, check=False, cwd=ROOT,
                        env=os.environ | env | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
  assert done.returncode == code, done.stderr
  assert (tmp_path / "requeued").exists() == requeued
  if requeued:
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_slurm_task_outlives_the_notice_to_write_its_code(tmp_path):
  command = ["bash", "launch/slurm.sh", "--task", str(tmp_path), "bash", "-c", UNTIL_TERM]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
                             env=os.environ | {"SLURM_PROCID": "5"})
  assert process.stdout.readline() == "ready\n"
  os.killpg(process.pid, signal.SIGTERM)  # as slurmstepd does
  assert process.wait(timeout=60) == 75 and (tmp_path / "5").read_text() == "75\n"
  process.stdout.close()


GCLOUD = """#!/usr/bin/env bash
echo "$*" >> {log}
case "$*" in
  *describe*) if [[ -f {there} ]]; then cat {there}; else exit 1; fi ;;
  *" create "*) echo ACTIVE > {there} ;;
  *" delete "*) rm -f {there} ;;
  *jhmr.train*)
    code=$(head -n 1 {codes})
    sed -i 1d {codes}
    if [[ $code == gone ]]; then echo SUSPENDED > {there}; exit 255; fi
    echo "jhmr-exit-code $code"
    exit 1 ;;
esac
"""


@pytest.mark.parametrize("codes, code, created", [
    (["0"], 0, 1), (["75", "3", "0"], 0, 1), (["gone", "0"], 0, 2), (["1", "0"], 1, 1), (["75"] * 4, 75, 1)])
def test_a_tpu_pod_is_asked_for_again_and_resumed(tmp_path, codes, code, created):
  (tmp_path / "codes").write_text("\n".join(codes) + "\n")
  names = {name: tmp_path / name for name in ("log", "there", "codes")}
  program(tmp_path / "gcloud", GCLOUD.format(**names))
  program(tmp_path / "tar", "#!/bin/sh\n")
  done = launch("tpu_pod.sh", CONFIG, *SCRIPTS["tpu_pod.sh"], "--workdir=/w", "--poll=1", "--max-reruns=3", "--delete",
                path=tmp_path)
  log = (tmp_path / "log").read_text()
  assert done.returncode == code, done.stdout + done.stderr
  assert log.count(" create pod ") == created and log.count("jhmr.train") == len(codes) - (code == 1)
  assert ("--worker=all" in log) and ((tmp_path / "there").exists() == (code == 1)), "a slice is kept to look at a bug"


@pytest.mark.long
def test_two_processes_on_this_machine_really_train(tmp_path, data_set):
  light = [f"--config.{o}" for o in runs.light(data_set)]
  command = [ROOT / "launch" / "local_multiprocess.sh", CONFIG, "--processes", "2", "--devices", "2",
             "--workdir", str(tmp_path / "run"), *light]
  done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
                        env=os.environ | {"JHMR_PYTHON": sys.executable, "XLA_FLAGS": ""})
  assert done.returncode == 0, done.stderr[-3000:]
  assert "batch 8 on 4 x cpu (pmap, processes: 2)" in done.stdout
  assert (tmp_path / "run" / "checkpoints" / "2").is_dir() and (tmp_path / "run" / "logs" / "process_1.log").is_file()
