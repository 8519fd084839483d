"""What SPIN's trainer saves is read as torch reads it, whatever else is in the file."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jhmr.nn import resnet  # pylint: disable=wrong-import-position
from jhmr.released import spin, torch_file  # pylint: disable=wrong-import-position
import ml_collections  # pylint: disable=wrong-import-position
from released import authors  # pylint: disable=wrong-import-position

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trainers_checkpoint_is_taken(tmp_path, monkeypatch, zipped):
  tiny = resnet.Architecture(stem=7, pool=True, blocks=(1, 1, 1, 1), width=4, expansion=4)
  monkeypatch.setitem(resnet.ARCHITECTURES, "resnet_test", tiny)
  shapes = authors.spin_shapes(authors.resnet_shapes(tiny.blocks, tiny.width, True), tiny.features, head=8)
  arrays = authors.numbers(shapes) | authors.spin_start()
  layer = torch.nn.Linear(3, 3)
  optimizer = torch.optim.Adam(layer.parameters(), lr=5e-5)
  layer(torch.ones(1, 3)).sum().backward()
  optimizer.step()
  saved = {"model": {k: torch.tensor(v) for k, v in arrays.items()}, "optimizer": optimizer.state_dict(), "epoch": 3,
           "batch_idx": 0, "batch_size": 64, "dataset_perm": torch.randperm(9), "total_step_count": 12}
  torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
  found = spin.convert(torch_file.read(str(tmp_path / "a.pt"), spin.INSIDE),
                       ml_collections.ConfigDict(dict(backbone="resnet_test", hidden=8)), "a.pt")
  np.testing.assert_array_equal(found.params["net"]["head"]["fc1"]["kernel"], arrays["fc1.weight"].T)
  np.testing.assert_array_equal(found.start["betas"], arrays["init_shape"][0])
