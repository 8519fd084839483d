"""The house rules a reader relies on, checked: who imports whom, sizes, sources, and a README that tells the truth."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "jhmr").rglob("*.py"))
NAME = {f: ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in FILES}

# What each room may import of ours; "jhmr.body" stands for everything below it.
ROOMS = {
    "jhmr.errors": (),
    "jhmr.files": ("jhmr.errors",),
    "jhmr.state": (),
    "jhmr.task": ("jhmr.errors",),
    "jhmr.sparse": (),
    "jhmr.once": (),
    "jhmr.body": ("jhmr.errors", "jhmr.files", "jhmr.sparse", "jhmr.body"),
    "jhmr.nn": ("jhmr.nn", "jhmr.sparse"),
    "jhmr.released": ("jhmr.errors", "jhmr.nn", "jhmr.body.pickles", "jhmr.released"),
    "jhmr.fitting": ("jhmr.errors", "jhmr.files", "jhmr.body", "jhmr.fitting"),
    "jhmr.data": ("jhmr.errors", "jhmr.files", "jhmr.body", "jhmr.data", "jhmr.command", "jhmr.report",
                  "jhmr.task", "jhmr.lifting", "jhmr.fitting.gaussians", "jhmr.fitting.npz_files"),
    "jhmr.regression": ("jhmr.errors", "jhmr.body", "jhmr.losses", "jhmr.nn", "jhmr.state"),
    "jhmr.fits_memory": ("jhmr.errors", "jhmr.body", "jhmr.state"),
    "jhmr.pose_prior": ("jhmr.errors", "jhmr.body", "jhmr.nn", "jhmr.checkpoint", "jhmr.command"),
    "jhmr.joint_prior": ("jhmr.errors", "jhmr.body", "jhmr.nn", "jhmr.checkpoint", "jhmr.command", "jhmr.losses",
                         "jhmr.regression"),
    "jhmr.multi_hypothesis": ("jhmr.errors", "jhmr.body", "jhmr.joint_prior", "jhmr.losses", "jhmr.quantise",
                              "jhmr.regression", "jhmr.state"),
    "jhmr.lift_baselines": ("jhmr.errors", "jhmr.body", "jhmr.losses", "jhmr.nn", "jhmr.one_loss", "jhmr.regression",
                            "jhmr.state"),
    "jhmr.one_loss": ("jhmr.losses", "jhmr.optim", "jhmr.state"),
    "jhmr.losses": ("jhmr.body", "jhmr.state"),
    "jhmr.lift_losses": ("jhmr.state",),
    "jhmr.metrics": ("jhmr.body", "jhmr.state"),
    "jhmr.lifting": ("jhmr.body", "jhmr.fitting.gaussians"),
    "jhmr.hypotheses": ("jhmr.body", "jhmr.metrics"),
    "jhmr.quantise": (),
    "jhmr.sampling": ("jhmr.body", "jhmr.quantise", "jhmr.state"),
    "jhmr.intervals": (),
    "jhmr.joint_scores": ("jhmr.errors", "jhmr.body", "jhmr.metrics"),
    "jhmr.silhouettes": ("jhmr.errors", "jhmr.body", "jhmr.intervals"),
    "jhmr.plots": (),
    "jhmr.optim": ("jhmr.errors",),
    "jhmr.parallel": ("jhmr.errors", "jhmr.state"),
    "jhmr.distributed": ("jhmr.errors",),
    "jhmr.guard": ("jhmr.data.spec", "jhmr.data.lift_spec", "jhmr.state"),
    "jhmr.checkpoint": ("jhmr.errors", "jhmr.files", "jhmr.state"),
    "jhmr.systems": ("jhmr.errors", "jhmr.state", "jhmr.losses", "jhmr.metrics", "jhmr.optim", "jhmr.nn", "jhmr.body",
                     "jhmr.regression", "jhmr.fits_memory", "jhmr.fitting", "jhmr.pose_prior", "jhmr.joint_prior",
                     "jhmr.multi_hypothesis", "jhmr.once", "jhmr.one_loss", "jhmr.sparse", "jhmr.lifting",
                     "jhmr.lift_losses", "jhmr.lift_baselines", "jhmr.sampling"),
}
# Peers are imported inside the functions that run them, builders' TFDS inside theirs.
NEVER = {"tensorflow", "torch", "smplx", "torchvision"}


def imports(file):
  """{module} a file imports from ours or NEVER, wherever in the file."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text())):
    if isinstance(node, ast.Import):
      found |= {a.name for a in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      for a in node.names:
        whole = f"{node.module}.{a.name}"
        found.add(whole if whole in NAME.values() else node.module)
  return found


def room_of(name):
  rooms = [r for r in ROOMS if name == r or name.startswith(r + ".")]
  return max(rooms, key=len) if rooms else None


@pytest.mark.parametrize("file", FILES, ids=NAME.get)
def test_imports_point_one_way(file):
  room = room_of(NAME[file])
  ours = {m for m in imports(file) if m.split(".")[0] == "jhmr" and m not in ("jhmr", NAME[file])}
  assert not {m for m in ours if m == "jhmr.train"}, "nothing imports the loop"
  if room is not None:
    allowed = ROOMS[room]
    odd = {m for m in ours if not any(m == a or m.startswith(a + ".") for a in allowed)}
    assert not odd, f"{NAME[file]} must not import {sorted(odd)}"


@pytest.mark.parametrize("file", FILES, ids=NAME.get)
def test_files_stay_readable(file):
  lines = file.read_text().splitlines()
  assert len(lines) <= 400
  assert max(map(len, lines), default=0) <= 120
  assert ast.get_docstring(ast.parse(file.read_text())), "a file says what it is for"


@pytest.mark.parametrize("file", sorted((ROOT / "jhmr" / "systems").glob("*.py")), ids=lambda f: f.stem)
def test_a_system_with_a_memory_asks_whether_the_step_is_sound(file):
  """What the loop leaves out of a bad step is all but the memory; see `guard.guarded`."""
  writes = any(isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "replace" and
               any(k.arg == "memory" for k in node.keywords) for node in ast.walk(ast.parse(file.read_text())))
  assert not writes or "jhmr.state" in imports(file) and re.search(r"\bsound\(", file.read_text())


def test_nothing_is_factorised_by_lapack():
  """On CPU its kernels wait for workers of which they are one; see `body/svd.py`. NumPy's are not meant."""
  for file in FILES:
    odd = [n.attr for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Attribute) and
           ast.unparse(n.value) in ("jnp.linalg", "jax.numpy.linalg", "jax.lax.linalg", "jax.scipy.linalg")]
    assert not set(odd) - {"norm", "det"}, f"{NAME[file]}: {odd}"


def test_the_core_never_imports_torch_tensorflow_or_smplx():
  modules = [n for n in NAME.values() if not n.startswith("jhmr.benchmarks")]
  code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(sorted({NEVER!r} & set(sys.modules)))"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
  assert out.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["jhmr.losses", "jhmr.lift_losses", "jhmr.metrics", "jhmr.hypotheses",
                                    "jhmr.quantise"])
def test_every_loss_and_metric_names_its_source(module):
  module = importlib.import_module(module)
  for name, f in vars(module).items():
    if callable(f) and getattr(f, "__module__", "") == module.__name__ and not name.startswith("_"):
      assert "Source:" in (f.__doc__ or ""), f"{module.__name__}.{name} lacks a Source:"


def test_every_file_and_name_in_the_readme_exists():
  text = (ROOT / "README.md").read_text()
  for path in re.findall(r"`((?:jhmr|configs|launch|tests|docs)/[\w./-]+)(?::([\w, ]+))?`", text):
    assert (ROOT / path[0]).exists(), path[0]
    if path[1]:
      module = importlib.import_module(path[0].removesuffix(".py").replace("/", "."))
      for name in re.split(r", *", path[1]):
        assert hasattr(module, name), f"{path[0]} has no {name}"
  for command in re.findall(r"python -m ([\w.]+)", text):
    assert command in NAME.values(), f"README names {command}"
  for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
    assert (ROOT / picture).exists(), picture


def test_every_config_has_a_smoke_mode():
  for path in sorted((ROOT / "configs").glob("*.py")):
    scope = {}
    exec(compile(path.read_text(), path, "exec"), scope)  # pylint: disable=exec-used
    full, smoke = scope["get_config"](), scope["get_config"]("smoke")
    assert set(full) == set(smoke) and int(smoke.duration.split()[0]) <= 4, path.name
