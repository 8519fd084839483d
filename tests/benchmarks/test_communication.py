"""The bytes of a step are those of its gradients; the model of an all-reduce is the formula worked by hand."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from jhmr.benchmarks import communication
from jhmr.benchmarks import fabrics
from jhmr.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module", name="command")
def run_command(tmp_path_factory):
  """(what the command prints, what it writes) of a small HMR, run once."""
  out = tmp_path_factory.mktemp("communication") / "out.json"
  flags = ["--config", "configs/open_benchmark.py:hmr,smoke", "--step_seconds=0.05", "--json", str(out)]
  done = subprocess.run([sys.executable, "-m", "jhmr.benchmarks.communication", *flags], capture_output=True,
                        text=True, check=True, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""})
  return done.stdout, json.loads(out.read_text())


def test_a_step_sends_every_gradient_once_and_little_else(command):
  counted = command[1]["counted"]
  gradients = 4 * sum(counted["parameters"].values())
  rest = counted["bytes"] - gradients
  assert gradients > 1e6 and 0 < rest < 4 * 2 * 1000, "batch-norm statistics and scalars"
  assert counted["flops"] > 0 and counted["merged_ops"] == 2 < counted["ops"]


def test_the_command_writes_what_it_prints(command):
  said, written = command
  assert f"{written['counted']['bytes']:,} bytes" in said and "as given by --step_seconds" in said
  assert len(written["rows"]) == len(fabrics.FABRICS) * len(communication.DEVICES)
  assert all(row["compute_ms"] == 50 for row in written["rows"])


def test_too_few_devices_are_wrong_input():
  with pytest.raises(InputError, match="devices wanted"):
    communication.lower_step(None, len(jax.devices()) + 1)


def test_all_reduces_are_read_from_both_kinds_of_hlo():
  lowered = """
  psum.1 = f32[] all-reduce(add.1), channel_id=1, to_apply=region_1
  psum.2 = bf16[736,1024]{0,1} all-reduce(add.2), channel_id=1, to_apply=region_2
  add.3 = f32[4]{0} add(all-reduce.9, b)"""
  compiled = """
  %all-reduce.3 = (f32[2,3]{1,0}, f32[], /*index=5*/f32[10]{0}) all-reduce(%a, %b, %c), channel_id=1
  %get-tuple-element.1 = f32[2,3]{1,0} get-tuple-element(%all-reduce.3), index=0
  ROOT %all-reduce-start.1 = f32[8]{0} all-reduce-start(%d), channel_id=2
  %all-reduce-done.1 = f32[8]{0} all-reduce-done(%all-reduce-start.1)"""
  assert communication.all_reduces(lowered) == [4, 2 * 736 * 1024]
  assert communication.all_reduces(compiled) == [4 * (6 + 1 + 10), 32]


def test_all_reduces_of_a_psum_are_its_operands():
  step = jax.pmap(lambda x: jax.lax.psum({"a": x, "b": x[0]}, "d"), "d", devices=jax.devices()[:2])
  lowered = step.lower(jax.ShapeDtypeStruct((2, 5), "float32"))
  assert sorted(communication.all_reduces(lowered.as_text(dialect="hlo"))) == [4, 20]
  assert sum(communication.all_reduces(lowered.compile().as_text())) == 24


def test_ring_and_tree_match_hand_values():
  # 4 devices, 8 bytes at 2 bytes/s: each of 6 messages is 2 bytes, 1 s, and 0.5 s late.
  assert fabrics.ring_seconds(4, 8, 2.0, 0.5) == pytest.approx(9.0)
  assert fabrics.ring_seconds(1024, 1e9, 1e9, 0) == pytest.approx(2 * 1023 / 1024)
  # The same by a tree: 2 levels up, 2 down, and every byte twice.
  assert fabrics.tree_seconds(4, 8, 2.0, 0.5) == pytest.approx(2 * 2 * 0.5 + 8)


def test_outer_levels_carry_the_share_of_one_device_of_the_inner():
  inner, outer = fabrics.Level(8, 100.0, 0.0), fabrics.Level(64, 1.0, 0.0)
  fabric = fabrics.Fabric("two levels", (inner, outer), {})
  hand = 2 * 7 / 8 * 800 / 100 + 2 * 3 / 4 * 100 / 1
  assert fabrics.all_reduce_seconds(fabric, 32, 800) == pytest.approx(hand)
  assert fabrics.all_reduce_seconds(fabric, 8, 800) == pytest.approx(14)
  assert fabrics.all_reduce_seconds(fabric, 1, 800) == 0
  with pytest.raises(ValueError, match="fill"):
    fabrics.all_reduce_seconds(fabric, 12, 800)
  with pytest.raises(ValueError, match="no 1024"):
    fabrics.all_reduce_seconds(fabric, 1024, 800)


def test_a_torus_without_wrap_around_links_is_half_as_fast():
  torus = fabrics.Level(64, 10.0, 0.0, torus=3, ring_from=64)
  whole, part = (fabrics.level_seconds(torus, n, 640) for n in (64, 8))
  assert whole == pytest.approx(2 * 63 / 64 * 64) and part == pytest.approx(2 * 7 / 8 * 128)
  late = torus._replace(hop_s=1.0)
  assert fabrics.level_seconds(late, 64, 0) == pytest.approx(2 * 3 * 3)  # 4 x 4 x 4: three hops along each of three


@pytest.mark.parametrize("fabric", fabrics.FABRICS, ids=lambda f: f.name)
def test_efficiency_grows_with_the_step_and_shrinks_with_the_bytes(fabric):
  counted = {"bytes": 100e6, "flops": 1e12, "merged_ops": 4}
  for n in communication.DEVICES:
    row = communication.estimate(counted, fabric, n, step_seconds=0.1)
    longer = communication.estimate(counted, fabric, n, step_seconds=0.2)
    bigger = communication.estimate(counted | {"bytes": 200e6}, fabric, n, step_seconds=0.1)
    assert 0 < bigger["lower"] < row["lower"] < longer["lower"] < 1
    assert row["lower"] <= row["upper"] <= 1
    faster = communication.estimate(counted, fabric, n, step_seconds=0.1, link_share=1.0)
    assert faster["communication_ms"] < row["communication_ms"]


@pytest.mark.parametrize("fabric", [f for f in fabrics.FABRICS if not f.levels[0].torus], ids=lambda f: f.name)
def test_more_nodes_are_never_more_efficient(fabric):
  counted = {"bytes": 100e6, "flops": 1e12, "merged_ops": 4}
  rows = [communication.estimate(counted, fabric, 8 * 2 ** k)["lower"] for k in range(8)]
  assert rows == sorted(rows, reverse=True)


def test_compute_is_estimated_from_flops_when_not_given():
  counted = {"bytes": 0, "flops": 989.4e12, "merged_ops": 1}
  row = communication.estimate(counted, fabrics.FABRICS[0], 8, flops_share=0.5, dtype="bfloat16")
  assert row["compute_ms"] == pytest.approx(2000)


def test_wrong_input_is_one_line_and_exit_code_2():
  for flags in (["--step_seconds=0", "--config", "configs/quickstart.py"], ["--config", "configs/none.py"]):
    done = subprocess.run([sys.executable, "-m", "jhmr.benchmarks.communication", *flags], capture_output=True,
                          text=True, check=False, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
