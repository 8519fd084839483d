"""Hostile pickles: nothing they name is imported, called or built, and the refusal is an InputError."""

import builtins
import codecs
import functools
import importlib
import io
import operator
import os
import pickle
import subprocess
import sys

from jhmr.body import body_file
from jhmr.body import pickles
from jhmr.errors import InputError
import numpy as np
import pytest
from scipy import sparse
from body import pickling
from body import random_body

SMALL = random_body.arrays(num_vertices=40, num_faces=4)


def command(marker):
  return f"touch {marker}"


def code(marker):
  return f"open({str(marker)!r}, 'w').close()"


# name -> payload(marker): an object whose unpickling would create the file `marker`.
PAYLOADS = {
    "os.system": lambda m: pickling.Calls(os.system, command(m)),
    "subprocess": lambda m: pickling.Calls(subprocess.call, ["touch", str(m)]),
    "eval": lambda m: pickling.Calls(eval, code(m)),
    "exec": lambda m: pickling.Calls(exec, code(m)),
    "getattr": lambda m: pickling.Calls(getattr, pickling.Calls(importlib.import_module, "os"), "system"),
    "import": lambda m: pickling.Calls(__import__, "os"),
    "import_module": lambda m: pickling.Calls(importlib.import_module, "os"),
    "open": lambda m: pickling.Calls(open, str(m), "w"),
    "map": lambda m: pickling.Calls(list, pickling.Calls(map, os.system, [command(m)])),
    "partial": lambda m: pickling.Calls(functools.partial, os.system, command(m)),
    "methodcaller": lambda m: pickling.Calls(operator.methodcaller, "system", command(m)),
    "type": lambda m: pickling.Calls(type, "T", (), {}),
    "class instance": lambda m: pickling.Calls(io.FileIO, str(m), "w"),
    "numpy save": lambda m: pickling.Calls(np.save, str(m), 1),
    "numpy load": lambda m: pickling.Calls(np.load, str(m), None, True),
    "numpy fromfile": lambda m: pickling.Calls(np.fromfile, "/etc/hostname"),
    "numpy memmap": lambda m: pickling.Calls(np.memmap, str(m), "u1", "w+", 0, (1,)),
    "numpy savetxt": lambda m: pickling.Calls(np.savetxt, str(m), [1]),
    "numpy vectorize": lambda m: pickling.Calls(np.vectorize, eval),
    "scipy load": lambda m: pickling.Calls(sparse.load_npz, str(m)),
    "codecs open": lambda m: pickling.Calls(codecs.open, str(m), "w"),
    "nested pickle": lambda m: pickling.Calls(pickle.loads, pickle.dumps(pickling.Calls(os.system, command(m)))),
}
PLACES = {
    "whole file": lambda x: x,
    "a needed key": lambda x: pickling.official(SMALL) | {"weights": x},
    "an unused key": lambda x: pickling.official(SMALL) | {"J": x},
    "inside chumpy": lambda x: pickling.official(SMALL) | {"weights": pickling.Ch([0]), "J": _inside(x)},
    "a list in a tuple": lambda x: pickling.official(SMALL) | {"bs_type": ([1, [x]],)},
    "an object array": lambda x: pickling.official(SMALL) | {"J": np.array([None, x, 1], object)},
}


def _inside(x):
  box = pickling.Ch([0])
  box.x = x
  return box


def refused(path):
  with pytest.raises(InputError) as caught:
    body_file.read_body_file(path)
  assert "\n" not in str(caught.value) and str(path) in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path, payload, monkeypatch):
  marker, path = tmp_path / "ran", tmp_path / "SMPL_NEUTRAL.pkl"
  calls = []
  for place, put in PLACES.items():
    for protocol in (2, 4):
      path.write_bytes(pickling.dumps(put(payload(marker)), protocol))
      with monkeypatch.context() as patch:
        for module, name in ((os, "system"), (builtins, "eval"), (builtins, "exec"), (subprocess, "call")):
          patch.setattr(module, name, lambda *a: calls.append(a))
        message = refused(path)
      assert "no body model needs" in message, (place, message)
      assert not marker.exists() and not calls


def test_the_payloads_themselves_work(tmp_path):
  """A test of the tests: Python's own loader does run these."""
  for i, name in enumerate(("os.system", "exec", "open", "numpy save", "nested pickle", "class instance")):
    marker = tmp_path / f"ran{i}"
    pickle.loads(pickling.dumps(PAYLOADS[name](marker), 4))
    assert marker.exists() or marker.with_suffix(".npy").exists(), name


def test_nothing_a_pickle_names_is_imported(tmp_path, monkeypatch):
  (tmp_path / "chumpy").mkdir()
  (tmp_path / "chumpy" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
  (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
  monkeypatch.syspath_prepend(tmp_path)
  path = tmp_path / "body.pkl"
  path.write_bytes(b"cevil_module\nf\n.")
  refused(path)
  path.write_bytes(pickling.dumps(pickling.official(SMALL), 2))
  body_file.read_body_file(path)  # chumpy is stood in for, not imported
  assert not (tmp_path / "ran").exists() and "chumpy" not in sys.modules and "evil_module" not in sys.modules


def op(*parts):
  return b"".join(p if isinstance(p, bytes) else p.encode() for p in parts)


SYSTEM = b"cos\nsystem\n"
HANDMADE = {
    "instance opcode": op("(S'touch ran'\n", "ios\nsystem\n."),
    "object opcode": op("(", SYSTEM, "S'touch ran'\no."),
    "posix": b"cposix\nsystem\n(S'touch ran'\ntR.",
    "nt": b"cnt\nsystem\n(S'touch ran'\ntR.",
    "old builtins": b"c__builtin__\neval\n(S'1'\ntR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
    "dotted chumpy": b"\x80\x04\x8c\x06chumpy\x8c\x09os.system\x93.",
    "dotted codecs": b"\x80\x04\x8c\x07_codecs\x8c\x0dencode.__self\x93.",
    "module like chumpy": b"cchumpyx\nCh\n.",
    "module like numpy": b"cnumpy.core.multiarray.x\n_reconstruct\n.",
    "numpy module function": b"cnumpy.core.multiarray\nfromfile\n(S'/etc/hostname'\ntR.",
    "reconstructor of os": b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.",
    "extension code": b"\x82\x01.", "persistent id": b"Pevil\n.", "binary persistent id": b"N\x51.",
    "newobj of a function": op("\x80\x02", SYSTEM, "(S'touch ran'\nt\x81."),
    "build with a stub class": b"cchumpy\nCh\n}S'__setstate__'\nNsb.",
    "slot state on a stub class": b"cchumpy\nCh\n(N}S'name'\nS'x'\nst\x62.",
    "call of an instance": b"cchumpy\nCh\n(tR(tR.", "call of a number": b"I1\n(tR.",
    "append to an instance": b"cchumpy\nCh\n(tRI1\na.", "item of an instance": b"cchumpy\nCh\n(tRI1\nI2\ns.",
    "memo never put": b"g7\n.", "no stop": b"I1\n", "stack underflow": b"R.", "two marks": b"((.",
    "huge length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "huge bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.", "unhashable key": b"}]I1\ns.",
    "future protocol": b"\x80\x63N.", "bad number": b"Ifoo\n.", "out-of-band buffer": b"\x80\x05\x97."}


@pytest.mark.parametrize("data", HANDMADE.values(), ids=HANDMADE.keys())
def test_handmade_opcodes_are_refused(tmp_path, data, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / "body.pkl"
  path.write_bytes(data)
  refused(path)
  assert [p.name for p in tmp_path.iterdir()] == ["body.pkl"]


DEEP = b")" + b"\x85" * 200_000  # the empty tuple in a tuple in a tuple ...


@pytest.mark.parametrize("data", [b"}" + DEEP + b"Ns.", b"}(" + DEEP + b"Nu.", b"(" + DEEP + b"Nd.",
                                  b"\x8f(" + DEEP + b"\x90.", b"(" + DEEP + b"\x91."],
                         ids=["item", "items", "dict", "set items", "frozenset"])
def test_keys_too_deep_to_hash_do_not_kill_the_process(data):
  with pytest.raises(pickles.BadPickle, match="tuples inside tuples"):
    loaded(b"\x80\x04" + data)


def test_ordinary_tuples_are_keys():
  value = {(1, (2, 3)): 1, (): 2}
  assert loaded(pickle.dumps(value, 4)) == value and loaded(pickle.dumps({(1, 2)}, 4)) == {(1, 2)}


def loaded(data):
  return pickles.read(io.BytesIO(data))


def test_only_inert_objects_come_out_of_a_legal_pickle():
  """Walks everything read from an official file: builtin data and stubs, each stub of its own class."""
  seen, todo = [], [loaded(pickling.dumps(pickling.official(SMALL), 2))]
  while todo:
    value = todo.pop()
    if isinstance(value, pickles._Stub):
      seen.append(type(value))
      todo += [value.args, value.state]
    elif isinstance(value, dict):
      todo += [*value, *value.values()]
    elif isinstance(value, (list, tuple, set)):
      todo += value
    else:
      assert value is None or type(value) in (int, float, bool, str, bytes) or issubclass(value, pickles._Stub)
  assert len(seen) > 20


def test_what_a_pickle_does_to_one_stub_touches_no_other():
  with pytest.raises(pickles.BadPickle):
    loaded(b"cchumpy\nCh\n(N}S'__setstate__'\nI1\nst\x62.")
  assert pickles._Stub.__setstate__ is not None
  np.testing.assert_array_equal(pickles.array(loaded(pickling.dumps(pickling.Ch([1, 2]), 2))), [1, 2])


@pytest.mark.parametrize("value", [
    np.arange(6).reshape(2, 3), np.float32([[1, 2], [3, 4]]).T, np.zeros((0, 3)), np.uint8([1]),
    np.array([True, False]), np.array(3.5), np.int64([-1, 2**40]), np.matrix([[1., 2.]])],
    ids=lambda v: f"{v.dtype}{v.shape}")
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_come_out_as_they_went_in(value, protocol):
  got = pickles.array(loaded(pickle.dumps(value, protocol)))
  assert got.dtype == value.dtype and got.flags.writeable
  np.testing.assert_array_equal(got, value)


def fake(module, name, state):
  """What is read for an object of any class and state."""
  kind = type(name, (), {})
  pickling.OLD_NAMES[kind.__module__, kind.__qualname__] = (module, name)
  value = kind()
  value.__dict__ = state
  return loaded(pickling.dumps(value, 2))


def test_dishonest_states_are_refused():
  index, data = np.array([0, 1]), np.array([1., 2.])
  csc = lambda **change: fake("scipy.sparse.csc", "csc_matrix", {
      "data": data, "indices": index, "indptr": np.array([0, 1, 2]), "_shape": (2, 2)} | change)
  np.testing.assert_array_equal(pickles.array(csc()), [[1, 0], [0, 2]])
  for change in ({"indices": np.array([0, 7])}, {"indices": np.array([0, -1])}, {"indptr": np.array([0, 1, 9])},
                 {"indptr": np.array([0, 10**12, 2])}, {"indptr": np.array([1, 2, 2])},
                 {"_shape": (10**6, 10**6)},
                 {"_shape": (2, 2, 2)}, {"_shape": (-2, 2)}, {"_shape": "ab"}, {"data": "x"}, {"indices": [0, 1]},
                 {"indptr": np.zeros((0,), int)}):
    with pytest.raises(pickles.BadPickle):
      pickles.array(csc(**change))
  chumpy = lambda **state: fake("chumpy.ch", "Ch", state)
  for state in ({}, {"x": 1}, {"x": "abc"}, {"x": [1, 2]}, {"a": data, "idxs": np.array([5])}):
    with pytest.raises(pickles.BadPickle):
      pickles.array(chumpy(**state))


def test_an_object_that_holds_itself_does_not_hang():
  value = loaded(pickling.dumps(pickling.Ch([1]), 2))
  value.state["x"] = value
  with pytest.raises(pickles.BadPickle, match="nested"):
    pickles.array(value)


def test_array_bytes_must_fit_the_shape():
  value = loaded(pickle.dumps(np.arange(6.), 2))
  version, _, *rest = value.state
  for shape in ((7,), (2, 2), (-1,), (10**18,), ("a",), None, (2.5, 2)):
    value.state = (version, shape, *rest)
    with pytest.raises(pickles.BadPickle):
      pickles.array(value)
