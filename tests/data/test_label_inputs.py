"""Body parts and surface coordinates of data sets on disk and of files: nearest pixels, sides exchanged, bad files."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jhmr import evaluate_files
from jhmr import predict
from jhmr.body import joints
from jhmr.body import smpl
from jhmr.data import augment
from jhmr.data import build
from jhmr.data import images
from jhmr.data import inputs
from jhmr.data import records
from jhmr.data import source
from jhmr.data.builders import examples
from jhmr.errors import InputError
import disk
import people
import test_spin_people

SIZE = disk.SIZE
KINDS = ("parts", "iuv")


def labels(i, kind, height=SIZE, width=SIZE):
  """Blocks of labels, unlike those of other i."""
  rng = np.random.default_rng((i, KINDS.index(kind)))
  coarse = rng.integers(0, 25, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
  part = np.kron(coarse, np.ones((8, 8), np.uint8))[:height, :width]
  if kind == "parts":
    return part
  return np.concatenate([part[..., None], rng.integers(0, 256, (height, width, 2), np.uint8)], -1) * (
      part > 0)[..., None].astype(np.uint8)


def record(i):
  image = disk.jpeg(disk.picture(i))
  maps = {kind: io.BytesIO(disk.png(labels(i, kind))) for kind in KINDS}
  return examples.record(i, image, [SIZE / 2, SIZE / 2, SIZE / 1.5], (SIZE, SIZE), has_pose=np.float32(1), **maps)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  out = tmp_path_factory.mktemp("data") / "set"
  examples.write(out, {"train": [record(i) for i in range(8)], "val": [record(i) for i in range(4)]})
  return out


def slow_crop(image, affine, size):
  """The nearest pixel of every pixel of a crop, one by one."""
  out = np.zeros((size, size, *image.shape[2:]), np.uint8)
  back = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
  for y in range(size):
    for x in range(size):
      u, v, _ = np.floor(back @ [x + 0.5, y + 0.5, 1]).astype(int)
      if 0 <= u < image.shape[1] and 0 <= v < image.shape[0]:
        out[y, x] = image[v, u]
  return out


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_shows_labels_of_the_nearest_pixel(built, kind):
  batch = source.open_split(disk.config(built, batch_size=4, image_size=31, input=kind), None, "val").batch(0)
  assert not set(batch) & set(augment.MAPS)
  for i in range(4):
    affine = images.crop_affine([SIZE / 2] * 2, SIZE / 1.5, 31)
    crop = slow_crop(labels(i, kind), affine, 31)
    expected = inputs.PALETTE[crop] if kind == "parts" else crop * np.uint8([10, 1, 1])
    assert np.mean(np.any(batch["image"][i] != expected, -1)) < 0.02  # OpenCV rounds to 1/1024 of a pixel
  np.testing.assert_array_equal(images.to_uint8(images.normalize(batch["image"])), batch["image"])


@pytest.mark.parametrize("kind", KINDS)
def test_training_flips_exchange_sides_and_gains_leave_labels_alone(built, kind):
  batch = source.open_source(disk.config(built, batch_size=8, input=kind, maps=True), None).batch(0)
  np.testing.assert_array_equal(batch["gain"], 1)
  assert 0 < batch["flip"].sum() < 8
  np.testing.assert_array_equal(batch["image"], inputs.picture(kind, batch))
  example = {name: value for name, value in disk.record(0).items() if name not in (*records.MAPS, "image")} | {
      kind: labels(0, kind), "box": np.array([SIZE / 2, SIZE / 2, SIZE])}
  plain, flipped = (augment.apply(example, augment.Augmentation(flip=f), SIZE, kind=kind) for f in (False, True))
  part = (lambda x: x[kind] if kind == "parts" else x[kind][..., 0])
  flip = [0, *(j + 1 for j in joints.flip("smpl24"))]
  np.testing.assert_array_equal(part(flipped), np.array(flip)[part(plain)[:, ::-1]])
  if kind == "parts":  # a mirrored picture with red and blue exchanged
    np.testing.assert_array_equal(flipped["image"], plain["image"][:, ::-1, ::-1])
  else:
    inside = part(flipped) > 0
    mirrored = plain["iuv"][:, ::-1]
    np.testing.assert_array_equal(flipped["iuv"][inside, 1], 255 - mirrored[inside, 1])
    np.testing.assert_array_equal(flipped["iuv"][inside, 2], mirrored[inside, 2])
    assert not flipped["iuv"][~inside].any()


def test_the_chart_of_a_body_is_mirrored_as_flips_mirror_it():
  arrays, surface = smpl.load_arrays("mannequin_small"), people.assets()["surface"]
  middle = arrays["v_template"][np.asarray(surface.faces)].mean(1)
  iuv = np.asarray(inputs.encode_iuv(surface.iuv.mean(1)))
  near = np.argmin(((middle[None] - middle[:, None] * [-1, 1, 1]) ** 2).sum(-1), 1)  # the face across
  expected = inputs.mirrored("iuv", iuv)
  np.testing.assert_array_equal(expected[:, 0], iuv[near, 0])
  off = (expected[:, 1:].astype(int) - iuv[near][:, 1:] + 128) % 256 - 128  # U goes around
  assert np.mean(np.any(off, 1)) < 0.01  # faces cut off at the seam


def test_densepose_exchanges_its_own_parts():
  iuv = np.array([[[i, 10, 20] for i in range(25)]], np.uint8)
  found = inputs.mirrored("iuv", iuv, "densepose")
  assert found[0, :, 0].tolist() == [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21,
                                     24, 23]
  np.testing.assert_array_equal(found[..., 1:], iuv[..., 1:])


def test_a_data_set_without_labels_is_named(tmp_path):
  plain = disk.write(tmp_path / "plain", 3, 1)
  for kind in KINDS:
    with pytest.raises(InputError, match=f"split 'train' .* has no {kind}: build it"):
      disk.training(plain, input=kind)
  for data, said in ((dict(input="depth"), "config.data.input is 'depth': one of rgb, parts, iuv"),
                     (dict(chart="cylinder"), "config.data.chart is 'cylinder': body or densepose")):
    with pytest.raises(InputError, match=said):
      disk.training(plain, **data)


def test_a_data_set_of_an_earlier_version_has_all_but_surface_coordinates(tmp_path, monkeypatch):
  features = records.features()
  monkeypatch.setattr(records, "features", lambda: tfds.features.FeaturesDict(
      {name: feature for name, feature in features.items() if name != "iuv"}))
  earlier = lambda i: {name: value for name, value in record(i).items() if name != "iuv"}
  examples.write(tmp_path / "old", {"train": [earlier(i) for i in range(2)]})
  monkeypatch.undo()
  batch = disk.training(tmp_path / "old", batch_size=2, maps=True).batch(0)
  assert "parts" in batch and "iuv" not in batch
  disk.training(tmp_path / "old", batch_size=2, input="parts").batch(0)
  for maps in (False, True):
    with pytest.raises(InputError, match="old' lacks iuv: build it again, or choose another config.data.input"):
      disk.training(tmp_path / "old", input="iuv", maps=maps)


def test_labels_of_files(tmp_path):
  parts, iuv = labels(0, "parts"), labels(0, "iuv")
  files = {"grey": parts, "three": np.repeat(parts[..., None], 3, -1), "colours": inputs.PALETTE[parts][..., ::-1],
           "wide": parts.astype(np.uint16)}
  for name, image in files.items():
    (tmp_path / f"{name}.png").write_bytes(disk.png(image))
    np.testing.assert_array_equal(inputs.read(str(tmp_path / f"{name}.png"), "parts"), parts, err_msg=name)
  (tmp_path / "iuv.png").write_bytes(disk.png(iuv))
  np.testing.assert_array_equal(inputs.read(str(tmp_path / "iuv.png"), "iuv"), iuv)


@pytest.mark.parametrize("kind, content, said", [
    ("parts", None, "No such file"), ("parts", b"", "empty"), ("parts", disk.png(labels(0, "parts"))[:60], "truncated"),
    ("parts", b"<html>", "cannot be decoded"), ("parts", disk.png(np.full((4, 4), 25, np.uint8)), "holds 25, not parts"),
    ("parts", disk.png(np.full((4, 4, 3), (1, 2, 3), np.uint8)), "colours are not those"),
    ("iuv", disk.png(labels(0, "parts")), "not three channels"),
    ("iuv", disk.png(np.full((4, 4, 3), 40, np.uint8)), "I, holds 40"),
    ("iuv", disk.png(np.zeros((4, 4, 3), np.uint16)), "uint16")])
def test_a_file_of_something_else_is_one_line(tmp_path, kind, content, said):
  if content is not None:
    (tmp_path / "x.png").write_bytes(content)
  with pytest.raises(InputError) as error:
    inputs.read(str(tmp_path / "x.png"), kind)
  assert said in str(error.value) and "x.png" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_commands_cut_the_same_crop_of_a_label_file(tmp_path, kind):
  path = tmp_path / "a.png"
  path.write_bytes(disk.png(labels(3, kind)))
  person, = predict.people_of(str(path), {"a.png": np.array([[10.3, 12.1, 40, 43.7]])}, 30, kind)
  affine = images.crop_affine(person["box_center_px"], person["box_size_px"], 30)
  crop = slow_crop(labels(3, kind), affine, 30)
  expected = inputs.PALETTE[crop] if kind == "parts" else crop * np.uint8([10, 1, 1])
  assert np.mean(np.any(person["crop"] != expected, -1)) < 0.02
  np.testing.assert_array_equal(person["crop"], evaluate_files.read_crop(
      str(path), person["box_center_px"], person["box_size_px"] / 200, 30, kind=kind))
  assert inputs.name_of("photos/a.jpg", kind) == "photos/a.png" and inputs.name_of("a.jpg", "rgb") == "a.jpg"


def test_photographs_get_their_labels(tmp_path):
  made = test_spin_people.annotations(tmp_path)
  for kind in KINDS:
    (tmp_path / kind).mkdir()
    for i in range(test_spin_people.NUM):
      (tmp_path / kind / f"{i}.png").write_bytes(disk.png(labels(i, kind, 160, 200)))
  command = ["build", "--spin-npz", str(tmp_path / "set.npz"), "--images", str(tmp_path), "--parts",
             str(tmp_path / "parts"), "--iuv", str(tmp_path / "iuv"), "--out"]
  build.main([*command, str(tmp_path / "set")])
  data, wanted = records.open_split(str(tmp_path / "set"), "train")
  for i in range(test_spin_people.NUM):
    record = records.decode(data[i], wanted)
    assert record["parts"].shape == record["iuv"].shape[:2] == record["image"].shape[:2]
    whole = record | {kind: labels(i, kind, 160, 200) for kind in KINDS} | {
        "box": np.array([*made["center"][i], test_spin_people.SIDES[i]])}
    for kind in KINDS:
      for chosen in (augment.Augmentation(), augment.Augmentation(True, np.pi / 4, 1.25)):
        mine, theirs = (augment.apply(x, chosen, 48, kind=kind)["image"] for x in (record, whole))
        assert np.mean(np.any(mine != theirs, -1)) < 0.02
  (tmp_path / "parts/3.png").write_bytes(disk.png(labels(3, "parts", 20, 20)))
  with pytest.raises(InputError, match=r"parts/3.png' has \(20, 20\) pixels where its photograph has \(160, 200\)"):
    build.main([*command, str(tmp_path / "other")])
  (tmp_path / "iuv/2.png").unlink()
  with pytest.raises(InputError, match="lacks 2.png .* or leave out --iuv"):
    build.main([*command, str(tmp_path / "other")])
  assert not (tmp_path / "other").exists()
