"""Every joint set by name: names, landmarks, left-right flips, bones for drawing and mappings between sets.

A *landmark* is a point a body supplies, and says how it is made:

    left_knee              joint of SMPL's kinematic chain (24)
    vertex:nose            vertex of the posed mesh (21), the ones the smplx package selects
    extra:right_hip_lsp    row of SPIN's J_regressor_extra.npy, applied to the posed vertices (9)
    h36m:pelvis            row of J_regressor_h36m.npy (17)
    j19:right_ankle        row of ProHMR's SMPL_to_J19.pkl (19)
    regressed:left_knee    row of the model's own J_regressor, applied to the *posed* vertices (24), as GraphCMR does;
                           millimetres away from the chain joint

A *name* says which anatomical joint an entry of a set stands for. Sets of annotations share names, so data sets map
onto each other by name although bodies may supply them by different landmarks.
"""

import functools

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
SMPL24 = ("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
          "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
          "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand",
          "right_hand")

# Vertices of the 6,890-vertex topology. The first 21 are smplx's joints 24..44, in its order.
# Source: smplx vertex_ids (SMPL-H entry); head_top is the only vertex of SPIN's "Top of Head (LSP)" row.
VERTEX_IDS = {
    "nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583,
    "left_big_toe": 3216, "left_small_toe": 3226, "left_heel": 3387,
    "right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787,
    "left_thumb": 2746, "left_index": 2319, "left_middle": 2445, "left_ring": 2556, "left_pinky": 2673,
    "right_thumb": 6191, "right_index": 5782, "right_middle": 5905, "right_ring": 6016, "right_pinky": 6133,
    "head_top": 411}
NUM_VERTICES = 6890
VERTEX21 = tuple(VERTEX_IDS)[:21]
EXTRA9 = ("right_hip_lsp", "left_hip_lsp", "neck_lsp", "head_top_lsp", "pelvis_mpii", "thorax_mpii", "spine_h36m",
          "jaw_h36m", "head_h36m")
H36M17 = ("pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "spine", "neck",
          "jaw", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist")

_RIGHT_FIRST = (*H36M17[:1], *H36M17[4:7], *H36M17[1:4], *H36M17[7:])
# Source: Wehrbein et al. 2021, authors' `data/data_h36m.py`: an MPII detector, fine-tuned on Human3.6M's joints.
_DETECTED = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "neck",
             "head", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist")

# How raw annotations of a data set are picked to be in the order of "h36m17".
# Source: the preprocessing scripts of SPIN.
RAW_TO_H36M17 = {
    "h36m32": (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27),
    "mpi_inf_3dhp28": (4, 18, 19, 20, 23, 24, 25, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16),
    "mpi_inf_3dhp_test17": (14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)}

_LIMBS12 = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
            "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist")
_J19 = (*_LIMBS12, "neck", "head_top", "pelvis", "thorax", "spine", "jaw", "head")
_FACE5 = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_GT24 = (*_J19, *_FACE5)
# OpenPose's BODY_25, each with the point of the body that stands for it.
_OPENPOSE = {
    "nose": "vertex:nose", "neck": "neck", "right_shoulder": "right_shoulder", "right_elbow": "right_elbow",
    "right_wrist": "right_wrist", "left_shoulder": "left_shoulder", "left_elbow": "left_elbow",
    "left_wrist": "left_wrist", "mid_hip": "pelvis", "right_hip": "right_hip", "right_knee": "right_knee",
    "right_ankle": "right_ankle", "left_hip": "left_hip", "left_knee": "left_knee", "left_ankle": "left_ankle",
    "right_eye": "vertex:right_eye", "left_eye": "vertex:left_eye", "right_ear": "vertex:right_ear",
    "left_ear": "vertex:left_ear", "left_big_toe": "vertex:left_big_toe", "left_small_toe": "vertex:left_small_toe",
    "left_heel": "vertex:left_heel", "right_big_toe": "vertex:right_big_toe",
    "right_small_toe": "vertex:right_small_toe", "right_heel": "vertex:right_heel"}
_FEET6 = tuple(n for n in _OPENPOSE if n.endswith(("toe", "heel")))


def _gt_landmark(name, limb_prefix=""):
  """What stands for a joint of the 24 annotated ones; SPIN takes limbs from the chain but hips from its regressor."""
  if name in ("right_hip", "left_hip"):
    return f"extra:{name}_lsp"
  if name in _LIMBS12:
    return limb_prefix + name
  if name in _FACE5:
    return f"vertex:{name}"
  return next(f"extra:{n}" for n in EXTRA9 if n.rsplit("_", 1)[0] == name)


def _table():
  """{set: ((name, landmark), ...)}."""
  chain = [(n, n) for n in SMPL24]
  vertex = [(n, f"vertex:{n}") for n in VERTEX21]
  op25 = [(f"op_{n}", landmark) for n, landmark in _OPENPOSE.items()]
  gt24 = [(n, _gt_landmark(n)) for n in _GT24]
  j19 = [(n, f"j19:{n}") for n in _J19]
  h36m_j17 = [(n, f"h36m:{n}") for n in (*_LIMBS12, "neck", "head", "pelvis", "spine", "jaw")]
  of_gt = lambda *names: [(n, _gt_landmark(n)) for n in names]
  sets = {
      "smpl24": chain,                              # the kinematic chain
      "smplx45": chain + vertex,                    # what the smplx package returns
      "spin54": chain + vertex + [(n, f"extra:{n}") for n in EXTRA9],
      "spin49": op25 + gt24,                        # HMR, SPIN, EFT training
      "gt24": gt24,                                 # the annotated half of spin49
      "openpose25": op25,                           # OpenPose BODY_25
      "openpose18": [e for e in op25 if e[0][3:] not in (*_FEET6, "mid_hip")],  # EFT's
      "prohmr44": op25 + j19,
      "j19": j19,
      "graphcmr24": [(n, _gt_landmark(n, "regressed:")) for n in _GT24],
      "h36m17": [(n, f"h36m:{n}") for n in H36M17],  # order of the evaluation regressor, left side first
      "lift17": [(n, f"h36m:{n}") for n in _RIGHT_FIRST],  # the same in the data set's own order: 3D poses of lifting
      "lift16": [(n, f"h36m:{n}") for n in _DETECTED],     # those that detectors find, in the order of MPII's 16
      "h36m_j17": h36m_j17,                         # evaluation order: limbs, neck, head, pelvis, spine, jaw
      "h36m_j14": h36m_j17[:14],
      "lsp14": h36m_j17[:14],                       # the same joints under their usual name
      "prohmr_h36m17": [(n, f"j19:{n}") for n in (*_LIMBS12, "neck", "pelvis", "spine", "jaw", "head")],
      "mpi17": [(n, f"j19:{n}") for n in (*_LIMBS12, "neck", "head_top", "pelvis", "spine", "jaw")],
      "lsp_annotated14": of_gt(*_LIMBS12, "neck", "head_top"),
      "coco17": of_gt(*_FACE5, *(f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
                                 for side in ("left", "right"))),
      "mpii16": of_gt(*_LIMBS12[:6], "pelvis", "thorax", "neck", "head_top", *_LIMBS12[6:])}
  return {name: tuple(entries) for name, entries in sets.items()}


_SETS = _table()
SETS = tuple(_SETS)
# In these a name is a point of the body: "right_hip" is the chain's, not the annotated one. They map by landmark.
_BODY_SETS = ("smpl24", "smplx45", "spin54")

# Bones: each joint hangs from the first of these that its set has.
_HANGS_FROM = {
    "knee": ("hip",), "ankle": ("knee",), "foot": ("ankle",), "elbow": ("shoulder",), "wrist": ("elbow",),
    "hand": ("wrist",), "big_toe": ("foot", "ankle"), "small_toe": ("foot", "ankle"), "heel": ("ankle",),
    "hip": ("pelvis", "mid_hip", "neck", "shoulder"), "shoulder": ("collar", "thorax", "neck", "+left_shoulder"),
    "collar": ("spine3",), "spine": ("pelvis",), "thorax": ("spine", "pelvis"),
    "neck": ("spine3", "thorax", "spine", "pelvis", "mid_hip"), "jaw": ("neck",), "head": ("jaw", "neck"),
    "head_top": ("head", "neck"), "nose": ("jaw", "head", "neck"), "eye": ("nose",), "ear": ("eye",),
    "spine1": ("pelvis",), "spine2": ("spine1",), "spine3": ("spine2",),
    **{finger: ("hand",) for finger in ("thumb", "index", "middle", "ring", "pinky")}}


def _entries(set_name):
  if set_name not in _SETS:
    raise ValueError(f"joint set {set_name!r} is not one of {SETS}")
  return _SETS[set_name]


def names(set_name):
  """Names of a set's joints, in order."""
  return tuple(name for name, _ in _entries(set_name))


def landmarks(set_name):
  """What a body must supply for each joint of the set; two joints may share one."""
  return tuple(landmark for _, landmark in _entries(set_name))


def index(set_name, name):
  """Position of a joint in a set; ValueError names the set's joints when it has no such one."""
  if name not in names(set_name):
    raise ValueError(f"joint set {set_name!r} has no {name!r}: it has {names(set_name)}")
  return names(set_name).index(name)


@functools.lru_cache(maxsize=None)
def flip(set_name):
  """Permutation that swaps left and right: mirrored joints are `mirror(x[..., flip, :])`. An involution."""
  return tuple(index(set_name, _other_side(name)) for name in names(set_name))


def _other_side(name):
  swap = {"left": "right", "right": "left"}
  return "_".join(swap.get(word, word) for word in name.split("_"))


@functools.lru_cache(maxsize=None)
def mapping(src, dst):
  """Indices such that `x_dst = x_src[..., mapping(src, dst), :]`.

  Joints match by name between sets of annotations, and by landmark where either set is a body's own points (smpl24,
  smplx45, spin54). To scatter a smaller set into a larger one use `x_large.at[..., mapping(large, small), :].set(x)`.
  Raises:
    ValueError: when src lacks joints of dst, naming them.
  """
  key = landmarks if {src, dst} & set(_BODY_SETS) else names
  have = {entry: i for i, entry in reversed(list(enumerate(key(src))))}
  missing = [name for name, entry in zip(names(dst), key(dst)) if entry not in have]
  if missing:
    raise ValueError(f"joint set {src!r} lacks {missing} of {dst!r}")
  return tuple(have[entry] for entry in key(dst))


@functools.lru_cache(maxsize=None)
def edges(set_name):
  """Bones to draw, as pairs (i, j) of positions in the set."""
  if set_name == "smpl24":
    return tuple((parent, i) for i, parent in enumerate(PARENTS) if parent >= 0)
  have = {name: i for i, name in enumerate(names(set_name))}
  bones = []
  for name, i in have.items():
    prefix = "op_" if name.startswith("op_") else ""
    parent = next((have[n] for n in _candidates(name.removeprefix(prefix), prefix) if n in have and have[n] != i), None)
    if parent is not None:
      bones.append((parent, i))
  return tuple(bones)


def _candidates(name, prefix):
  """Names a joint may hang from: of its own side, or of none, best first."""
  side, _, part = name.partition("_")
  side, part = (side + "_", part) if side in ("left", "right") else ("", name)
  for other in _HANGS_FROM.get(part, ()):
    if other.startswith("+"):
      yield prefix + other[1:]
    else:
      yield prefix + side + other
      yield prefix + other
