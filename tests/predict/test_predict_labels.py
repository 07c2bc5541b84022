"""Classes, numbers and labels of texts and of tables, and choices."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from predict_fixture import give_stdin, states
from trained_fixture import with_classifier

from bertjax.convert.export import export
from bertjax.errors import InputError
from bertjax.predict import __main__ as predict
from bertjax.predict.predictor import Predictor
from bertjax.trained_model import save_trained

pytestmark = pytest.mark.usefixtures("one_device")


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


def multi_label(model, texts, logits):
    """A model of three labels that gives these logits [texts, 3] to the texts, tuples of one or two."""
    trained = with_classifier(model, "multi_label_classification", ("old", "new", "red"))
    module = trained.module()
    pooled = np.array([module.pool(states(model, *text)[-1][None, :1])[0, 0] for text in texts])
    kernel = (np.linalg.pinv(pooled) @ np.array(logits)).astype(np.float32)
    return dataclasses.replace(trained, params=trained.params | {"classifier_kernel": kernel})


def test_labels_of_which_any_number_may_be_there(model, tmp_path, capsys):
    """On the terminal those that are likelier there than not, with --json the probabilities of all."""
    texts = [("w8 w9",), ("w8 w10s", "The w12"), ("w13",)]
    logits = np.array([[1.5, 0.7, 0.4], [-1.0, 2.0, 0.1], [-2.0, -1.0, -0.2]])
    trained = multi_label(model, texts, logits)
    save_trained(trained, str(tmp_path / "run"))
    export(trained, str(tmp_path / "hf"))
    for folder in ("run", "hf"):
        command = ["classify", f"--model={tmp_path / folder}"]
        predict.main([*command, *map("\t".join, texts)])
        assert capsys.readouterr().out.splitlines() == [
            "old 81.8%, new 66.8%, red 59.9%  w8 w9",
            "new 88.1%, red 52.5%  w8 w10s | The w12",
            "(no label)  w13",
        ]
        predict.main([*command, "--json", *map("\t".join, texts)])
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [answer["text"] for answer in answers] == ["w8 w9", ["w8 w10s", "The w12"], "w13"]
        assert [answer["labels"] for answer in answers] == [["old", "new", "red"], ["new", "red"], []]
        for answer, shares in zip(answers, 1 / (1 + np.exp(-logits)), strict=True):
            wanted = dict(zip(("old", "new", "red"), shares.tolist(), strict=True))
            assert answer["probabilities"] == pytest.approx(wanted, abs=1e-5)

    file = tmp_path / "table.csv"
    file.write_text(TABLE)
    predict.main([*command, f"--input={file}", "--columns=a,b"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    with pytest.raises(InputError, match="--label=label: the model gives any number of labels, which"):
        predict.main([*command, f"--input={file}", "--columns=a,b", "--label=label"])


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
        Predictor(classes).choose([("w8", ["w9", "w10"])])
