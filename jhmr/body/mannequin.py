"""The embedded body: a person-shaped mesh with everything a SMPL file has, made wholly by code.

    python -m jhmr.body.mannequin --out mannequin.pkl [--size small] [--picture mannequin.png]

It stands in wherever a body file may, so that everything runs without a licence: 6,890 vertices, 13,776 faces, 24
joints, ten shape coefficients, and the vertex ids that other software reads fixed landmarks from. "small" is the
same person with 1,402 vertices, for tests and quick runs.
"""

import argparse
import pathlib

import numpy as np

from jhmr import files
from jhmr.body import joints, mesh

SIZES = {"full": dict(num=6890, pitch=0.0200, fingers=True, coarse=1723),
         "small": dict(num=1402, pitch=0.0435, fingers=False, coarse=431)}


def arrays(size="full"):
  """The mannequin as a dict of arrays, in the format of `body.smpl.read_body_file`, optional keys included.

  Made once, see `files.cached`.
  Raises:
    ValueError: if size is neither "full" nor "small".
  """
  if size not in SIZES:
    raise ValueError(f"mannequin size {size!r} is not one of {tuple(SIZES)}")
  return files.cached(f"mannequin_{size}", sources(), lambda: make(**SIZES[size]))


def sources():
  """The files that make the arrays."""
  here = pathlib.Path(__file__).parent
  return sorted(here.glob("mannequin*.py")) + [here / f"{name}.py" for name in ("joints", "mesh", "remesh")]


def make(num, pitch, fingers, coarse):
  """Makes the arrays; the same bytes each time on one machine."""
  # Only here, so that reading the cache needs neither scikit-image nor seconds.
  from jhmr.body import mannequin_mesh, mannequin_rig, mannequin_shape, mannequin_skin, remesh
  points, faces, twin = mannequin_mesh.surface(num, pitch, fingers)
  points, faces, twin, vertex_ids = in_standard_order(points, faces, twin)
  top = vertex_ids["head_top"]
  rows = lambda names, places: mannequin_rig.regressor(names, places, points, twin, top)
  joint_rows = rows(joints.SMPL24, mannequin_shape.JOINTS)
  weights = mannequin_skin.skinning_weights(points, faces)
  parts24 = mesh.face_parts(faces, weights)
  pyramid, coarse_faces = mesh.build_pyramid(points, faces, coarse)
  normals = remesh.unit_normals(points, faces)[1]
  out = {
      "v_template": points, "shapedirs": mannequin_rig.shape_directions(points, faces, normals),
      "posedirs": mannequin_skin.correctives(points, weights, joint_rows @ points),
      "J_regressor": joint_rows, "weights": weights,
      "regressor_extra9": rows(joints.EXTRA9, mannequin_rig.EXTRA9),
      "regressor_h36m17": rows(joints.H36M17, mannequin_rig.H36M17),
      "regressor_j19": rows(joints.names("j19"), mannequin_rig.J19),
      "iuv": mesh.cylinder_chart(points, faces, parts24, joint_rows @ points),
      "down_weights": pyramid.down_weights, "up_weights": pyramid.up_weights}
  out = {name: np.asarray(value, np.float32) for name, value in out.items()}
  integers = {"parents": joints.PARENTS, "f": faces, "vertex_joint_ids": [vertex_ids[n] for n in joints.VERTEX21],
              "parts24": parts24, "parts6": mesh.PARTS6[parts24 - 1], "down_ids": pyramid.down_ids,
              "up_ids": pyramid.up_ids, "down_faces": coarse_faces, "vert_sym_idxs": twin}
  return out | {name: np.asarray(value, np.int64) for name, value in integers.items()}


def in_standard_order(points, faces, twin):
  """Renumbers vertices, head first, so that on the full size the landmarks sit at the ids other software expects.

  Returns points, faces, twin in the new order and {landmark: new id}.
  """
  from jhmr.body import mannequin_rig
  found = mannequin_rig.landmark_vertices(points, twin)
  fixed = joints.VERTEX_IDS if len(points) == joints.NUM_VERTICES else {n: i for i, n in enumerate(found)}
  order = np.full(len(points), -1)
  for name, vertex in found.items():
    order[fixed[name]] = vertex
  rest = np.setdiff1d(np.lexsort(points.T.round(4)), list(found.values()), assume_unique=True)
  rest = rest[np.argsort(-points[rest, 1], kind="stable")]
  order[order < 0] = rest
  new = np.empty_like(order)
  new[order] = np.arange(len(order))
  return points[order], new[faces], new[twin[order]], dict(fixed)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", help="body file to write, .pkl or .npz")
  parser.add_argument("--size", choices=tuple(SIZES), default="full")
  parser.add_argument("--picture", help="contact sheet of poses to write, .png")
  args = parser.parse_args()
  made = arrays(args.size)
  if args.out:
    from jhmr.body import smpl
    smpl.write_body_file(args.out, made)
  if args.picture:
    from jhmr.body import mannequin_picture
    mannequin_picture.write(args.picture, made)


if __name__ == "__main__":
  main()
