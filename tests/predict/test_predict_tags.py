"""Tags of words, of lines and of files in the CoNLL format."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from predict_fixture import give_stdin
from trained_fixture import with_classifier

from bertjax.convert.export import export
from bertjax.data.finetuning.conll import Sentence, conll_lines, read_conll
from bertjax.data.finetuning.word_windows import cut_windows
from bertjax.errors import InputError
from bertjax.predict import __main__ as predict
from bertjax.predict.predictor import Predictor
from bertjax.trained_model import save_trained

pytestmark = pytest.mark.usefixtures("one_device")


TAGS = ("O", "B-X", "I-X")


@pytest.mark.parametrize(("most", "context"), [(64, False), (24, True)])
def test_tags_of_a_long_sentence_are_its_windows(model, most, context):
    trained = with_classifier(model, "token_classification", TAGS)
    predictor = Predictor(trained)
    sentences = [
        Sentence(tuple(words), (), 0, 0)
        for words in (["w8", "w9s", "The"], [f"w{8 + i % 80}" for i in range(150)])
    ]
    found = predictor.best_tags(sentences, most, context)
    assert [[len(x) for x in of_sentence] for of_sentence in found] == [[3, 3], [150, 150]]
    module, seen = trained.module(), 0
    form = trained.kind.row_form(trained.tokenizer)
    for window in cut_windows(sentences, trained.tokenizer, form, most, context):
        ids = np.array([window.row.ids], np.int32)
        batch = {"input_ids": ids, "token_type_ids": 0 * ids, "segment_ids": 0 * ids + 1,
                 "position_ids": np.arange(ids.size, dtype=np.int32)[None]}  # fmt: skip
        shares = np.asarray(jax.nn.softmax(module.classify(module.encoder(batch))[0]))
        for sentence, word, position in window.words:
            tags, of_tags = found[sentence]
            assert tags[word] == shares[position].argmax()
            np.testing.assert_allclose(of_tags[word], shares[position].max(), atol=1e-5)
            seen += 1
    assert seen == 153


def test_the_tag_command(model, tmp_path, capsys, monkeypatch):
    trained = with_classifier(model, "token_classification", TAGS)
    of_run = model.meta["resolved_config"] | {"train.seq_length": 64}
    trained = dataclasses.replace(trained, meta=model.meta | {"resolved_config": of_run})
    save_trained(trained, str(tmp_path / "run"))
    export(trained, str(tmp_path / "hf"))
    sentences = [["The", "w8s", "w9"], ["w12"], [f"w{12 + i}" for i in range(70)]]
    parts = [Sentence(tuple(words), (), 0, 0) for words in sentences]
    predictor = Predictor(trained)
    found = predictor.best_tags(parts, 64, False)
    tags = [[TAGS[i] for i in best] for best, _ in found]
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
    assert answers[1]["probabilities"] == pytest.approx(found[1][1].tolist(), abs=1e-5)

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
        other = dataclasses.replace(trained, meta=model.meta | {"resolved_config": of_run})
        save_trained(other, str(tmp_path / f"other{context}"))
        predict.main(["tag", f"--model={tmp_path / f'other{context}'}", "--conll", f"--input={file}"])
        wanted = [[TAGS[i] for i in best] for best, _ in predictor.best_tags(given, 16, context)]
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
