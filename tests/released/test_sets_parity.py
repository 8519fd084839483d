"""What the trainers of GraphCMR and 3D Multi-bodies save is read as torch reads it, whatever else is in the file."""

from jhmr.errors import InputError
from jhmr.released import graphcmr, keys, multibodies, torch_file
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def optimizer():
  layer = torch.nn.Linear(3, 3)
  made = torch.optim.Adam(layer.parameters(), lr=3e-4)
  layer(torch.ones(1, 3)).sum().backward()
  made.step()
  return made.state_dict()


@pytest.mark.parametrize("zipped", [True, False])
def test_both_networks_of_a_graphcmr_are_read_and_its_optimiser_is_not(tmp_path, zipped):
  graph, perceptron = torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(5)
  saved = {"graph_cnn": graph.state_dict(), "smpl_param_regressor": perceptron.state_dict(),
           "optimizer": optimizer(), "epoch": 3, "batch_idx": 7, "batch_size": 16, "dataset_perm": torch.randperm(9),
           "total_step_count": 12}
  torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
  found = torch_file.read(str(tmp_path / "a.pt"), graphcmr.INSIDE)
  expected = {f"graph_cnn.{k}": v for k, v in graph.state_dict().items()} | {
      f"smpl_param_regressor.{k}": v for k, v in perceptron.state_dict().items()}
  assert list(found) == list(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value.numpy())


def test_a_graphcmr_of_one_network_is_refused_by_name(tmp_path):
  torch.save({"graph_cnn": torch.nn.Linear(4, 2).state_dict(), "epoch": 3}, tmp_path / "a.pt")
  with pytest.raises(InputError, match="holds no smpl_param_regressor"):
    graphcmr.convert(torch_file.read(str(tmp_path / "a.pt"), graphcmr.INSIDE), None, "a.pt")


def test_the_bare_state_of_a_parallel_multibodies_is_read(tmp_path):
  net = torch.nn.Module()
  net.model = torch.nn.Module()
  net.model.model = torch.nn.Linear(4, 2)
  state = torch.nn.DataParallel(net).state_dict()
  torch.save(state, tmp_path / "model_epoch_00000001.pth")
  found = torch_file.read(str(tmp_path / "model_epoch_00000001.pth"), multibodies.INSIDE)
  assert list(found) == ["module.model.model.weight", "module.model.model.bias"]
  assert all(k.startswith(multibodies.PREFIX) for k in keys.without_prefix(found, "module."))
