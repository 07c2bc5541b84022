"""Fine-tuning of tags, on files that the tests write."""

import random

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, toy_settings

import bertjax
from bertjax.convert.export import export
from bertjax.data.finetuning.conll import Sentence, read_conll
from bertjax.data.finetuning.sequences import Row
from bertjax.data.finetuning.word_windows import Window, Word, cut_windows, word_weights
from bertjax.errors import InputError
from bertjax.files import read_json
from bertjax.models import bert
from bertjax.predict import __main__ as predict
from bertjax.tasks import example_rows
from bertjax.tasks.tag import TASK as tag
from bertjax.train import train
from bertjax.trained_model import load_trained


def sentence(rng, most=12):
    """Words of which w8 begins an entity of one or two words."""
    lines = []
    for _ in range(rng.randrange(1, most)):
        if rng.random() < 0.3:
            lines.append("w8 B-X")
            lines += ["w9s I-X"] * rng.randrange(2)
        else:
            lines.append(f"w{rng.randrange(12, 90)} O")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for name, count in (("train", 80), ("dev", 20), ("test", 9)):
        parts = [("-DOCSTART- O\n\n" if i % 5 == 0 else "") + sentence(rng) for i in range(count)]
        (folder / f"{name}.txt").write_text("\n\n".join(parts) + "\n")
    return folder


def settings(folder, model, workdir="", **fields):
    files = {"train": "train.txt", "dev": ("dev.txt",), "test": ("test.txt",)}
    fields = {"train__epochs": 12.0, "train__seq_length": 24, "train__log_every": 20} | fields
    return toy_settings("tag", folder, model, workdir, fields, **files)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("most", [8, 24, 64])
def test_every_word_counts_once_at_its_first_wordpiece(folder, model, context, most):
    tokenizer = bertjax.load(model).tokenizer
    sentences = read_conll(str(folder / "train.txt"), tagged=True)
    windows = cut_windows(sentences, tokenizer, bert.KIND.row_form(tokenizer), most, context)
    seen = []
    for window in windows:
        assert len(window.row.ids) <= most
        assert (window.row.ids[0], window.row.ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
        for number, word, position in window.words:
            seen.append((number, word))
            [pieces] = tokenizer.encode_batch([sentences[number].words[word]])
            assert window.row.ids[position] == pieces[0]
    assert sorted(seen) == [(i, j) for i, s in enumerate(sentences) for j in range(len(s.words))]
    if not context:  # a window holds words of one sentence
        assert all(len({word.sentence for word in window.words}) == 1 for window in windows)
    elif most == 64:
        assert any(len({word.sentence for word in window.words}) > 2 for window in windows)


def test_nothing_weighs_but_the_first_pieces_of_words_that_count():
    row = Row([2, 10, 11, 12, 13, 3], [0] * 6)
    windows = [Window(row, [Word(0, 0, 1), Word(0, 1, 3)]), Window(row, [Word(0, 2, 4)])]
    assert [x.tolist() for x in word_weights(windows)] == [[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]


def test_a_word_counts_where_it_has_the_most_context(model):
    tokenizer = bertjax.load(model).tokenizer
    path_words = tuple(f"w{12 + i}" for i in range(40))
    [*windows] = cut_windows(
        [Sentence(path_words, (), 1, 0)], tokenizer, bert.KIND.row_form(tokenizer), 22, False
    )
    assert [len(window.row.ids) for window in windows] == [22, 22, 22]
    counted = [[word.word for word in window.words] for window in windows]
    assert counted == [list(range(15)), list(range(15, 25)), list(range(25, 40))]


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.usefixtures("eight_devices")
def test_it_learns_and_writes_predictions(folder, model, tmp_path, capsys, context):
    figures = train(settings(folder, model, tmp_path / "run", examples__document_context=context))
    assert figures["eval/f1"] > 0.9
    assert [f"eval/{name}" for name in tag.figures(settings(folder, model))] == list(figures)
    trained = load_trained(str(tmp_path / "run"))
    assert (trained.head, trained.labels) == ("token_classification", ("O", "B-X", "I-X"))
    table = [line.split("\t") for line in (tmp_path / "run/dev_per_class.tsv").read_text().splitlines()]
    assert [row[0] for row in table] == ["class", "X", "all"]
    assert float(table[2][3]) == pytest.approx(figures["eval/f1"], abs=1e-4)
    export(trained, str(tmp_path / "hf"))
    written = read_json(tmp_path / "hf/config.json")
    assert written["architectures"] == ["BertForTokenClassification"]
    assert written["id2label"] == {"0": "O", "1": "B-X", "2": "I-X"}
    assert bertjax.load(tmp_path / "hf").labels == trained.labels
    gold = read_conll(str(folder / "test.txt"), tagged=True)
    found = read_conll(str(tmp_path / "run/test_predictions.conll"), tagged=True)
    assert [s.words for s in found] == [s.words for s in gold]
    capsys.readouterr()
    predict.main(["tag", f"--model={tmp_path / 'run'}", "--conll", f"--input={folder / 'test.txt'}"])
    assert capsys.readouterr().out == (tmp_path / "run/test_predictions.conll").read_text()
    lines = (tmp_path / "run/dev_predictions.conll").read_text().split("\n")
    assert {len(line.split()) for line in lines if line and not line.startswith("-")} == {3}


def test_sharing_rows_changes_nothing(folder, model, monkeypatch):
    """Loss, gradient and tags of sentences that share rows, and of each in a row of its own."""
    fields = {"train__batch_windows": 16, "eval__batch_rows": 64}
    shared = open_data(settings(folder, model, **fields), bertjax.load(model))
    monkeypatch.setattr(example_rows, "_FILLED", 0.0)
    alone = open_data(settings(folder, model, **fields), bertjax.load(model))
    config = shared.config
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    params = tag.init_params(config, jax.random.key(0))

    def loss(params, batch):
        return tag.batch_loss(tag.batch_sums(config, params, batch, None), tag.batch_weights(batch))

    step, found, figures = jax.jit(jax.value_and_grad(loss)), [], []
    for data in (shared, alone):
        rows = data.rows["train"]
        found.append(step(params, rows.train(0, rows.batch_rows)))
        dev = rows.evals[0]
        figures.append(dev.score(tag.batch_outputs(config, params, dev.rows(0, dev.num_rows))))
    assert shared.rows["train"].batch_rows < alone.rows["train"].batch_rows == 16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)
    assert figures[0] == figures[1]


def test_bad_files(folder, model, tmp_path):
    (tmp_path / "train.txt").write_text("w8 O\nw9 O\n")
    with pytest.raises(InputError, match="every tag is O"):
        open_data(settings(tmp_path, model, examples__dev=(), examples__test=()), bertjax.load(model))
    (tmp_path / "train.txt").write_text((folder / "train.txt").read_text())
    (tmp_path / "dev.txt").write_text("w8 O\nw9 B-Y\n")
    with pytest.raises(InputError, match=r"dev.txt:2: unknown tag 'B-Y'; known are O, B-X, I-X"):
        open_data(settings(tmp_path, model, examples__test=()), bertjax.load(model))
    with pytest.raises(InputError, match="two files are named dev, which names their predictions"):
        open_data(settings(folder, model, examples__test=("dev.conll",)), bertjax.load(model))
    with pytest.raises(InputError, match=r"--config.init_from is empty"):
        open_data(settings(folder, ""), None)
