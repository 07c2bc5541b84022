import contextlib
import dataclasses
import io
import json
import os
import sys

import h5py
import jax
import numpy as np
import pytest
from trained_fixture import make_trained, with_classifier

from bertjax.convert.export import export
from bertjax.data.finetuning.conll import Sentence, conll_lines, read_conll
from bertjax.data.finetuning.sequences import encode
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.predict import __main__ as predict
from bertjax.predict import predictor as predictor_module
from bertjax.predict.predictor import Predictor
from bertjax.tasks.tag import cut_windows
from bertjax.trained_model import load_trained, save_trained

pytestmark = pytest.mark.usefixtures("one_device")


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
    return Predictor(model.config, model.params, model.tokenizer).fill_mask(texts, top_k)


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
    rounded = Predictor(config, model.params, model.tokenizer)
    assert rounded.fill_mask(["a [MASK]"], 2) == fill_mask(model, ["a [MASK]"], 2)
    params = bert.KIND.init_params(config, jax.random.key(0))
    [[guesses]] = Predictor(config, params, model.tokenizer).fill_mask(["a [MASK]"], 5)
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
    bare = Predictor(model.config, params, model.tokenizer)
    with pytest.raises(InputError, match="has no mlm part, so it cannot guess words"):
        bare.fill_mask(["a [MASK]"], 1)
    with pytest.raises(InputError, match="has no nsp part"):
        bare.next_sentence([("w8", "w9")])
    with pytest.raises(InputError, match="has no pooler part"):
        bare.embed(["w8"], "pooled")
    assert bare.embed(["w8"])[0].shape == (32,)


def states(model, a, b=None):
    """Hidden states [1 + L, tokens, D] of one text or two, computed alone."""
    tokenizer = model.tokenizer
    parts = tokenizer.encode_batch([a] if b is None else [a, b])
    ids, types = [tokenizer.cls_id], [0]
    for number, part in enumerate(parts):
        ids += [*part, tokenizer.sep_id]
        types += [number] * (len(ids) - len(types))
    row = {"input_ids": ids, "token_type_ids": types, "position_ids": range(len(ids)),
           "segment_ids": [1] * len(ids)}  # fmt: skip
    batch = {name: np.array([values], np.int32) for name, values in row.items()}
    return np.asarray(model.module().encoder(batch, every_layer=True))[:, 0]


def test_embeddings_are_the_encoders_states(model):
    texts = ["w8 w9", ("w8 w10s", "The w12"), "w9 " * 40, *(f"w{8 + i % 40}" for i in range(30))]
    predictor = Predictor(model.config, model.params, model.tokenizer)
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


def test_next_sentence_is_the_heads_first_class(model):
    pairs = [("w8 w9", "The w12"), ("w8", "w9 " * 30)]
    found = Predictor(model.config, model.params, model.tokenizer).next_sentence(pairs)
    for pair, share in zip(pairs, found, strict=True):
        module = model.module()
        logits = module.next_sentence(module.pool(states(model, *pair)[-1][None, :1]))
        np.testing.assert_allclose(share, jax.nn.softmax(logits)[0, 0, 0], rtol=1e-4)


def test_layers_and_poolings_that_there_are_not(model):
    predictor = Predictor(model.config, model.params, model.tokenizer)
    with pytest.raises(InputError, match=r"layer 4: the model has 0 \(embeddings\) to 3, or -4 to -1"):
        predictor.embed(["w8"], layer=4)
    with pytest.raises(InputError, match="layer sum_last_four: a model of 3 layers has none of that name"):
        predictor.embed(["w8"], layer="sum_last_four")
    with pytest.raises(InputError, match=r"layer top: .* one of last, embeddings, second_to_last"):
        predictor.embed(["w8"], layer="top")
    with pytest.raises(InputError, match="pooling max: it is one of mean, cls, pooled, tokens"):
        predictor.embed(["w8"], "max")
    with pytest.raises(InputError, match="the pooler stands on the last layer"):
        predictor.embed(["w8"], "pooled", 1)


def test_truncation_takes_from_the_longer_text(model):
    tokenizer = model.tokenizer
    pair = ("w8 " * 60, "w9 " * 20)
    with pytest.raises(InputError, match=r"has 83 tokens, the model takes 64; .*--truncate"):
        encode(tokenizer, [pair], 64)
    [row] = encode(tokenizer, [pair], 64, truncate=True)
    assert (len(row.ids), row.types.count(0), row.types.count(1)) == (64, 43, 21)
    [row] = encode(tokenizer, [("w8 " * 70, "w9 " * 80)], 64, truncate=True)
    assert (row.types.count(0), row.types.count(1)) == (33, 31)
    [row] = encode(tokenizer, ["w8 " * 70], 64, truncate=True)
    assert (len(row.ids), row.ids[-1], set(row.types)) == (64, tokenizer.sep_id, {0})


def test_the_embed_command(workdir, model, tmp_path, capsys):
    predictor = Predictor(model.config, model.params, model.tokenizer)
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
    monkeypatch.setattr(predictor_module, "_WINDOW", 4)
    texts = [f"w8 {'w9 ' * i}w12" for i in range(10)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    out = tmp_path / f"states.{ending}"
    flags = ["embed", f"--model={workdir}", f"--input={tmp_path / 'texts.txt'}", f"--out={out}"]
    predictor = Predictor(model.config, model.params, model.tokenizer)
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


def test_hdf5_needs_an_extra_and_npz_does_not(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    message = r'states.h5: h5py is not installed; run: pip install "bertjax\[hdf5\]"'
    with pytest.raises(InputError, match=message):
        predict.main(["embed", f"--model={workdir}", f"--out={tmp_path / 'states.h5'}", "w8"])
    predict.main(["embed", f"--model={workdir}", f"--out={tmp_path / 'states.npz'}", "w8"])
    assert os.listdir(tmp_path) == ["states.npz"]


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_a_file_of_embeddings_is_whole_or_as_it_was(workdir, tmp_path, ending):
    out = tmp_path / f"states.{ending}"
    out.write_bytes(b"another file")
    with pytest.raises(InputError, match="has 72 tokens, the model takes 64"):
        predict.main(["embed", f"--model={workdir}", f"--out={out}", "w8", "w9 " * 70])
    assert os.listdir(tmp_path) == [out.name]
    assert out.read_bytes() == b"another file"


def test_the_next_sentence_command(workdir, model, capsys, monkeypatch):
    [share] = Predictor(model.config, model.params, model.tokenizer).next_sentence([("w8 w9", "The w12")])
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


@pytest.mark.parametrize("labels", [("no", "maybe", "yes"), ("number",)])
def test_the_classify_command(model, tmp_path, capsys, labels):
    trained = with_classifier(model, "sequence_classification", labels)
    save_trained(trained, str(tmp_path / "run"))
    module = trained.module()
    predict.main(["classify", f"--model={tmp_path / 'run'}", "--json", "w8 w9", "w8 w10s\tThe w12"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for answer, pair in zip(answers, (("w8 w9",), ("w8 w10s", "The w12")), strict=True):
        logits = module.classify(module.pool(states(model, *pair)[-1][None, :1]))[0, 0]
        if labels == ("number",):
            assert answer["number"] == pytest.approx(float(logits[0]), abs=1e-5)
        else:
            shares = jax.nn.softmax(logits)
            assert answer["label"] == labels[int(shares.argmax())]
            assert list(answer["probabilities"].values()) == pytest.approx(shares.tolist(), abs=1e-5)
    save_trained(model, str(tmp_path / "other"))
    with pytest.raises(InputError, match="a model for pretraining; name one that was trained to classify"):
        predict.main(["classify", f"--model={tmp_path / 'other'}", "w8"])


TABLE = "label,a,b\nyes,w8 w9,The w12\nno,w9,w10 w10\nyes,w12,w8\nmaybe,w13,w8\n"


def test_a_table_is_answered_and_scored(model, tmp_path, capsys):
    labels = ("no", "maybe", "yes")
    save_trained(with_classifier(model, "sequence_classification", labels), str(tmp_path / "run"))
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    predict.main(
        ["classify", f"--model={tmp_path / 'run'}", "w8 w9\tThe w12", "w9\tw10 w10", "w12\tw8", "w13\tw8"]
    )
    plain = capsys.readouterr().out
    flags = ["classify", f"--model={tmp_path / 'run'}", f"--input={file}", "--columns=a,b"]
    predict.main(flags)
    assert capsys.readouterr() == (plain, "")
    predict.main([*flags, "--label=label"])
    out, err = capsys.readouterr()
    assert out == plain
    found = [line.split()[0] for line in plain.splitlines()]
    right = sum(a == b for a, b in zip(found, ("yes", "no", "yes", "maybe"), strict=True))
    lines = err.splitlines()
    assert lines[0].startswith("4 examples: matthews_correlation ")
    assert lines[0].endswith(f"accuracy {right / 4:.4f}")
    assert [line.split()[0] for line in lines[1:]] == ["class", *labels]
    assert [line.split()[-1] for line in lines[1:]] == ["support", "1", "1", "2"]
    predict.main([*flags, "--label=label", "--json"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == found

    save_trained(with_classifier(model, "sequence_classification", ("number",)), str(tmp_path / "numbers"))
    file.write_text("score,a\n1.5,w8 w9\n0,w9\n2,w12\n")
    predict.main(
        ["classify", f"--model={tmp_path / 'numbers'}", f"--input={file}", "--columns=a", "--label=score"]
    )
    assert capsys.readouterr().err.startswith("3 examples: pearson ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input={file}", "--label=label"], "--label=label: is a table's; name the columns"),
        (["--columns=a", "w8"], "--columns=a: names one column or two of a table that --input names"),
        (["--input={file}", "--columns=a,b,c"], "--columns=a,b,c: names one column or two"),
        (["--input={file}", "--columns=a,d"], "{file}:2: no column 'd'"),
        (
            ["--input={file}", "--columns=a,b", "--label=lable"],
            "{file}:2: no column 'lable'; the nearest is 'label'",
        ),
        (
            ["--input={file}", "--columns=label", "--label=a"],
            "{file}:2: unknown label 'w8 w9'; known are no, yes",
        ),
    ],
)
def test_bad_tables(model, tmp_path, flags, message):
    save_trained(with_classifier(model, "sequence_classification", ("no", "yes")), str(tmp_path / "run"))
    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    with pytest.raises(InputError) as error:
        predict.main(["classify", f"--model={tmp_path / 'run'}", *(flag.format(file=file) for flag in flags)])
    assert message.format(file=file) in str(error.value)


def test_the_choose_command(model, tmp_path, capsys, monkeypatch):
    trained = with_classifier(model, "multiple_choice", (), width=1)
    save_trained(trained, str(tmp_path / "run"))
    export(trained, str(tmp_path / "hf"))
    module = trained.module()
    questions = {"w8 w9": ["The w12", "w10", "w13 w14"], "w12": ["w8", "w9 w9"]}
    (tmp_path / "questions.txt").write_text("".join("\t".join([k, *v]) + "\n" for k, v in questions.items()))
    for folder in ("run", "hf"):
        command = ["choose", f"--model={tmp_path / folder}"]
        predict.main([*command, f"--input={tmp_path / 'questions.txt'}", "--json"])
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for answer, (context, choices) in zip(answers, questions.items(), strict=True):
            scores = [
                module.classify(module.pool(states(model, context, x)[-1][None, :1]))[0, 0, 0]
                for x in choices
            ]
            shares = np.asarray(jax.nn.softmax(np.array(scores)))
            assert answer == {"context": context, "choices": choices, "choice": int(shares.argmax()),
                              "probabilities": pytest.approx(shares.tolist(), abs=1e-5)}  # fmt: skip
        predict.main([*command, "w8 w9", *questions["w8 w9"]])
        shares = answers[0]["probabilities"]
        order = sorted(range(3), key=lambda i: -shares[i])
        lines = [f"    {shares[i]:6.1%}  {questions['w8 w9'][i]}" for i in order]
        assert capsys.readouterr().out.splitlines() == ["w8 w9", *lines]
    for text in ("w8\tw9\n", "w8\tw9\t \tw10\n"):
        give_stdin(monkeypatch, text.encode())
        with pytest.raises(
            InputError, match=r"standard input:1: .*: expected a context and two choices or more"
        ):
            predict.main(command)
    with pytest.raises(InputError, match=r"'w8.tw9': expected a context and two choices or more"):
        predict.main([*command, "w8", "w9"])
    with pytest.raises(InputError, match=r"has 75 tokens, the model takes 64; .*--truncate"):
        predict.main([*command, "w8 " * 71, "w9", "w10"])
    predict.main([*command, "--truncate", "w8 " * 71, "w9", "w10"])
    save_trained(model, str(tmp_path / "other"))
    with pytest.raises(InputError, match="a model for pretraining; name one that was trained to choose"):
        predict.main(["choose", f"--model={tmp_path / 'other'}", "w8", "w9", "w10"])
    classes = with_classifier(model, "sequence_classification", ("no", "yes"))
    with pytest.raises(InputError, match="the model tells classes apart and scores no choice"):
        Predictor(classes.config, classes.params, classes.tokenizer).choose([("w8", ["w9", "w10"])])


TAGS = ("O", "B-X", "I-X")


@pytest.mark.parametrize(("most", "context"), [(64, False), (24, True)])
def test_tags_of_a_long_sentence_are_its_windows(model, most, context):
    trained = with_classifier(model, "token_classification", TAGS)
    predictor = Predictor(trained.config, trained.params, trained.tokenizer)
    sentences = [
        Sentence(tuple(words), (), 0, 0)
        for words in (["w8", "w9s", "The"], [f"w{8 + i % 80}" for i in range(150)])
    ]
    found = predictor.tag(sentences, most, context)
    assert [x.shape for x in found] == [(3, 3), (150, 3)]
    module, seen = trained.module(), 0
    for window in cut_windows(sentences, trained.tokenizer, most, context):
        ids = np.array([window.row.ids], np.int32)
        batch = {"input_ids": ids, "token_type_ids": 0 * ids, "segment_ids": 0 * ids + 1,
                 "position_ids": np.arange(ids.size, dtype=np.int32)[None]}  # fmt: skip
        logits = module.classify(module.encoder(batch))[0]
        for sentence, word, position in window.words:
            np.testing.assert_allclose(found[sentence][word], logits[position], atol=1e-5)
            seen += 1
    assert seen == 153


def test_the_tag_command(model, tmp_path, capsys, monkeypatch):
    trained = with_classifier(model, "token_classification", TAGS)
    of_run = model.meta["resolved_config"] | {"train.seq_length": 64}
    trained = dataclasses.replace(trained, meta=model.meta | {"config": of_run})
    save_trained(trained, str(tmp_path / "run"))
    export(trained, str(tmp_path / "hf"))
    sentences = [["The", "w8s", "w9"], ["w12"], [f"w{12 + i}" for i in range(70)]]
    parts = [Sentence(tuple(words), (), 0, 0) for words in sentences]
    predictor = Predictor(trained.config, trained.params, trained.tokenizer)
    logits = predictor.tag(parts, 64, False)
    tags = [[TAGS[i] for i in x.argmax(-1)] for x in logits]
    lines = [" ".join(map("/".join, zip(*pair, strict=True))) for pair in zip(sentences, tags, strict=True)]
    for folder in ("run", "hf"):
        predict.main(["tag", f"--model={tmp_path / folder}", *map(" ".join, sentences)])
        assert capsys.readouterr().out.splitlines() == lines
    command = ["tag", f"--model={tmp_path / 'run'}"]
    give_stdin(monkeypatch, "\n\n".join(map(" ".join, sentences)).encode())
    predict.main([*command, "--json"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["words"] for answer in answers] == sentences
    assert [answer["tags"] for answer in answers] == tags
    share = jax.nn.softmax(logits[1])[0].max()
    assert answers[1]["probabilities"] == pytest.approx([float(share)], abs=1e-5)

    file = tmp_path / "words.conll"
    columns = ["".join(f"{word} NN O\n" for word in words) for words in sentences]
    file.write_text("-DOCSTART- -X- O\n\n" + columns[0] + "\n-DOCSTART- -X- O\n\n" + "\n".join(columns[1:]))
    predict.main([*command, "--conll", f"--input={file}"])
    out = tmp_path / "out.conll"
    out.write_text(capsys.readouterr().out)
    assert out.read_text().startswith(f"The {tags[0][0]}\n")
    found, given = read_conll(str(out), tagged=False), read_conll(str(file), tagged=False)
    assert [s.words for s in found] == [tuple(words) for words in sentences]
    assert (
        np.diff([s.document for s in found]).tolist()
        == np.diff([s.document for s in given]).tolist()
        == [1, 0]
    )
    written = [line.split()[1] for line in out.read_text().splitlines() if line and line[0] != "-"]
    assert written == [tag for of_sentence in tags for tag in of_sentence]

    # The windows are the run's.
    for context in (False, True):
        of_run |= {"train.seq_length": 16, "examples.document_context": context}
        other = dataclasses.replace(trained, meta=model.meta | {"config": of_run})
        save_trained(other, str(tmp_path / f"other{context}"))
        predict.main(["tag", f"--model={tmp_path / f'other{context}'}", "--conll", f"--input={file}"])
        wanted = [[TAGS[i] for i in x.argmax(-1)] for x in predictor.tag(given, 16, context)]
        assert capsys.readouterr().out == "".join(conll_lines(given, wanted))
        assert wanted != tags
        tags = wanted

    for flags, message in (
        (["--conll", "w8"], "--conll: is the format of a file; name it with --input=FILE"),
        (["--conll", "--input=/nowhere"], "/nowhere: no such file"),
        ([f"--input={file}", "w8"], "there are texts among the arguments too"),
        ([os.fsdecode(b"caf\xe9")], "is not UTF-8; convert the text"),
    ):
        with pytest.raises(InputError, match=message):
            predict.main([*command, *flags])
    save_trained(model, str(tmp_path / "other"))
    with pytest.raises(InputError, match="a model for pretraining; name one that was trained to tag words"):
        predict.main(["tag", f"--model={tmp_path / 'other'}", "w8"])
