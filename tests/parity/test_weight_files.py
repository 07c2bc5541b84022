"""Weight files of PyTorch's own making; `make parity` installs what it needs."""

import pytest

from bertjax.convert.safetensors_file import read_safetensors
from bertjax.convert.torch_pickle import read_torch_pickle

torch = pytest.importorskip("torch", reason="torch is not installed; make parity installs it")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; make parity installs it"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend


def bert():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 99, "max_position_embeddings": 40}
    config = transformers.BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=2)
    return transformers.BertForPreTraining(config)


def tensors():
    """Every type and kind of view."""
    x = torch.randn(6, 5)
    views = {"x": x, "transposed": x.T, "steps": x[1:4, ::2], "column": x[:, 2], "row": x[2:3].T}
    views |= {"permuted": torch.randn(2, 3, 4)[:, :, 1:3].permute(2, 0, 1), "scalar": torch.tensor(3.5)}
    views |= {"empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(torch.randn(3))}
    views |= {"expanded": torch.arange(9).expand((1, -1)), "transposed bfloat16": x.bfloat16().T}
    types = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    types += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    return views | {str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in types}


def check(found, state):
    assert found.keys() == state.keys()
    for name, want in state.items():
        assert (found[name].shape, f"torch.{found[name].dtype}") == (tuple(want.shape), str(want.dtype))
        want = (want.float() if want.dtype == torch.bfloat16 else want).detach().numpy()
        array = found[name].read()
        assert (array.dtype, array.shape, array.tobytes()) == (want.dtype, want.shape, want.tobytes())


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("state", [tensors, lambda: bert().state_dict(), lambda: bert().half().state_dict()])
def test_both_layouts_of_torch_save(tmp_path, zipped, state):
    torch.manual_seed(0)
    state = state()
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    check(read_torch_pickle(str(tmp_path / "x.bin")), state)


def test_a_file_without_checksums(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(3)}, tmp_path / "x.bin")
    finally:
        torch.serialization.set_crc32_options(before)
    check(read_torch_pickle(str(tmp_path / "x.bin")), {"x": torch.arange(3)})


def test_shards_of_safetensors(tmp_path):
    model = bert().bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    found = read_safetensors(str(tmp_path / "model.safetensors.index.json"))
    tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
    check(found, {name: x for name, x in model.state_dict().items() if name not in tied})
