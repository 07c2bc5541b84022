"""Hidden states of texts, and the files that hold them."""

import contextlib
import json
import os
import sys

import h5py
import numpy as np
import pytest
from predict_fixture import states

from bertjax.data.finetuning.sequences import encode
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.predict import __main__ as predict
from bertjax.predict import predictor as predictor_module
from bertjax.predict.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_device")


def test_embeddings_are_the_encoders_states(model):
    texts = ["w8 w9", ("w8 w10s", "The w12"), "w9 " * 40, *(f"w{8 + i % 40}" for i in range(30))]
    predictor = Predictor(model)
    wanted = [states(model, *((text,) if isinstance(text, str) else text)) for text in texts]
    for layer in (-1, 0, 2, -3):
        for x, want in zip(predictor.embed(texts, "tokens", layer), wanted, strict=True):
            np.testing.assert_allclose(x, want[layer], atol=1e-5)
        for x, want in zip(predictor.embed(texts, "mean", layer), wanted, strict=True):
            np.testing.assert_allclose(x, want[layer].mean(0), atol=1e-5)
        for x, want in zip(predictor.embed(texts, "cls", layer), wanted, strict=True):
            np.testing.assert_allclose(x, want[layer][0], atol=1e-5)
    module = model.module()
    for x, want in zip(predictor.embed(texts, "pooled"), wanted, strict=True):
        np.testing.assert_allclose(x, module.pool(want[-1][None, :1])[0, 0], atol=1e-5)


def test_layers_and_poolings_that_there_are_not(model):
    predictor = Predictor(model)
    with pytest.raises(InputError, match=r"layer 4: the model has 0 \(embeddings\) to 3, or -4 to -1"):
        predictor.embed(["w8"], layer=4)
    with pytest.raises(InputError, match="layer sum_last_four: a model of 3 layers has none of that name"):
        predictor.embed(["w8"], layer="sum_last_four")
    with pytest.raises(InputError, match=r"layer top: .* one of last, embeddings, second_to_last"):
        predictor.embed(["w8"], layer="top")
    with pytest.raises(InputError, match="pooling max: it is one of mean, cls, pooled, tokens"):
        predictor.embed(["w8"], "max")
    with pytest.raises(InputError, match="the pooler reads the last layer"):
        predictor.embed(["w8"], "pooled", 1)


def test_truncation_takes_from_the_longer_text(model):
    tokenizer, form = model.tokenizer, bert.KIND.row_form(model.tokenizer)
    pair = ("w8 " * 60, "w9 " * 20)
    with pytest.raises(InputError, match=r"has 83 tokens, the model takes 64; .*--truncate"):
        encode(tokenizer, form, [pair], 64)
    [row] = encode(tokenizer, form, [pair], 64, truncate=True)
    assert (len(row.ids), row.types.count(0), row.types.count(1)) == (64, 43, 21)
    [row] = encode(tokenizer, form, [("w8 " * 70, "w9 " * 80)], 64, truncate=True)
    assert (row.types.count(0), row.types.count(1)) == (33, 31)
    [row] = encode(tokenizer, form, ["w8 " * 70], 64, truncate=True)
    assert (len(row.ids), row.ids[-1], set(row.types)) == (64, tokenizer.sep_id, {0})


def test_the_embed_command(workdir, model, tmp_path, capsys):
    predictor = Predictor(model)
    file = tmp_path / "texts.txt"
    file.write_text("w8 w9\n\nw8 w10s\tThe w12\n")
    texts = ["w8 w9", ("w8 w10s", "The w12")]
    out = tmp_path / "states.npz"
    predict.main(["embed", f"--model={workdir}", f"--input={file}", f"--out={out}", "--layer=1"])
    assert capsys.readouterr().out == f"{out}: embeddings [2, 32]\n"
    np.testing.assert_allclose(np.load(out)["embeddings"], predictor.embed(texts, layer=1), atol=1e-6)

    predict.main(["embed", f"--model={workdir}", f"--input={file}", f"--out={out}", "--pool=tokens"])
    found = np.load(out)
    tokens = predictor.embed(texts, "tokens")
    np.testing.assert_allclose(found["embeddings"], np.concatenate(tokens), atol=1e-6)
    assert found["starts"].tolist() == [0, 4, 4 + len(tokens[1])]
    assert found["tokens"].tolist()[:5] == ["[CLS]", "w8", "w9", "[SEP]", "[CLS]"]
    capsys.readouterr()

    predict.main(["embed", f"--model={workdir}", "--json", "--pool=pooled", "w8 w9"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "w8 w9"
    np.testing.assert_allclose(answer["embedding"], predictor.embed(["w8 w9"], "pooled")[0], atol=1e-6)


@pytest.mark.parametrize("ending", ["npz", "h5", "hdf5"])
def test_files_of_embeddings_hold_the_same(workdir, model, tmp_path, capsys, monkeypatch, ending):
    """Also where they are written part by part."""
    monkeypatch.setattr(predictor_module, "_CHUNK", 4)
    texts = [f"w8 {'w9 ' * i}w12" for i in range(10)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    out = tmp_path / f"states.{ending}"
    flags = ["embed", f"--model={workdir}", f"--input={tmp_path / 'texts.txt'}", f"--out={out}"]
    predictor = Predictor(model)
    for flag, layer in (("--layer=sum_all", "sum_all"), ("--layer=-2", "second_to_last")):
        predict.main([*flags, flag, "--pool=tokens"])
        wanted = predictor.embed(texts, "tokens", layer)
        with contextlib.closing(np.load(out) if ending == "npz" else h5py.File(out)) as file:
            np.testing.assert_allclose(file["embeddings"], np.concatenate(wanted), atol=1e-6)
            assert file["embeddings"].dtype == np.float32
            starts, tokens = file["starts"][:].tolist(), file["tokens"][:].tolist()
        assert starts == np.cumsum([0, *map(len, wanted)]).tolist()
        tokens = [token if ending == "npz" else token.decode() for token in tokens]
        assert tokens[starts[3] : starts[4]] == ["[CLS]", "w8", "w9", "w9", "w9", "w12", "[SEP]"]
        count = starts[-1]
        printed = f"{out}: embeddings [{count}, 32], tokens [{count}], starts [11]\n"
        assert capsys.readouterr().out == printed
    predict.main([*flags, "--layer=sum_all"])
    with contextlib.closing(np.load(out) if ending == "npz" else h5py.File(out)) as file:
        np.testing.assert_allclose(file["embeddings"], predictor.embed(texts, layer="sum_all"), atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == sorted(["texts.txt", out.name])


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_a_file_of_embeddings_is_whole_or_as_it_was(workdir, tmp_path, ending):
    out = tmp_path / f"states.{ending}"
    out.write_bytes(b"another file")
    with pytest.raises(InputError, match="has 72 tokens, the model takes 64"):
        predict.main(["embed", f"--model={workdir}", f"--out={out}", "w8", "w9 " * 70])
    assert os.listdir(tmp_path) == [out.name]
    assert out.read_bytes() == b"another file"


def test_hdf5_needs_an_extra_and_npz_does_not(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = r'states.h5: h5py is not installed; run: pip install "bertjax\[hdf5\]"'
    with pytest.raises(InputError, match=message):
        predict.main(["embed", f"--model={workdir}", f"--out={tmp_path / 'states.h5'}", "w8"])
    predict.main(["embed", f"--model={workdir}", f"--out={tmp_path / 'states.npz'}", "w8"])
    assert os.listdir(tmp_path) == ["states.npz"]
