"""Joint tables against the lists in the authors' code, flips, mappings and bones."""

from jhmr.body import joints
import pytest

# The 54 -> 49 map of SPIN's models/smpl.py (JOINT_MAP over JOINT_NAMES).
SPIN49_FROM_54 = (24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
                  8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, 47, 48, 49, 50, 51, 52, 53, 24, 26, 25, 28, 27)
FLIP24 = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
FLIP_OP25 = (0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11, 16, 15, 18, 17, 22, 23, 24, 19, 20, 21)
FLIP_GT24 = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 15, 16, 17, 18, 19, 21, 20, 23, 22)
H36M_TO_J17 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9)
SIZES = {"smpl24": 24, "smplx45": 45, "spin54": 54, "spin49": 49, "gt24": 24, "openpose25": 25, "openpose18": 18,
         "prohmr44": 44, "j19": 19, "graphcmr24": 24, "h36m17": 17, "lift17": 17, "lift16": 16, "h36m_j17": 17, "h36m_j14": 14, "lsp14": 14,
         "prohmr_h36m17": 17, "mpi17": 17, "lsp_annotated14": 14, "coco17": 17, "mpii16": 16}


def shifted(indices, by):
  return tuple(i + by for i in indices)


def test_every_set_has_its_size_unique_names_and_a_landmark_each():
  assert {s: len(joints.names(s)) for s in joints.SETS} == SIZES
  for s in joints.SETS:
    assert len(set(joints.names(s))) == SIZES[s] == len(joints.landmarks(s))


def test_kinematic_tree():
  assert joints.PARENTS == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
  assert all(parent < i for i, parent in enumerate(joints.PARENTS))
  assert joints.names("smpl24") == joints.SMPL24
  assert joints.index("smpl24", "left_hand") == 22


def test_vertex_joints_are_smplx_in_its_order():
  assert joints.names("smplx45")[24:] == joints.VERTEX21
  assert tuple(joints.VERTEX_IDS[n] for n in joints.VERTEX21) == (
      332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
      2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133)
  assert joints.VERTEX_IDS["head_top"] == 411
  assert joints.index("smplx45", "right_pinky") == 44


def test_spin_mapping_from_54_to_49():
  assert joints.mapping("spin54", "spin49") == SPIN49_FROM_54
  unused = set(range(54)) - set(SPIN49_FROM_54)
  assert unused == {3, 6, 9, 10, 11, 13, 14, 15, 22, 23, *range(35, 45)}


def test_openpose_comes_from_the_45():
  assert joints.mapping("smplx45", "openpose25") == SPIN49_FROM_54[:25]


def test_identities_of_the_49():
  landmark = joints.landmarks("spin49")
  for a, b in ((0, 44), (25, 11), (26, 10), (31, 4), (33, 2), (30, 14), (45, 16), (48, 17)):
    assert landmark[a] == landmark[b]
  assert landmark[27] != landmark[9]  # the annotated hip is not the chain's


def test_names_of_the_49():
  name = joints.names("spin49")
  assert name[0] == "op_nose" and name[8] == "op_mid_hip" and name[24] == "op_right_heel"
  assert name[25] == "right_ankle" and name[37:44] == ("neck", "head_top", "pelvis", "thorax", "spine", "jaw", "head")
  assert name[44:] == ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
  assert name[25:] == joints.names("gt24") and name[:25] == joints.names("openpose25")


def test_openpose18_is_body25_without_mid_hip_and_feet():
  assert joints.mapping("openpose25", "openpose18") == (*range(8), *range(9, 19))


def test_prohmr44_is_openpose_and_the_first_nineteen():
  assert joints.names("prohmr44") == joints.names("openpose25") + joints.names("gt24")[:19]
  assert joints.landmarks("prohmr44")[25:] == tuple(f"j19:{n}" for n in joints.names("gt24")[:19])
  assert joints.index("prohmr44", "pelvis") == 39
  assert joints.mapping("spin49", "prohmr44") == tuple(range(44))


def test_prohmr_evaluation_lists():
  assert joints.mapping("prohmr44", "lsp14") == (*range(25, 38), 43)
  assert joints.mapping("prohmr44", "mpi17") == (*range(25, 39), 39, 41, 42)
  assert joints.mapping("prohmr44", "prohmr_h36m17") == (*range(25, 38), 39, 41, 42, 43)


def test_graphcmr_set_indexes_its_38_rows():
  """24 rows of J_regressor, then nose, eyes and ears, then SPIN's nine, all from posed vertices."""
  rows = [f"regressed:{n}" for n in joints.SMPL24]
  rows += [f"vertex:{n}" for n in joints.VERTEX21[:5]] + [f"extra:{n}" for n in joints.EXTRA9]
  assert tuple(rows.index(landmark) for landmark in joints.landmarks("graphcmr24")) == (
      8, 5, 29, 30, 4, 7, 21, 19, 17, 16, 18, 20, 31, 32, 33, 34, 35, 36, 37, 24, 26, 25, 28, 27)


def test_evaluation_lists_of_the_h36m_regressor():
  assert joints.names("h36m17")[:7] == ("pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee",
                                        "right_ankle")
  assert joints.mapping("h36m17", "h36m_j17") == H36M_TO_J17
  assert joints.mapping("h36m17", "lsp14") == joints.mapping("h36m17", "h36m_j14") == H36M_TO_J17[:14]
  assert joints.mapping("gt24", "h36m_j17") == (*range(13), 18, 14, 16, 17)
  assert joints.mapping("gt24", "lsp14") == (*range(13), 18)
  assert joints.index("h36m17", "pelvis") == 0


def test_data_sets_in_the_24():
  assert joints.mapping("gt24", "coco17") == (19, 20, 21, 22, 23, 9, 8, 10, 7, 11, 6, 3, 2, 4, 1, 5, 0)
  assert joints.mapping("gt24", "mpii16") == (0, 1, 2, 3, 4, 5, 14, 15, 12, 13, 6, 7, 8, 9, 10, 11)
  assert joints.mapping("gt24", "lsp_annotated14") == tuple(range(14))
  assert joints.mapping("gt24", "h36m17") == (14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6)
  assert all(len(raw) == 17 and len(set(raw)) == 17 for raw in joints.RAW_TO_H36M17.values())


@pytest.mark.parametrize("s", joints.SETS)
def test_flip_is_an_involution_that_swaps_sides(s):
  flip, names = joints.flip(s), joints.names(s)
  assert tuple(flip[i] for i in flip) == tuple(range(len(names)))
  for i, j in enumerate(flip):
    sided = any(side in names[i] for side in ("left", "right"))
    assert (i != j) == sided and len(names[i].split("_")) == len(names[j].split("_"))


def test_flips_are_the_authors():
  assert joints.flip("smpl24") == FLIP24
  assert joints.flip("gt24") == FLIP_GT24
  assert joints.flip("spin49") == FLIP_OP25 + shifted(FLIP_GT24, 25)
  assert joints.flip("prohmr44") == FLIP_OP25 + shifted(FLIP_GT24[:19], 25)


@pytest.mark.parametrize("s", joints.SETS)
def test_edges_form_a_forest_inside_the_set(s):
  edges, size = joints.edges(s), SIZES[s]
  children = [j for _, j in edges]
  assert len(set(children)) == len(children) and all(0 <= i < size and 0 <= j < size and i != j for i, j in edges)
  root = list(range(size))
  for i, j in edges:  # union of trees: a cycle would join two joints of one tree
    a, b = root[i], root[j]
    assert a != b
    root = [a if r == b else r for r in root]
  assert len(set(root)) <= (11 if s == "spin54" else 3)  # the nine extras of the 54 stand alone
  mirrored = {frozenset(joints.flip(s)[i] for i in edge) for edge in edges}
  assert mirrored == {frozenset(edge) for edge in edges}


def test_impossible_mappings_and_unknown_names_say_what_is_missing():
  with pytest.raises(ValueError, match="thorax"):
    joints.mapping("coco17", "gt24")
  with pytest.raises(ValueError, match="lacks .*right_hip.* of 'gt24'"):
    joints.mapping("smplx45", "gt24")  # by landmark: the chain's hip is not the annotated one
  with pytest.raises(ValueError, match="'elbow'"):
    joints.index("coco17", "elbow")
  with pytest.raises(ValueError, match="'coco18'"):
    joints.names("coco18")
