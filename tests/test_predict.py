import io
import json
import os

import jax
import numpy as np
import pytest
from trained_fixture import make_trained

from bertjax import predict
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.trained import load_trained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run"))
    make_trained(folder)
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return load_trained(workdir)


def give_stdin(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def fill_mask(model, texts, top_k=3):
    return predict.fill_mask(model.config, model.params, model.tokenizer, texts, top_k)


def test_guesses_are_the_models_likeliest(model):
    tokenizer = model.tokenizer
    [before, after] = tokenizer.encode_batch(["The w8s", "w9"])
    ids = [tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.mask_id, tokenizer.sep_id]
    position = {"masked_lm_positions": [len(before) + 1, len(ids) - 2], "next_sentence_positions": [0]}
    row = {"input_ids": ids, "token_type_ids": [0] * len(ids), "position_ids": range(len(ids)),
           "segment_ids": [1] * len(ids), **position}  # fmt: skip
    batch = {name: np.array([values], np.int32) for name, values in row.items()}
    logits, _ = bert.bind(model.config, model.params)(batch)
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
    assert predict.fill_mask(config, model.params, model.tokenizer, ["a [MASK]"], 2) == fill_mask(
        model, ["a [MASK]"], 2
    )
    params = bert.init_params(config, jax.random.key(0))
    [[guesses]] = predict.fill_mask(config, params, model.tokenizer, ["a [MASK]"], 5)
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
    assert answers[0]["masks"] == [[{"token": token, "probability": p} for token, p in one]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: COMMAND"),
        (["guess"], "invalid choice: 'guess'"),
        (["fill-mask", "a [MASK]"], "required: --model"),
        (["fill-mask", "--model=/nowhere", "a [MASK]"], "/nowhere: no checkpoint"),
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


def test_a_model_without_the_heads_is_refused(workdir, model, monkeypatch):
    import dataclasses

    params = {name: x for name, x in model.params.items() if not name.startswith("mlm")}
    monkeypatch.setattr(predict, "load_trained", lambda _: dataclasses.replace(model, params=params))
    with pytest.raises(InputError, match="not a pre-trained model"):
        predict.main(["fill-mask", f"--model={workdir}", "a [MASK]"])
