"""Fine-tuning of a GPT by the tasks that BERT has too: classes, numbers, both orders of pairs, choices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetune_fixture import open_data, toy_settings
from gpt_fixture import make_gpt

import bertjax
from bertjax import sharding
from bertjax.convert.export import export
from bertjax.data.finetuning.sequences import encode
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.init_from import load_source, with_new_tokens
from bertjax.mesh import make_mesh
from bertjax.models import gpt
from bertjax.predict import __main__ as predict
from bertjax.predict.predictor import Predictor
from bertjax.tasks import example_rows as packed_lib
from bertjax.tasks.choose import TASK as choose
from bertjax.tasks.classify import TASK as classify
from bertjax.train import train
from bertjax.trained_model import load_trained

LABELS = ("no", "yes")
GPT = {"head__lm_weight": 0.5, "optim__name": "adamw"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gpt") / "model"
    make_gpt(workdir)
    return str(workdir)


def words(rng, least, most):
    return " ".join(chr(ord("a") + n) for n in rng.integers(2, 26, rng.integers(least, most)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs: "a" begins the first text of class "yes", "b" that of "no". Choices: one begins with "a"."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def pair(i):
        label = LABELS[i % 2]
        return f"{label}\t{'ba'[i % 2]} {words(rng, 1, 7)}\t{words(rng, 1, 7)}"

    def choices(i):
        ends = [f"{'ab'[place != i % 3]} {words(rng, 1, 4)}" for place in range(3)]
        return f"{i % 3}\t{words(rng, 2, 5)}\t" + "\t".join(ends)

    for name, count in (("train", 96), ("dev", 24)):
        lines = ["label\tsentence1\tsentence2", *map(pair, range(count))]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        lines = ["label\tcontext\tone\ttwo\tthree", *map(choices, range(count))]
        (folder / f"{name}_choices.tsv").write_text("\n".join(lines) + "\n")
    return folder


def settings(folder, model, workdir="", **fields):
    return toy_settings("classify", folder, model, workdir, GPT | fields, "gpt", text_b="sentence2")


def choice_settings(folder, model, workdir="", **fields):
    return toy_settings("choose", folder, model, workdir, GPT | fields, "gpt", text_a="context",
                        choices=("one", "two", "three"), train="train_choices.tsv",
                        dev=("dev_choices.tsv",))  # fmt: skip


def opened(task, config):
    """The task's data, as a run opens it."""
    return open_data(config, load_source(config, task))


def first_batch(task, config):
    """(config, random parameters, the first batch)."""
    data = opened(task, config)
    rows = data.rows["train"]
    params = task.init_params(data.config, jax.random.key(1))
    params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, params)
    return data.config, params, rows.train(0, rows.batch_rows)


@pytest.mark.parametrize("both_orders", [False, True])
def test_it_learns_pairs_and_is_asked(folder, model, tmp_path, capsys, both_orders):
    config = settings(folder, model, tmp_path / "run", train__epochs=10.0, train__seq_length=32,
                      examples__both_orders=both_orders)  # fmt: skip
    if both_orders:
        # What both orders tell alike: whether there is an "a" anywhere.
        config.examples.folder = str(tmp_path)
        for name in ("train.tsv", "dev.tsv"):
            head, *lines = (folder / name).read_text().splitlines()
            turned = ["\t".join(line.split("\t") if i % 4 < 2 else _turned(line))
                      for i, line in enumerate(lines)]  # fmt: skip
            (tmp_path / name).write_text("\n".join([head, *turned]) + "\n")
    figures = train(config)
    assert figures["eval/accuracy"] > 0.9
    trained = load_trained(str(tmp_path / "run"))
    assert (trained.head, trained.labels, trained.config.vocab_size) == (classify.head, LABELS, 99)
    assert gpt.KIND.parts_of(trained.params) == ("score",)
    capsys.readouterr()
    predict.main(["classify", f"--model={tmp_path / 'run'}", f"--input={config.examples.folder}/dev.tsv",
                  "--columns=sentence1,sentence2", "--label=label"])  # fmt: skip
    answers = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    lines = (tmp_path / "run/dev_predictions.tsv").read_text().splitlines()[1:]
    assert answers == [line.split("\t")[1] for line in lines]
    if both_orders:
        with pytest.raises(InputError, match="has no class that reads a pair in both orders"):
            export(trained, str(tmp_path / "hf"))
        with pytest.raises(InputError, match="reads pairs in both orders, so it takes no single texts"):
            predict.main(["classify", f"--model={tmp_path / 'run'}", "a b"])
    else:
        export(trained, str(tmp_path / "hf"))
        back = bertjax.load(tmp_path / "hf")
        pairs = [("a b c", "d e"), ("b c", "the f")]
        mine, theirs = (Predictor(m).classify(pairs) for m in (trained, back))
        np.testing.assert_array_equal(mine, theirs)
    assert train(config) == {}  # complete: begins from its own model, tokens and all


def _turned(line):
    label, one, two = line.split("\t")
    return label, two, one


@pytest.mark.usefixtures("eight_devices")
def test_it_learns_choices_and_is_asked(folder, model, tmp_path):
    config = choice_settings(folder, model, tmp_path / "run", train__epochs=8.0, train__seq_length=32)
    figures = train(config)
    assert figures["eval/accuracy"] > 0.8
    trained = load_trained(str(tmp_path / "run"))
    assert gpt.KIND.parts_of(trained.params) == ("classifier",)
    rows = [line.split("\t") for line in (folder / "dev_choices.tsv").read_text().splitlines()[1:]]
    predictor = Predictor(trained)
    scores = predictor.choose([(row[1], row[2:]) for row in rows])
    lines = (tmp_path / "run/dev_choices_predictions.tsv").read_text().splitlines()[1:]
    assert [str(x.argmax()) for x in scores] == [line.split("\t")[1] for line in lines]
    export(trained, str(tmp_path / "hf"))
    assert bertjax.load(tmp_path / "hf").head == "multiple_choice"


def test_numbers_of_single_texts(model, tmp_path):
    lines = ["score\ttext", *(f"{i % 5}\t{chr(ord('a') + i % 5)}" for i in range(40))]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    config = toy_settings("classify", tmp_path, model, tmp_path / "run", GPT | {"train__epochs": 20.0}, "gpt",
                          text_a="text", label="score", number=True, metric="correlations")  # fmt: skip
    assert train(config)["eval/pearson"] > 0.8


def test_rows_are_gpts(folder, model):
    data = opened(classify, settings(folder, model))
    start, delimiter, extract = 96, 97, 98
    form = gpt.KIND.row_form(data.tokenizer)
    assert [data.tokenizer.tokens[i] for i in (start, delimiter, extract)] == [
        "_start_", "_delimiter_", "_classify_"]  # fmt: skip
    texts, letters = ["a b", ("a", "the b")], data.tokenizer.tokens.index
    single, pair = encode(data.tokenizer, form, texts, 48)
    a, b, the = letters("a</w>"), letters("b</w>"), letters("the</w>")
    assert single == ([start, a, b, extract], [0, 0, 0, 0])
    assert pair == ([start, a, delimiter, the, b, extract], [0, 0, 0, 1, 1, 1])
    cut = encode(data.tokenizer, form, [("a " * 30, "b " * 30)], 16, truncate=True)[0]
    assert (len(cut.ids), cut.ids[0], cut.ids[-1], cut.ids.count(delimiter)) == (16, start, extract, 1)


@pytest.mark.parametrize("both_orders", [False, True])
def test_sharing_rows_and_devices_change_nothing(folder, model, monkeypatch, both_orders):
    """Loss, with the language model's in it, and gradient."""
    fields = {
        "train__batch_examples": 32,
        "mesh__data": -1,
        "mesh__fsdp": 1,
        "examples__both_orders": both_orders,
    }
    config, params, shared = first_batch(classify, settings(folder, model, **fields))
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(packed_lib, "_FILLED", 0.0)
        _, _, alone = first_batch(classify, settings(folder, model, **fields))
    each = 1 + both_orders
    assert shared["segment_ids"].max() > each == alone["segment_ids"].max()
    assert shared["class_positions"].shape[1] == each * shared["labels"].shape[1]

    def loss(params, batch):
        sums = classify.batch_sums(config, params, batch, None)
        return classify.batch_loss(sums, classify.batch_weights(batch)), sums["lm_loss"]

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    found = step(params, shared)
    mesh = make_mesh(config, jax.devices())
    on_mesh = jax.device_put(params, sharding.state_shardings(gpt.KIND.sharding, params, mesh))
    for other in (step(params, alone), step(on_mesh, sharding.to_global(mesh, shared))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, other)


@pytest.mark.parametrize("both_orders", [False, True])
def test_logits_and_losses_are_those_of_each_text_alone(folder, model, both_orders):
    config, params, batch = first_batch(
        classify, settings(folder, model, train__batch_examples=8, examples__both_orders=both_orders)
    )
    outputs = jax.jit(lambda batch: classify.batch_outputs(config, params, batch))(batch)["logits"]
    sums = jax.jit(lambda batch: classify.batch_sums(config, params, batch, None))(batch)
    module, each = gpt.KIND.bind(config.model, params), 1 + both_orders
    total = lm = count = 0.0
    for row, slot in np.argwhere(batch["label_weights"] > 0):
        states = []
        for k in range(each):
            here = batch["segment_ids"][row] == slot * each + k + 1
            alone = {name: x[row : row + 1, here] for name, x in batch.items() if x.shape == here.shape or
                     name in ("input_ids", "token_type_ids", "position_ids", "segment_ids")}  # fmt: skip
            x_BSD = module.encoder(alone)
            states.append(x_BSD[0, -1])
            assert alone["input_ids"][0, -1] == 98  # the extract token
            log_probs = jax.nn.log_softmax(module.language_model(x_BSD))[0, :-1]
            lm -= float(jnp.take_along_axis(log_probs, alone["input_ids"][0, 1:, None], 1).mean()) / each
        logits = sum(states) @ params["score_kernel"]
        np.testing.assert_allclose(outputs[row, slot], logits, atol=1e-4)
        total -= float(jax.nn.log_softmax(logits)[batch["labels"][row, slot]])
        count += 1
    assert count == 8
    np.testing.assert_allclose([sums["lm_loss"], sums["loss"]], [lm, total + 0.5 * lm], rtol=1e-4)
    figures = classify.metrics({name: float(x) for name, x in sums.items()} | {"examples": count})
    assert figures["lm_loss"] == pytest.approx(lm / count, rel=1e-4)


@pytest.mark.parametrize("task", [classify, choose])
def test_a_later_token_changes_no_earlier_output(folder, model, task):
    """Of every layer, in the task's own batches, whose rows several sequences share."""
    make = settings if task is classify else choice_settings
    config, params, batch = first_batch(task, make(folder, model, train__batch_examples=16))
    names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
    rows = {name: batch[name] for name in names}
    assert rows["segment_ids"].max() > 1
    at = 6
    other = rows | {"input_ids": rows["input_ids"].copy()}
    other["input_ids"][:, at] = (other["input_ids"][:, at] + 5) % 90
    states = jax.jit(lambda rows: gpt.KIND.bind(config.model, params).encoder(
        rows, packed=True, every_layer=True))  # fmt: skip
    one, two = states(rows), states(other)
    np.testing.assert_array_equal(one[:, :, :at], two[:, :, :at])
    assert (one[:, :, at] != two[:, :, at]).any()

    def loss_of_states_before(x_BSD):
        module = gpt.KIND.bind(config.model, params)
        module.encoder.embeddings = lambda batch, dtype, keys: x_BSD
        return (module.encoder(rows, packed=True)[:, :at] ** 3).sum()

    gradient = np.abs(jax.jit(jax.grad(loss_of_states_before))(one[0])).max(-1)
    assert (gradient[:, at:] == 0).all()
    assert gradient[:, :at].max() > 0


def test_choices_loss_is_of_the_sequences_of_all_choices(folder, model):
    config, params, batch = first_batch(choose, choice_settings(folder, model))
    sums = jax.jit(lambda batch: choose.batch_sums(config, params, batch, None))(batch)
    module = gpt.KIND.bind(config.model, params)
    loss = lm = count = 0.0
    for row, slot in np.argwhere(batch["label_weights"] > 0):
        scores = []
        for k in range(3):
            here = batch["segment_ids"][row] == slot * 3 + k + 1
            names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
            alone = {name: batch[name][row : row + 1, here] for name in names}
            x_BSD = module.encoder(alone)
            scores.append(float(module.class_logits(x_BSD[:, -1:])[0, 0, 0]))
            log_probs = jax.nn.log_softmax(module.language_model(x_BSD))[0, :-1]
            lm -= float(jnp.take_along_axis(log_probs, alone["input_ids"][0, 1:, None], 1).mean()) / 3
        loss -= float(jax.nn.log_softmax(np.array(scores))[batch["labels"][row, slot]])
        count += 1
    assert count == 8
    np.testing.assert_allclose([sums["lm_loss"], sums["loss"]], [lm, loss + 0.5 * lm], rtol=1e-4)


def test_new_tokens_are_drawn_once_and_by_the_seed(folder, model, tmp_path):
    source = bertjax.load(model)
    drawn = [with_new_tokens(source, seed) for seed in (0, 0, 1)]
    words = [m.params["encoder"]["embeddings"]["word"] for m in drawn]
    np.testing.assert_array_equal(words[0], words[1])
    np.testing.assert_array_equal(words[0][:96], source.params["encoder"]["embeddings"]["word"][:96])
    assert (words[0][96:99] != words[2][96:99]).all()
    assert [drawn[0].tokenizer.vocab_size, drawn[0].config.vocab_size, source.config.vocab_size] == [
        99,
        99,
        96,
    ]
    again = with_new_tokens(drawn[0], 5)
    np.testing.assert_array_equal(again.params["encoder"]["embeddings"]["word"], words[0])
    larger = source.config.copy_and_resolve_references()
    larger.vocab_size = 128  # a model from elsewhere, with rows that no token has yet
    padded = with_new_tokens(bertjax.trained_model.Trained(**{**vars(source), "config": larger}), 0)
    assert (padded.config.vocab_size, padded.tokenizer.bos_id) == (128, 96)


def test_a_gpt_of_wordpieces_has_no_tokens_for_tasks(store, model):
    source = dataclasses.replace(bertjax.load(model), tokenizer=load_tokenizer(store))
    with pytest.raises(
        InputError, match=r"^x: its vocabulary \(wordpiece\) takes no start, delimiter and ex"
    ):
        with_new_tokens(source, 0, "x")


def test_a_model_that_learnt_the_tokens_keeps_them_and_has_types(folder, tmp_path):
    make_gpt(tmp_path / "model", types=2)
    config = settings(folder, tmp_path / "model", train__epochs=1.0)
    source = load_source(config, classify)
    assert source.config.vocab_size == 99
    data_config, params, batch = first_batch(classify, config)
    assert data_config.model.type_vocab_size == 2
    one = classify.batch_outputs(data_config, params, batch)["logits"]
    other = batch | {"token_type_ids": np.zeros_like(batch["token_type_ids"])}
    assert np.abs(one - classify.batch_outputs(data_config, params, other)["logits"]).max() > 1e-4
    np.testing.assert_array_equal(
        source.params["encoder"]["embeddings"]["word"],
        bertjax.load(tmp_path / "model").params["encoder"]["embeddings"]["word"],
    )
    with pytest.raises(InputError, match="Hugging Face's GPT has no token types"):
        export(source, str(tmp_path / "hf"))


def test_a_gpt_is_refused_where_berts_are_trained(folder, model):
    config = toy_settings("classify", folder, model, "", {}, text_b="sentence2")
    with pytest.raises(InputError, match="a model of kind gpt, which cannot be used here; name one of kind"):
        load_source(config, classify)
