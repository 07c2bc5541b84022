"""Questions on texts, on files that the tests write."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, toy_settings
from trained_fixture import with_classifier

import bertjax
from bertjax import ensemble, sharding
from bertjax.errors import InputError
from bertjax.evaluate import make_predict_step
from bertjax.evaluate import predict as outputs_of
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.predict import __main__ as predict
from bertjax.tasks.answer import TASK as answer
from bertjax.train import train
from bertjax.trained_model import load_trained, save_trained

SAVED = {"train__save_every": 50, "train__keep_last": 2}


def questions(seed, count, unanswerable=False):
    """The answer to "w10" is "w8" and the "w9"s behind it; where there is no "w8" there is none."""
    rng = random.Random(seed)
    paragraphs = []
    for i in range(count):
        words = [f"w{rng.choice([14, 16, 17, 18, 20])}" for _ in range(rng.choice([4, 9, 40]))]
        text = " ".join(["w8", *["w9"] * rng.randrange(3)])
        without = " ".join(words)
        words.insert(rng.randrange(len(words)), text)
        context = " ".join(words)
        asked = [{"id": f"{seed}-{i}", "question": "w10", "is_impossible": False,
                  "answers": [{"text": text, "answer_start": context.index(text)}]}]  # fmt: skip
        paragraphs.append({"context": context, "qas": asked})
        if unanswerable:
            asked = [{"id": f"{seed}-{i}x", "question": "w10", "is_impossible": True, "answers": []}]
            paragraphs.append({"context": without, "qas": asked})
    return {"version": "made", "data": [{"title": "made", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for version in (1, 2):
        for seed, (name, count) in enumerate({"train": 48, "dev": 12, "test": 6}.items()):
            data = questions(seed, count, version == 2)
            if name == "test":
                for paragraph in data["data"][0]["paragraphs"]:
                    for question in paragraph["qas"]:
                        del question["answers"], question["is_impossible"]
            (folder / f"{name}-v{version}.json").write_text(json.dumps(data))
    return folder


def settings(folder, model, workdir="", version=1, **fields):
    names = {name: f"{name}-v{version}.json" for name in ("train", "dev", "test")}
    fields = {
        "train__epochs": 8.0,
        "train__seq_length": 32,
        "train__log_every": 20,
        "optim__learning_rate": 1.5e-3,
    } | fields
    return toy_settings(
        "answer", folder, model, workdir, fields, train=names["train"], dev=(names["dev"],),
        test=(names["test"],), max_query_length=4, doc_stride=12, n_best_size=32, unanswerable=version == 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(folder, model, tmp_path_factory):
    """(workdir, figures) of a run with unanswerable questions."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(settings(folder, model, workdir, 2, **SAVED))


def test_it_learns_and_writes_the_releases_files(folder, run):
    workdir, figures = run
    assert figures["eval/f1"] > 0.9
    assert figures["eval/best_f1"] >= figures["eval/f1"]
    assert {"eval/exact_match", "eval/f1_no_answer", "eval/best_f1_threshold"} <= figures.keys()
    assert [f"eval/{name}" for name in answer.figures(settings(folder, "", version=2))] == list(figures)
    trained = load_trained(str(workdir))
    assert (trained.head, trained.labels, trained.step) == ("question_answering", (), 96)  # 96 / 8 x 8
    for name, count in (("dev", 24), ("test", 12)):
        read = {
            what: json.loads((workdir / f"{name}-v2_{what}.json").read_text())
            for what in ("predictions", "nbest_predictions", "null_odds")
        }
        assert [len(content) for content in read.values()] == [count] * 3
        for question, text in read["predictions"].items():
            entries = read["nbest_predictions"][question]
            assert list(entries[0]) == ["text", "probability", "start_logit", "end_logit"]
            assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
            best = next(entry["text"] for entry in entries if entry["text"])
            assert text == ("" if read["null_odds"][question] > 0 else best)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(folder, model, run, tmp_path):
    whole, _ = run
    parts = tmp_path / "parts"
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints/96")
    for path in (parts / "checkpoints/digests/96.json", *parts.glob("*predictions.json")):
        path.unlink()
    assert load_trained(str(parts)).step == 50
    train(settings(folder, "/nowhere", parts, 2, init_from=model, **SAVED))
    one, two = (load_trained(str(workdir)) for workdir in (whole, parts))
    assert two.step == 96
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    for file in ("dev-v2_predictions.json", "dev-v2_nbest_predictions.json", "test-v2_null_odds.json"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes()


@pytest.mark.usefixtures("eight_devices")
def test_another_set_first(folder, run, tmp_path, capsys):
    """A run that begins from one on other questions takes over its head too."""
    workdir, _ = run
    train(settings(folder, workdir, tmp_path / "next", train__epochs=0.2, examples__test=()))
    assert f"parameters of {workdir}: encoder, span" in capsys.readouterr().out
    assert not (tmp_path / "next/dev-v1_null_odds.json").exists()
    assert (tmp_path / "next/dev-v1_predictions.json").is_file()


def plain_loss(logits_BS2, batch):
    """The release's: the mean over rows of beginning and end, each over all positions of the row."""
    log_BS2 = np.asarray(jax.nn.log_softmax(logits_BS2, axis=1))
    rows = np.arange(len(log_BS2))
    losses = [-log_BS2[rows, batch[f"{name}_positions"], i].mean() for i, name in enumerate(("start", "end"))]
    return sum(losses) / 2


@pytest.mark.parametrize("padding", [False, True])
def test_padding_and_devices_change_nothing(folder, model, padding):
    """Loss, gradient and logits of a batch on one device and on eight; where padding takes no part, padded
    to its longest row and to the end. Where it does, rows are always padded to the end."""
    config = settings(
        folder, model, examples__padding_logits=padding, train__seq_length=64, train__batch_windows=16
    )
    data = open_data(config, bertjax.load(model))
    config = data.config
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    params = answer.init_params(config, jax.random.key(0))
    source = data.rows["train"].train
    batch = min((source(16 * i, 16) for i in range(3)), key=lambda batch: batch["input_ids"].shape[1])
    some = batch["segment_ids"].sum(1) <= 32
    assert batch["input_ids"].shape[1] == 64
    assert 8 <= some.sum() < 16
    batch = {name: x[np.flatnonzero(some)[:8]] for name, x in batch.items()}
    assert (batch["start_positions"] > 0).all()

    def loss(params, batch):
        sums = answer.batch_sums(config, params, batch, None)
        return answer.batch_loss(sums, answer.batch_weights(batch)), answer.batch_outputs(
            config, params, batch
        )

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    found = step(params, batch)
    (value, outputs), _ = found
    mesh = make_mesh(config, jax.devices())
    shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
    spread = step(jax.device_put(params, shardings), sharding.to_global(mesh, batch))
    logits_BS2 = np.stack([outputs["start"], outputs["end"]], -1)
    np.testing.assert_allclose(value, plain_loss(logits_BS2, batch), atol=1e-5)
    others = [spread]
    if padding:
        assert (logits_BS2[batch["segment_ids"] == 0] > -100).all()
    else:
        assert (logits_BS2[batch["segment_ids"] == 0] < -1e8).all()
        others.append(step(params, {name: x[:, :32] if x.ndim == 2 else x for name, x in batch.items()}))
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, other)


@pytest.mark.parametrize("padding", [False, True])
def test_predictions_do_not_depend_on_devices_and_batches(folder, run, padding):
    params = load_trained(str(run[0])).params
    found = []
    for devices, size in ((8, 16), (1, 5)):
        config = settings(folder, run[0], version=2, eval__batch_rows=size,
                          examples__padding_logits=padding)  # fmt: skip
        data = open_data(config, bertjax.load(str(run[0])))
        mesh = make_mesh(data.config, jax.devices()[:devices])
        shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
        dev = data.rows["train"].evals[0]
        step = make_predict_step(data.config, answer, mesh, shardings)
        outputs = outputs_of(data.config, mesh, step, jax.device_put(params, shardings), dev)
        found.append((outputs, dev.score(outputs)))
    for name, x in found[0][0].items():
        np.testing.assert_allclose(x, found[1][0][name], atol=1e-5)
    assert {name: value for name, value in found[0][1].items() if name != "best_f1_threshold"} == {
        name: value for name, value in found[1][1].items() if name != "best_f1_threshold"
    }


def test_what_cannot_be_trained(folder, model):
    source = bertjax.load(model)
    lines = [{"context": "\u200b", "qas": [{"id": "q", "question": "w10"}]}]
    (folder / "no-token.json").write_text(json.dumps({"data": [{"paragraphs": lines}]}))
    for fields, message in (
        ({"train__seq_length": 8, "examples__max_query_length": 5}, "leaves no room for text"),
        ({"examples__dev": ("dev-v1.json", "x/dev-v1.json")}, "two files are named dev-v1"),
        ({"examples__test": ("no-token.json",)}, "no-token.json: question 'q': neither its context nor any"),
        ({"examples__train": "train-v2.json"}, "question '0-0x': has no answer; .*unanswerable=True"),
        (
            {"examples__dev": ("test-v1.json",), "examples__test": ()},
            "test-v1.json: question '2-0': has no 'answers'",
        ),
    ):
        with pytest.raises(InputError, match=message):
            open_data(settings(folder, model, **fields), source)
    with pytest.raises(InputError, match=r"--config\.init_from is empty"):
        open_data(settings(folder, ""), None)


def test_what_is_cut_and_left_out_is_counted(folder, model, tmp_path):
    data = questions(0, 8)
    paragraphs = data["data"][0]["paragraphs"]
    long = " ".join(["w8"] * 40)
    for i, (context, text) in enumerate(((long, long), ("w8\u00a0w9 w14", "w8\u00a0w9"), ("w8 w9", "8 w9"))):
        paragraphs[i]["context"] = context
        paragraphs[i]["qas"][0]["answers"] = [{"text": text, "answer_start": context.index(text)}]
    (tmp_path / "train-v1.json").write_text(json.dumps(data))
    config = settings(tmp_path, model, examples__dev=(), examples__test=(), train__epochs=8.0)
    opened = open_data(config, bertjax.load(model))
    assert opened.config.train.steps == 7  # the question that is left out does not count
    [note] = opened.notes
    assert "windows of 8 questions" in note
    assert note.endswith(
        "answers that no window holds: 1, that are not whole tokens: 1; left out for their white space: 1"
    )


def ask(capsys, *args):
    predict.main(["answer", *map(str, args)])
    return capsys.readouterr().out.splitlines()


def test_the_predict_command(folder, run, tmp_path, capsys):
    """Gives the answers that the run gave, from a file in SQuAD's format and from lines."""
    workdir, _ = run
    given = json.loads((workdir / "dev-v2_predictions.json").read_text())
    odds = json.loads((workdir / "dev-v2_null_odds.json").read_text())
    lines = ask(capsys, f"--model={workdir}", f"--input={folder}/dev-v2.json", "--json")
    found = [json.loads(line) for line in lines]
    assert {answer["id"]: answer["answer"] for answer in found} == given
    for each in found:
        assert each["null_odds"] == pytest.approx(odds[each["id"]], abs=1e-3)
        assert 0 < each["probability"] <= 1
    text = tmp_path / "asked.txt"
    text.write_text(f"w10\tw14 w8 w9 w16\nw10\t{'w14 ' * 60}\n")
    lines = ask(capsys, f"--model={workdir}", f"--input={text}")
    assert lines[0].startswith("w8 w9 ")
    assert lines[0].endswith("%  w10")
    assert lines[1].startswith("(no answer) ")
    [line] = ask(capsys, f"--model={workdir}", "w10\tw14 w16", "--null_threshold=1000")
    assert line.startswith("w")


def test_no_candidate_is_no_answer(model, tmp_path, capsys):
    trained = with_classifier(load_trained(model), "question_answering", (), width=2)
    trained.meta["resolved_config"] |= {"train.seq_length": 32, "examples.max_query_length": 4}
    save_trained(trained, str(tmp_path / "run"))
    for more in ([], ["--unanswerable"]):
        [line] = ask(capsys, f"--model={tmp_path / 'run'}", "w10\t\u200b", *more)
        assert line == "(no answer) 100.0%  w10"
    [line] = ask(capsys, f"--model={tmp_path / 'run'}", "w10\t\u200b", "--json")
    assert (json.loads(line)["answer"], json.loads(line)["probability"]) == ("", 1.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model={run}", "w10"], "'w10': expected two texts with a tab between them"),
        (["--model={run}", "w10\t "], "'w10': expected a question and a text"),
        (["--model={model}", "w10\tw8"], "a model for pretraining; name one that was trained to answer"),
        (["--model={run}", "--input=/nowhere.json"], "/nowhere.json: no such file"),
        (["--model={run}", "--input=x.json", "w10\tw8"], "texts among the arguments too"),
    ],
)
def test_bad_questions(run, model, args, message):
    with pytest.raises(InputError) as error:
        predict.main(["answer", *(arg.format(run=run[0], model=model) for arg in args)])
    assert message in str(error.value)


def write_run(folder, entries, unanswerable=False):
    folder.mkdir()
    content = {
        name: [{"text": t, "probability": p, "start_logit": 0.0, "end_logit": 0.0} for t, p in found.items()]
        for name, found in entries.items()
    }
    (folder / "dev_nbest_predictions.json").write_text(json.dumps(content))
    if unanswerable:
        (folder / "dev_null_odds.json").write_text(json.dumps(dict.fromkeys(entries, 0.0)))


def test_an_ensemble_is_the_mean_of_its_runs(tmp_path, capsys):
    one, two, out = (tmp_path / name for name in ("one", "two", "out"))
    write_run(one, {"q1": {"a": 0.6, "b": 0.4}, "q2": {"c": 0.7, "": 0.3}}, True)
    write_run(two, {"q1": {"b": 0.5, "c": 0.3, "": 0.2}, "q2": {"": 0.8, "c": 0.2}}, True)
    asked = [
        {"id": "q1", "question": "?", "answers": [{"text": "b", "answer_start": 2}], "is_impossible": False},
        {"id": "q2", "question": "?", "answers": [], "is_impossible": True},
    ]
    dev = tmp_path / "dev.json"
    dev.write_text(json.dumps({"data": [{"paragraphs": [{"context": "a b c", "qas": asked}]}]}))
    ensemble.main([str(one), str(two), f"--out={out}", f"--data={dev}"])
    lines = capsys.readouterr().out.splitlines()
    assert "2 questions answered by 2 runs" in lines[0]
    assert "f1 1.0000  exact_match 1.0000" in lines[1]
    assert "best_f1 1.0000" in lines[1]
    entries = json.loads((out / "dev_nbest_predictions.json").read_text())
    assert [(e["text"], round(e["probability"], 9)) for e in entries["q1"]] == [
        ("b", 0.45), ("a", 0.3), ("c", 0.15), ("", 0.1)
    ]  # fmt: skip
    assert json.loads((out / "dev_predictions.json").read_text()) == {"q1": "b", "q2": ""}
    odds = json.loads((out / "dev_null_odds.json").read_text())
    assert odds == {"q1": pytest.approx(np.log(0.1 / 0.45)), "q2": pytest.approx(np.log(0.55 / 0.45))}


def test_a_runs_odds_are_those_of_its_probabilities(run, tmp_path):
    """So an ensemble of one run and itself answers as the run does."""
    shutil.copytree(run[0], tmp_path / "copy")
    ensemble.main([str(run[0]), str(tmp_path / "copy"), f"--out={tmp_path / 'out'}"])
    for what in ("predictions", "null_odds"):
        one, two = (
            json.loads((folder / f"dev-v2_{what}.json").read_text()) for folder in (run[0], tmp_path / "out")
        )
        assert one == (two if what == "predictions" else pytest.approx(two))


def test_runs_that_do_not_fit(tmp_path):
    write_run(tmp_path / "one", {"q1": {"a": 1.0}})
    write_run(tmp_path / "two", {"q2": {"a": 1.0}})
    write_run(tmp_path / "odds", {"q1": {"a": 1.0}}, True)
    write_run(tmp_path / "broken", {"q1": {"a": 1.0}})
    (tmp_path / "broken/dev_nbest_predictions.json").write_text('{"q1": [{"text": "a"}]}')
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "same", {"q1": {"a": 1.0}})
    write_run(tmp_path / "odds2", {"q1": {"a": 1.0}}, True)
    for version in (1, 2):
        (tmp_path / f"v{version}").mkdir()
        asked = {"id": "q1", "question": "?", "answers": [{"text": "a", "answer_start": 0}][: 2 - version]}
        asked |= {"is_impossible": True} if version == 2 else {}
        data = {"data": [{"paragraphs": [{"context": "a", "qas": [asked]}]}]}
        (tmp_path / f"v{version}/dev.json").write_text(json.dumps(data))
    out = f"--out={tmp_path / 'out'}"
    for args, message in (
        (["one", out], "name two or more runs, each once"),
        (["one", "one", out], "name two or more runs, each once"),
        (["one", "two", f"--out={tmp_path / 'one'}"], "is a run, whose predictions would be lost"),
        (["one", "two", out], "two: its dev_nbest_predictions.json has other questions"),
        (["one", "odds", out], "dev: some runs were trained with unanswerable questions"),
        (["one", "broken", out], "broken/dev_nbest_predictions.json: question 'q1': not a list of answers"),
        (["one", "same", out, "--null_threshold=nan"], "--null_threshold=nan: must be a finite number"),
        (["one", "same", out, f"--data={tmp_path}/v2/dev.json"], "trained without unanswerable questions"),
        (["odds", "odds2", out, f"--data={tmp_path}/v1/dev.json"], "trained with unanswerable questions"),
        (["one", "empty", out], "empty/dev_nbest_predictions.json: no such file"),
        (["empty", "one", out], "empty: has no"),
    ):
        with pytest.raises(InputError, match=message):
            ensemble.main([arg if arg.startswith("--") else str(tmp_path / arg) for arg in args])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('{"q1": {}}', "question 'q1'"),
        ('{"q1": []}', "question 'q1'"),
        ('{"q1": [[]]}', "question 'q1'"),
        ('{"q1": [{"text": null, "probability": 1, "start_logit": 0, "end_logit": 0}]}', "question 'q1'"),
        ('{"q1": [{"text": "a", "probability": "1", "start_logit": 0, "end_logit": 0}]}', "question 'q1'"),
        ('{"q1": [{"text": "a", "probability": -1, "start_logit": 0, "end_logit": 0}]}', "question 'q1'"),
        ('{"q1": [{"text": "a", "probability": NaN, "start_logit": 0, "end_logit": 0}]}', "question 'q1'"),
        ('{"q1": [{"text": "a", "probability": 1, "start_logit": [], "end_logit": 0}]}', "question 'q1'"),
    ],
)
def test_candidates_that_no_run_wrote(tmp_path, content, message):
    write_run(tmp_path / "one", {"q1": {"a": 1.0}})
    write_run(tmp_path / "two", {"q1": {"a": 1.0}})
    (tmp_path / "two/dev_nbest_predictions.json").write_text(content)
    with pytest.raises(InputError, match=f"two/dev_nbest_predictions.json: {message}.*; take the file as a"):
        ensemble.main([str(tmp_path / "one"), str(tmp_path / "two"), f"--out={tmp_path / 'out'}"])
