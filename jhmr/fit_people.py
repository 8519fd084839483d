"""Fits everybody in keypoint files: batches of one size, a journal of what is finished, and the joined results.

The same command again fits who is missing: a person is finished when the folder has a result of the same keypoints,
camera and settings, whenever the command that made it was stopped.
"""

import concurrent.futures
import os
import time

from jhmr import files, fit_cameras, fit_journal, fit_outputs, fit_smplify, predict, report
from jhmr.data import images as images_lib
from jhmr.errors import InputError
from jhmr.fitting import keypoint_files
import jax
import numpy as np

FEWEST = 16             # people of a batch; each size is a program of its own, so that there are few sizes
SAID = 20               # lines on what was left out; all of them are in SKIPPED
SKIPPED = "skipped.txt"
EVERY_S = 2.0           # between lines of progress


def fit_keypoints(args):
  """Fits the people of --keypoints by one of SMPLify's methods, and writes to --out; see the top of `fit.py`.

  Raises:
    InputError: when nobody can be fitted, before anything is written.
  """
  people, bad, paths = find_people(args)
  arrays = fit_cameras.arrays_of(people, args.focal or 0.0, args.image_size)
  bad += fit_cameras.unusable_translations(people, arrays)
  known = bool(np.isfinite(arrays["transl_m"]).all())
  if not known and np.isfinite(arrays["transl_m"]).any():
    bad.append("some people have a translation and others none: all translations are fitted")
  who = persons(people) if args.shared_shape else np.arange(len(people))
  truth = fit_outputs.read_truth(args.truth, [p.name for p in people]) if args.truth else None
  solver = fit_smplify.solver(args, people[0].joint_set, known)
  keys = keys_of(arrays, solver, args.shared_shape, who, paths)
  with files.writing(args.out):
    os.makedirs(os.path.join(args.out, fit_journal.FOLDER), exist_ok=True)
    fit_and_write(args, people, arrays, solver, keys, who, paths, bad, truth)


def fit_and_write(args, people, arrays, solver, keys, who, paths, bad, truth=None):
  """Fits whoever is missing, then writes everybody's results; holds the lock of --out meanwhile."""
  with files.locked(os.path.join(args.out, fit_journal.FOLDER, "lock"), "--out"):
    fit_journal.sweep(args.out)
    bad += fit_missing(args, solver, arrays, keys, who, paths)
    complain(args.out, bad)
    found = fit_journal.finished(args.out)
    there = [i for i, key in enumerate(keys) if key in found]
    if not there:
      raise InputError(f"nobody could be fitted: {bad[0] if bad else 'no results'}")
    results = fit_journal.gather([keys[i] for i in there], found)
    chosen = {name: x[there] for name, x in arrays.items()}
    fit_outputs.write(args, [people[i] for i in there], chosen, results, solver, [paths.get(i, "") for i in there],
                      truth)


def find_people(args):
  """([Person], [what is wrong with others], {position: path of the picture}): everybody, or whom a network can see."""
  people, bad = keypoint_files.gather(args.keypoints, args.joint_set)
  if not args.images:
    return people, bad, {}
  paths = fit_cameras.find_pictures(people, args.images)
  missing = [p.name for i, p in enumerate(people) if i not in paths]
  if args.workdir:  # what a network starts from it has to see
    bad += [f"{name}: no picture of it in {args.images!r}: skipped" for name in missing]
    if args.shared_shape:  # whose frames are one problem: it has to be known which they are
      unreadable = fit_cameras.unreadable(paths.values())
      bad += [f"{said}: skipped" for said in unreadable.values()]
      paths = {i: path for i, path in paths.items() if path not in unreadable}
    people, paths = [people[i] for i in paths], dict(enumerate(paths.values()))
    if not people:
      raise InputError(f"nobody can be fitted: {bad[-1]}")
  elif missing:
    bad.append(f"{len(missing)} of {len(people)} people have no picture in {args.images!r}, such as {missing[0]}: "
               "drawn on grey, its size unknown unless the keypoints or --image-size say it")
  people, unreadable = fit_cameras.sized(people, paths)
  return people, bad + unreadable, paths


def persons(people):
  """[N] int, the same number for all pictures of one person.

  Raises:
    InputError: when nothing says who is who in a picture of several people.
  """
  if any(p.person for p in people):
    labels = [p.person or f"\0{i}" for i, p in enumerate(people)]
    return np.unique(labels, return_inverse=True)[1]
  images = [p.image for p in people if p.image]
  if len(set(images)) < len(images):
    twice = next(name for name in images if images.count(name) > 1)
    raise InputError(f"--shared-shape: {twice!r} shows several people and no ids say who they are: give an .npz with "
                     "person, or OpenPose's person_id")
  return np.zeros(len(people), int)


def keys_of(arrays, solver, shared_shape, who, paths):
  """Keys of everybody's results in the journal; with a shared shape of the whole group's."""
  own = [np.concatenate([x[i].ravel() for x in arrays.values()]) for i in range(len(who))]
  pictures = [""] * len(who)
  if solver.crop_px:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      pictures = list(pool.map(fit_journal.stamp, (paths[i] for i in range(len(who)))))
  keys = [fit_journal.key_of(solver.settings, (x, picture)) for x, picture in zip(own, pictures)]
  if not shared_shape:
    return keys
  groups = {g: sorted(keys[i] for i in np.flatnonzero(who == g)) for g in np.unique(who)}
  return [fit_journal.key_of({"group": groups[g]}, (x,)) for g, x in zip(who, own)]


def batches(todo, who, size):
  """[positions] of at most `size` people each; all of one person are in one batch, which may be larger for it."""
  groups = {}
  for i in todo:
    groups.setdefault(who[i], []).append(i)
  batch = []
  for group in groups.values():
    if batch and len(batch) + len(group) > size:
      yield batch
      batch = []
    batch = batch + group
  if batch:
    yield batch


def batch_size(count, most):
  """How many people are fitted at a time: 16, 64, 256, ..., the first that holds all, but at most `most`."""
  size = FEWEST
  while size < min(count, most):
    size *= 4
  return min(size, most)


def fit_missing(args, solver, arrays, keys, who, paths):
  """Fits whoever is not in the journal yet, batch by batch; returns lines on those who could not be."""
  found = fit_journal.finished(args.out)
  again = {who[i] for i, key in enumerate(keys) if key not in found}  # all frames of a person, or none
  todo = [i for i in range(len(keys)) if who[i] in again]
  if len(todo) < len(keys):
    report.say(f"{len(keys) - len(todo)} of {len(keys)} people are in {args.out} already")
  size = batch_size(len(todo), args.batch or solver.batch)
  scaled = fit_cameras.scaled(arrays, scale := fit_cameras.scale_of(arrays, solver.as_crops))
  bad, began, done, compiled, said = [], time.monotonic(), 0, None, 0.0
  for group in batches(todo, who, size):
    crops, group, unreadable = crops_of(solver, arrays, group, paths)
    bad += unreadable
    if group:
      rows = size * -(-len(group) // size)
      out = jax.device_get(solver.run(solver.inputs, padded(scaled, crops, group, who, rows)))
      out = {name: np.asarray(x[:len(group)]) for name, x in out.items()}
      out["pixels"] = out["pixels"] / scale[group][:, None, None]
      fit_journal.add(args.out, [keys[i] for i in group], out)
    done += len(group) + len(unreadable)
    now = time.monotonic()
    if compiled is None or now - said > EVERY_S or done == len(todo):
      _progress(done, len(todo), now - began, compiled)
      compiled, said = compiled or (done, now - began), now
  return bad


def _progress(done, total, seconds, compiled):
  """One line; the rate leaves the first batch out, which compiles."""
  first, spent = compiled if compiled and done > compiled[0] else (0, 0.0)
  rate = (done - first) / max(seconds - spent, 1e-9)
  report.say(f"{done}/{total} people  {rate:.1f} people/s  {report.clock((total - done) / rate)} left")


def crops_of(solver, arrays, group, paths):
  """(crops [P, S, S, 3] uint8 or None, positions of those who have one, lines on the others)."""
  if not solver.crop_px:
    return None, group, []
  crops, kept, bad = [], [], []
  for i in group:
    try:
      image = predict.read_image(paths[i])
    except InputError as error:
      bad.append(f"{error}: skipped")
      continue
    crops.append(images_lib.crop(image, arrays["box_center_px"][i], arrays["box_size_px"][i], solver.crop_px))
    kept.append(i)
  return crops, kept, bad


def padded(arrays, crops, group, who, rows):
  """The arrays of a batch of `rows` people; those who fill it up have no keypoints and are nobody's frames."""
  fill = rows - len(group)
  pick = np.array(group + [group[0]] * fill)
  batch = {name: np.nan_to_num(x[pick]) for name, x in arrays.items()}
  batch["keypoints"][len(group):] = 0
  persons_here = np.unique(who[group], return_inverse=True)[1]
  batch["person"] = np.concatenate([persons_here, np.full(fill, rows - 1)]).astype(np.int32)
  if crops is not None:
    batch["crop"] = np.stack(crops + crops[:1] * fill)
  return batch


def complain(out, lines):
  """Says what was left out, a few lines of it, and writes all lines to a file."""
  for line in lines[:SAID]:
    report.warn(line)
  path = os.path.join(out, SKIPPED)
  if len(lines) > SAID:
    report.warn(f"and {len(lines) - SAID} more, all in {path!r}")
  if lines:
    with files.whole(path) as f:
      f.writelines(ascii(line)[1:-1] + "\n" for line in lines)
  elif os.path.isfile(path):
    os.unlink(path)
