"""Words for masks, next sentences, and the flags of all commands."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from predict_fixture import give_stdin, states

from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.predict import __main__ as predict
from bertjax.predict.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_device")


def fill_mask(model, texts, top_k=3):
    return Predictor(model).fill_mask(texts, top_k)


def test_guesses_are_the_models_likeliest(model):
    tokenizer = model.tokenizer
    [before, after] = tokenizer.encode_batch(["The w8s", "w9"])
    ids = [tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.mask_id, tokenizer.sep_id]
    position = {"masked_lm_positions": [len(before) + 1, len(ids) - 2], "next_sentence_positions": [0]}
    row = {"input_ids": ids, "token_type_ids": [0] * len(ids), "position_ids": range(len(ids)),
           "segment_ids": [1] * len(ids), **position}  # fmt: skip
    batch = {name: np.array([values], np.int32) for name, values in row.items()}
    logits, _ = bert.KIND.bind(model.config, model.params).pretraining(batch)
    want = np.asarray(jax.nn.softmax(logits[0]))
    [found] = fill_mask(model, ["The w8s [MASK] w9[MASK]"], top_k=96)
    for mask, probabilities in zip(found, want, strict=True):
        assert [token for token, _ in mask] == [tokenizer.tokens[i] for i in np.argsort(-probabilities)[:96]]
        np.testing.assert_allclose([p for _, p in mask], np.sort(probabilities)[::-1][:96], rtol=1e-4)
        np.testing.assert_allclose(sum(p for _, p in mask), 1, atol=1e-5)


def test_a_text_is_answered_alike_alone_and_among_longer_ones(model):
    texts = ["[MASK]", "The [MASK] w9", *(f"w8 {'w10 w12 ' * i}[MASK] w9 [MASK]" for i in range(24))]
    together = fill_mask(model, texts)
    assert [len(masks) for masks in together] == [1, 1, *[2] * 24]
    for i in (0, 1, 20, 25):
        [alone] = fill_mask(model, [texts[i]])
        for a, b in zip(alone, together[i], strict=True):
            assert [token for token, _ in a] == [token for token, _ in b]
            np.testing.assert_allclose([p for _, p in a], [p for _, p in b], rtol=1e-4)


def test_untrained_and_bfloat16_parameters_will_do(model):
    config = model.config.copy_and_resolve_references()
    config.dtype = "bfloat16"  # answers are float32 all the same
    rounded = Predictor(dataclasses.replace(model, config=config))
    assert rounded.fill_mask(["a [MASK]"], 2) == fill_mask(model, ["a [MASK]"], 2)
    params = bert.KIND.init_params(config, jax.random.key(0), bert.KIND.heads[model.head])
    [[guesses]] = Predictor(dataclasses.replace(model, params=params)).fill_mask(["a [MASK]"], 5)
    assert len(guesses) == 5


def test_bad_texts(model):
    with pytest.raises(InputError, match=r"'no mask here': has no \[MASK\]"):
        fill_mask(model, ["a [MASK]", "no mask here"])
    fill_mask(model, ["w8 " * 61 + "[MASK]"])
    with pytest.raises(InputError, match="has 65 tokens, the model takes 64"):
        fill_mask(model, ["w8 " * 62 + "[MASK]"])


def test_the_command(workdir, model, capsys, monkeypatch):
    predict.main(["fill-mask", f"--model={workdir}", "--top_k=2", "The [MASK] w9", "[MASK] or [MASK]"])
    [one], [two, three] = fill_mask(model, ["The [MASK] w9", "[MASK] or [MASK]"], 2)

    def line(guesses):
        return "  ".join(f"{token} {share:.1%}" for token, share in guesses)

    assert capsys.readouterr().out.splitlines() == [
        "The [MASK] w9",
        f"    {line(one)}",
        "[MASK] or [MASK]",
        f"    1: {line(two)}",
        f"    2: {line(three)}",
    ]
    give_stdin(monkeypatch, b"The [MASK] w9\n\n[MASK]\n")
    predict.main(["fill-mask", f"--model={workdir}", "--top_k=2", "--json"])
    answers = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["The [MASK] w9", "[MASK]"]
    [found] = answers[0]["masks"]
    assert [guess["token"] for guess in found] == [token for token, _ in one]
    np.testing.assert_allclose([guess["probability"] for guess in found], [p for _, p in one], rtol=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: COMMAND"),
        (["guess"], "invalid choice: 'guess'"),
        (["fill-mask", "a [MASK]"], "required: --model"),
        (["fill-mask", "--model=/nowhere", "a [MASK]"], "/nowhere: no such folder"),
        (["fill-mask", "--model={workdir}", "--top_k=0", "a [MASK]"], "--top_k=0: must be positive"),
        (["fill-mask", "--model={workdir}", "--top_k=two", "a [MASK]"], "--top_k: invalid int value"),
        (["fill-mask", "--model={workdir}"], "standard input has no text"),
    ],
)
def test_bad_flags(workdir, monkeypatch, args, message):
    give_stdin(monkeypatch, b"\n")
    with pytest.raises(InputError) as error:
        predict.main([arg.format(workdir=workdir) for arg in args])
    assert message in str(error.value)


def test_text_that_is_not_utf8(workdir, monkeypatch):
    give_stdin(monkeypatch, b"a [MASK]\n\ncaf\xe9 [MASK]\n")
    with pytest.raises(InputError, match=r"^standard input:3: byte 0xe9 is not UTF-8; convert the text$"):
        predict.main(["fill-mask", f"--model={workdir}"])
    argument = os.fsdecode(b"caf\xe9 [MASK]")
    with pytest.raises(InputError, match=r"^'caf\\udce9 \[MASK\]': is not UTF-8; convert the text$"):
        predict.main(["fill-mask", f"--model={workdir}", argument])


def test_a_model_without_the_heads_is_refused(model):
    params = {name: x for name, x in model.params.items() if not name.startswith(("mlm", "nsp", "pooler"))}
    bare = Predictor(dataclasses.replace(model, params=params))
    with pytest.raises(InputError, match="has no mlm part, so it cannot guess words"):
        bare.fill_mask(["a [MASK]"], 1)
    with pytest.raises(InputError, match="has no nsp part"):
        bare.next_sentence([("w8", "w9")])
    with pytest.raises(InputError, match="has no pooler part"):
        bare.embed(["w8"], "pooled")
    assert bare.embed(["w8"])[0].shape == (32,)


def test_next_sentence_is_the_heads_first_class(model):
    pairs = [("w8 w9", "The w12"), ("w8", "w9 " * 30)]
    found = Predictor(model).next_sentence(pairs)
    for pair, share in zip(pairs, found, strict=True):
        module = model.module()
        logits = module.next_sentence(module.pool(states(model, *pair)[-1][None, :1]))
        np.testing.assert_allclose(share, jax.nn.softmax(logits)[0, 0, 0], rtol=1e-4)


def test_the_next_sentence_command(workdir, model, capsys, monkeypatch):
    [share] = Predictor(model).next_sentence([("w8 w9", "The w12")])
    predict.main(["next-sentence", f"--model={workdir}", "w8 w9", "The w12"])
    assert capsys.readouterr().out == f"{share:6.1%}  w8 w9 | The w12\n"
    give_stdin(monkeypatch, b"w8 w9\tThe w12\n")
    predict.main(["next-sentence", f"--model={workdir}", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"text": "w8 w9", "next": "The w12", "probability": pytest.approx(share)}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["next-sentence", "--model={workdir}", "w8"], "1 texts; give two and two"),
        (["next-sentence", "--model={workdir}", "--input={file}"], "{file}:2: 'w9': expected two texts"),
        (["embed", "--model={workdir}", "w8"], "give either --out=FILE or --json"),
        (["embed", "--model={workdir}", "w8", "--out=x.csv"], "--out=x.csv: must end with .npz, .h5, .hdf5"),
        (["embed", "--model={workdir}", "w8", "--out=/nowhere/x.npz"], "no such folder"),
        (
            ["embed", "--model={workdir}", "w8", "--json", "--layer=two"],
            "'two' is neither a number nor one of last, embeddings, sec",
        ),
        (["embed", "--model={workdir}", "--input={file}", "--json", "w8"], "texts among the arguments too"),
    ],
)
def test_bad_flags_of_the_others(workdir, tmp_path, args, message):
    file = tmp_path / "pairs.txt"
    file.write_text("w8\tw9\nw9\n")
    with pytest.raises(InputError) as error:
        predict.main([arg.format(workdir=workdir, file=file) for arg in args])
    assert message.format(file=file) in str(error.value)
