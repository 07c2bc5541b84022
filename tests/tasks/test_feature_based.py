"""Heads on other layers than the last and on a BiLSTM, with a frozen encoder and with one that is trained."""

import json
import random

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, refusal, toy_settings
from store_fixture import toy_config
from trained_fixture import make_trained

import bertjax
from bertjax import plan, sharding
from bertjax.convert.__main__ import main as convert
from bertjax.data.finetuning.conll import read_conll
from bertjax.errors import InputError
from bertjax.init_from import initial_params
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.models.layers import dropout_keys
from bertjax.optim import layer_rates
from bertjax.predict import __main__ as predict
from bertjax.predict.predictor import Predictor
from bertjax.tasks import example_rows
from bertjax.tasks.answer import TASK as answer
from bertjax.tasks.choose import TASK as choose
from bertjax.tasks.classify import TASK as classify
from bertjax.tasks.tag import TASK as tag
from bertjax.train import make_train_step, scalars, train
from bertjax.train_state import init_state
from bertjax.trained_model import load_trained

LSTM = {"head__lstm_layers": 2, "head__lstm_size": 16}
FROZEN = {"train__freeze_encoder": True}
FILES = {
    classify: {"train": "train.tsv", "dev": ("dev.tsv",), "text_b": "sentence2"},
    tag: {"train": "train.conll", "dev": ("dev.conll",)},
    answer: {"train": "train.jsonl", "dev": ("dev.jsonl",), "max_query_length": 4},
    choose: {"train": "choices.tsv", "dev": ("dev_choices.tsv",), "text_a": "context", "choices": ("a", "b")},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The workdir of a toy model of five layers."""
    workdir = str(tmp_path_factory.mktemp("model"))
    make_trained(workdir, **{"model.num_hidden_layers": 5})
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts, sentences, questions and choices in which w8 and w9 say what is to be learned."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)

    def words(least, most):
        return [f"w{rng.randrange(12, 90)}" for _ in range(rng.randrange(least, most))]

    for name, count in (("train", 80), ("dev", 21)):
        pairs, sentences, questions, choices = (
            ["label\tsentence1\tsentence2"],
            [],
            [],
            ["label\tcontext\ta\tb"],
        )
        for i in range(count):
            yes = rng.random() < 0.5
            text = " ".join(words(1, 9))
            pairs.append(f"{'no' if yes else 'yes'}\t{'w9' if yes else 'w8'} {text}\tw10 {text}")
            sentence = [f"{word} O" for word in words(1, 12)]
            sentence.insert(rng.randrange(len(sentence) + 1), "w8 B-X")
            sentences.append("\n".join(sentence))
            context = words(4, 20)
            context.insert(rng.randrange(len(context)), "w8")
            text = " ".join(context)
            answers = [{"text": "w8", "answer_start": text.index("w8")}]
            questions.append({"id": str(i), "question": "w10", "context": text, "answers": answers})
            two = f"w8 {' '.join(words(1, 5))}", f"w9 {' '.join(words(1, 5))}"
            choices.append(f"{int(yes)}\tw10\t{two[yes]}\t{two[not yes]}")
        (folder / f"{name}.tsv").write_text("\n".join(pairs) + "\n")
        (folder / f"{name}.conll").write_text("\n\n".join(sentences) + "\n")
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, questions)) + "\n")
        (folder / f"{'dev_' * (name == 'dev')}choices.tsv").write_text("\n".join(choices) + "\n")
    return folder


def settings(task, folder, model, workdir="", **fields):
    return toy_settings(task.name, folder, model, workdir, {"train__seq_length": 32} | fields, **FILES[task])


def opened(task, folder, model, **fields):
    return open_data(settings(task, folder, model, **fields), bertjax.load(model))


@pytest.fixture(scope="module")
def run(folder, model, tmp_path_factory):
    """(workdir, figures) of tags on a learned sum of frozen layers and a BiLSTM."""
    workdir = tmp_path_factory.mktemp("run")
    config = settings(tag, folder, model, workdir, head__layers="sum_last_four", train__epochs=6.0,
                      optim__learning_rate=1e-2, **LSTM, **FROZEN)  # fmt: skip
    return workdir, train(config)


def test_what_stands_on_a_frozen_encoder_is_learned_and_nothing_else(folder, model, run):
    workdir, figures = run
    assert figures["eval/f1"] > 0.9
    trained = load_trained(str(workdir))
    before, after = bertjax.load(model).params["encoder"], trained.params["encoder"]
    jax.tree.map(np.testing.assert_array_equal, before, after)
    data = opened(tag, folder, model, head__layers="sum_last_four", **LSTM, **FROZEN)
    begun = init_state(data.config, tag, 0)
    assert begun["optimizer"]["mu"].keys() == begun["optimizer"]["nu"].keys() == {
        "features", "classifier_kernel", "classifier_bias",
    }  # fmt: skip
    changed = jax.tree.map(
        lambda x, y: bool((np.asarray(x) != y).any()), begun["params"]["features"], trained.params["features"]
    )
    assert changed.keys() == {"lstm", "mix_bias", "mix_scale"}
    assert all(jax.tree.leaves(changed))


def test_the_saved_model_says_what_its_head_stands_on(folder, run, capsys):
    workdir, _ = run
    trained = load_trained(str(workdir))
    assert (trained.reads.layers, trained.reads.lstm_layers) == ("sum_last_four", 2)
    assert bert.KIND.parts_of(trained.params) == ("features", "classifier")
    capsys.readouterr()
    predict.main(["tag", f"--model={workdir}", "--conll", f"--input={folder / 'dev.conll'}"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    given = [line.split() for line in (workdir / "dev_predictions.conll").read_text().splitlines()]
    assert [line[-1:] for line in lines] == [line[-1:] for line in given]
    assert trained.module().classify(np.zeros((1, 32), np.float32)).shape == (1, 3)


@pytest.mark.parametrize("more", [[], ["--head=encoder"]])
def test_it_is_not_exported(run, tmp_path, more):
    with pytest.raises(InputError, match="sum_last_four and a BiLSTM of 2 layers") as error:
        convert([f"--from={run[0]}", f"--to={tmp_path / 'hf'}", *more])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hf").exists()


def predicted(task, folder, workdir, capsys):
    """The predictions of predict for the dev set, as the run's files have them."""
    capsys.readouterr()
    if task is answer:
        predict.main(["answer", f"--model={workdir}", f"--input={folder / 'dev.jsonl'}", "--json"])
        lines = map(json.loads, capsys.readouterr().out.splitlines())
        return {line["id"]: line["answer"] for line in lines}
    rows = [line.split("\t") for line in (folder / FILES[task]["dev"][0]).read_text().splitlines()[1:]]
    trained = load_trained(workdir)
    asked = Predictor(trained)
    if task is classify:
        return [trained.labels[x.argmax()] for x in asked.classify([tuple(row[1:]) for row in rows])]
    return [str(x.argmax()) for x in asked.choose([(row[1], row[2:]) for row in rows])]


@pytest.mark.parametrize("task", [classify, answer, choose])
def test_every_task_learns_on_a_bilstm_and_predicts_the_same(task, folder, model, tmp_path, capsys):
    config = settings(task, folder, model, tmp_path / "run", train__epochs=5.0, head__lstm_layers=1,
                      head__lstm_size=16, head__layers="concat_last_four")  # fmt: skip
    figures = train(config)
    assert max(figures.values()) > 0.7
    before, after = bertjax.load(model).params, load_trained(str(tmp_path / "run")).params
    assert (before["encoder"]["embeddings"]["position"] != after["encoder"]["embeddings"]["position"]).any()
    if task is answer:
        given = json.loads((tmp_path / "run/dev_predictions.json").read_text())
    else:
        stem = FILES[task]["dev"][0].partition(".")[0]
        lines = (tmp_path / f"run/{stem}_predictions.tsv").read_text().splitlines()[1:]
        given = [line.split("\t")[1] for line in lines]
    assert predicted(task, folder, str(tmp_path / "run"), capsys) == given


@pytest.mark.parametrize("task", [classify, tag])
@pytest.mark.parametrize("layers", ["last", "sum_all"])
def test_sharing_rows_changes_nothing(task, layers, folder, model, monkeypatch):
    """Loss and gradient of texts that share rows, and of each in a row of its own."""
    fields = {f"train__batch_{task.unit}": 24, "head__layers": layers, **LSTM}
    shared = opened(task, folder, model, **fields)
    monkeypatch.setattr(example_rows, "_FILLED", 0.0)
    alone = opened(task, folder, model, **fields)
    config = shared.config
    params = task.init_params(config, jax.random.key(0))

    def loss(params, batch):
        return task.batch_loss(task.batch_sums(config, params, batch, None), task.batch_weights(batch))

    step = jax.jit(jax.value_and_grad(loss))
    found = [
        step(params, data.rows["train"].train(0, data.rows["train"].batch_rows)) for data in (shared, alone)
    ]
    assert shared.rows["train"].batch_rows < alone.rows["train"].batch_rows
    assert max(abs(x).max() for x in jax.tree.leaves(found[0][1]["features"])) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


def test_embed_writes_what_training_reads(folder, model, run):
    """The states that training with a frozen encoder reads, texts that share rows among them."""
    sentences = read_conll(str(folder / "dev.conll"), tagged=True)
    texts = [" ".join(sentence.words) for sentence in sentences]
    trained = load_trained(str(run[0]))
    for source, layers in ((bertjax.load(model), "concat_last_four"), (trained, "sum_last_four"),
                           (trained, "second_to_last")):  # fmt: skip
        data = opened(tag, folder, model, head__layers=layers, eval__batch_rows=64)
        params = tag.init_params(data.config, jax.random.key(0)) | {"encoder": source.params["encoder"]}
        if layers == source.reads.layers:  # the learned weights
            mix = {name: source.params["features"][name] for name in ("mix_bias", "mix_scale")}
            params["features"] = mix
        keys = dropout_keys(np.array([1, 2], np.uint32), np.arange(64))
        dev = data.rows["train"].evals[0]
        batch = dev.rows(0, 64)
        read = bert.KIND.bind(data.config.model, params, data.config.head).head_states(
            batch, packed=True, keys=keys, frozen=True
        )
        of_text = {}
        for row, segment in {*zip(*np.nonzero(batch["segment_ids"]), strict=True)}:
            here = batch["segment_ids"][row] == batch["segment_ids"][row, segment]
            of_text[tuple(batch["input_ids"][row, here].tolist())] = np.asarray(read[row, here])
        predictor = Predictor(source)
        for text, states in zip(texts, predictor.embed(texts, "tokens", layers), strict=True):
            [ids] = source.tokenizer.encode_batch([text])
            whole = (source.tokenizer.cls_id, *ids, source.tokenizer.sep_id)
            np.testing.assert_allclose(states, of_text[whole], atol=2e-5)


def test_a_sum_that_was_not_learned_is_the_mean(model):
    source = bertjax.load(model)
    predictor = Predictor(source)
    for layers, numbers in (("sum_all", range(1, 6)), ("sum_last_four", range(2, 6))):
        every = [predictor.embed(["w8 w9"], "mean", i)[0] for i in numbers]
        np.testing.assert_allclose(
            predictor.embed(["w8 w9"], "mean", layers)[0], np.mean(every, 0), atol=1e-5
        )


def test_the_poolers_output_is_that_of_the_head(folder, model, tmp_path):
    config = settings(classify, folder, model, tmp_path / "run", head__layers="sum_all", train__epochs=0.2)
    train(config)
    trained = load_trained(str(tmp_path / "run"))
    predictor = Predictor(trained)
    with pytest.raises(InputError, match="pooler reads sum_all; take other states"):
        predictor.embed(["w8"], "pooled")


def begin(folder, source, **fields):
    """(what a run that begins from `source` has, what was drawn, the line)."""
    config = settings(classify, folder, source, **fields)
    trained = bertjax.load(config.init_from)
    data = open_data(config, trained)
    fresh = jax.jit(lambda: classify.init_params(data.config, jax.random.key(0)))()
    shardings = sharding.state_shardings(bert.KIND.sharding, fresh, make_mesh(data.config, jax.devices()))
    params, line = initial_params(data.config, classify, trained, data, fresh, shardings)
    return params, fresh, trained.params, line


def test_parts_are_taken_only_where_they_stand_on_the_same(folder, model, tmp_path):
    one = {"head__layers": "sum_all", **LSTM}
    train(settings(classify, folder, model, tmp_path / "run", train__epochs=1.0, **one))

    def kept(**fields):
        params, fresh, source, line = begin(folder, tmp_path / "run", **fields)
        same = [
            name for name in params if name not in ("encoder",)
            and all(jax.tree.leaves(jax.tree.map(np.array_equal, params[name], source.get(name, {})))
                    if name in source and jax.tree.structure(params[name]) == jax.tree.structure(source[name])
                    else [False])
        ]  # fmt: skip
        drawn = [name for name in params if name not in same and name != "encoder"]
        jax.tree.map(np.testing.assert_array_equal, params["encoder"], source["encoder"])
        for name in drawn:
            jax.tree.map(np.testing.assert_array_equal, params[name], fresh[name])
        return {name.partition("_")[0] for name in same if not name.endswith("bias")}, line

    names, line = kept(**one, head__dropout_prob=0.3)
    assert names == {"features", "pooler", "classifier"}
    assert line.endswith("encoder, features, pooler, classifier")
    names, line = kept(**one | {"head__lstm_size": 8})
    assert names == set()
    assert "encoder; newly drawn: features, pooler, classifier" in line
    names, line = kept()
    assert names == set()
    assert "encoder; newly drawn: pooler, classifier; left out: features" in line
    # And from a model whose pooler stands on the last layer.
    *_, line = begin(folder, model, **one)
    assert "encoder; newly drawn: features, pooler, classifier" in line
    *_, line = begin(folder, model)
    assert "encoder, pooler; newly drawn: classifier" in line


def test_features_have_the_top_rate(folder, model):
    params = init_state(opened(tag, folder, model, head__layers="sum_all", **LSTM).config, tag, 0)["params"]
    names = [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    features = [name for name in names if name.startswith("features/")]
    assert len(features) == 8
    for name in features:
        assert layer_rates(0.5, params, name).tolist() == [1.0]
    assert layer_rates(0.5, params, "encoder/layers/output_bias").tolist() == [
        2.0**-i for i in range(5, 0, -1)
    ]


def test_features_are_sharded_and_a_step_is_the_same_on_a_mesh(folder, model):
    fields = {"train__batch_windows": 16, "head__layers": "concat_last_four", **LSTM, **FROZEN}
    states, losses = [], []
    for mesh in ({"mesh__fsdp": 1, "mesh__data": 8}, {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}):
        data = opened(tag, folder, model, **fields, **mesh)
        on = make_mesh(data.config, jax.devices())
        step, init, _ = make_train_step(data.config, tag, on)
        rows = data.rows["train"]
        batch = sharding.to_global(on, rows.train(0, rows.batch_rows))
        state, measured = step(init(), batch, scalars(data.config, 0))
        config = data.config
        states.append(state)
        losses.append(float(measured["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    kernel = states[1]["params"]["features"]["lstm"]["layer_0"]["input_kernel"]
    assert kernel.shape == (2, 128, 4, 16)
    assert kernel.addressable_shards[0].data.shape == (2, 64, 4, 8)
    moment = states[1]["optimizer"]["mu"]["features"]["lstm"]["layer_0"]["input_kernel"]
    assert moment.sharding.is_equivalent_to(kernel.sharding, 4)
    config.head.lstm_size = 7
    with pytest.raises(InputError, match=r"tensor=2 does not divide head.lstm_size=7"):
        make_mesh(config, jax.devices())


def test_a_step_is_planned(folder, model):
    figures = {}
    for frozen in (False, True):
        config = opened(
            tag, folder, model, head__layers="sum_all", train__freeze_encoder=frozen, **LSTM
        ).config
        figures[frozen] = plan.plan_phase(config, make_mesh(config, jax.devices()), "train", plan.GIB)
        assert figures[frozen].fits
    # A frozen encoder has no moments and no backward pass.
    assert figures[True].arguments < 0.6 * figures[False].arguments
    assert figures[True].model_flops < 0.7 * figures[False].model_flops


def test_products_of_a_step():
    """Those of the LSTM count, and those of a frozen encoder's backward pass do not."""
    model, head = toy_config().model, bert.KIND.head_section()

    def flops(**how):
        return bert.KIND.encoder_flops(model, head, np.array([16]), **how)

    whole = flops()
    assert flops(positions=1) < whole
    head.layers = "second_to_last"
    assert flops(positions=1) == whole
    assert flops(frozen=True) == pytest.approx(whole / 3)
    head.update(layers="embeddings", lstm_layers=1, lstm_size=8)
    assert flops(frozen=True) == 6 * 16 * 2 * (32 + 8) * 4 * 8


def test_too_few_layers(folder, tmp_path):
    make_trained(str(tmp_path / "model"))
    config = settings(tag, folder, tmp_path / "model", head__layers="concat_last_four")
    assert refusal(config) == (
        "--config.head.layers=concat_last_four: the model has 3 layers, which are too few"
    )
