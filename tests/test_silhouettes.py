"""Counts of pixels against loops written from the protocol, and the rule for ignored ones."""

import numpy as np
import pytest

from jhmr import silhouettes


def slow_scores(people):
  """(accuracy, F1, part accuracy, part F1) of [(predicted, mask, parts)], one pixel after another."""
  equal = part_equal = pixels = 0
  tp, fp, fn = np.zeros((3, 2))
  part_tp, part_fp, part_fn = np.zeros((3, 7))
  for predicted, mask, parts in people:
    for p, m, g in zip(predicted.ravel(), mask.ravel() > 0, parts.ravel()):
      pixels += 1
      equal += (p > 0) == m
      for c in range(2):
        tp[c] += (m == c) and (p > 0) == c
        fp[c] += (m != c) and (p > 0) == c
        fn[c] += (m == c) and (p > 0) != c
      for c in range(7):
        said = p == c and g != 255  # a prediction on an ignored pixel is taken back ...
        part_tp[c] += g == c and said
        part_fp[c] += g != c and said
        part_fn[c] += g == c and not said
      part_equal += (0 if g == 255 else g) == p  # ... but here the pixel is background, and counts
  f1 = lambda tp, fp, fn: np.mean(2 * tp / (2 * tp + fp + fn))
  return 100 * equal / pixels, f1(tp, fp, fn), 100 * part_equal / pixels, f1(part_tp, part_fp, part_fn)


def scores(people):
  counts = [silhouettes.count(*p) for p in people]
  found = silhouettes.replicates({k: np.stack([c[k] for c in counts]) for k in counts[0]}, num=20)
  return [found[n][0] for n in ("fb_accuracy_percent", "fb_f1", "part_accuracy_percent", "part_f1")]


def random_people(num=3):
  rng = np.random.default_rng(0)
  return [(rng.integers(0, 7, (9, 8 + i)).astype(np.uint8), 200 * rng.integers(0, 2, (9, 8 + i)).astype(np.uint8),
           rng.choice([0, 1, 2, 3, 4, 5, 6, 255], (9, 8 + i)).astype(np.uint8)) for i in range(num)]


def test_scores_are_those_of_the_protocol():
  np.testing.assert_allclose(scores(random_people()), slow_scores(random_people()), rtol=1e-12)


def test_ignored_pixels():
  truth = np.array([[0, 255, 255, 3]], np.uint8)
  said = np.array([[0, 0, 3, 3]], np.uint8)
  found = silhouettes.count(said, truth > 0, truth)
  assert found["parts"].tolist()[3] == [1, 0, 0]  # the arm on the ignored pixel is no false positive
  assert found["part_equal"] == 3                 # but it is not background either


def test_the_truth_scores_all():
  people = [(p, 255 * (p > 0).astype(np.uint8), p) for p, _, _ in random_people()]
  assert scores(people) == [100, 1, 100, 1]


def test_a_class_that_nobody_has_is_left_out():
  labels = np.array([[0, 1, 1, 6]], np.uint8)
  assert scores([(labels, labels, labels)]) == [100, 1, 100, 1]


@pytest.mark.parametrize("mask, parts, said", [
    (np.zeros((3, 3)), np.zeros((2, 2), np.uint8), "silhouette have"),
    (np.zeros((2, 2)), np.zeros((2, 3), np.uint8), "part labels have"),
    (np.zeros((2, 2)), np.full((2, 2), 9, np.uint8), "hold a 9")])
def test_labels_that_do_not_fit_are_an_error(mask, parts, said):
  with pytest.raises(ValueError, match=said):
    silhouettes.count(np.zeros((2, 2), np.uint8), mask, parts)
