import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trained_fixture import make_trained

import bertjax
from bertjax.convert.export import export
from bertjax.convert.load import load
from bertjax.data.tokenizers.tokenizer import Tokenizer, wordpiece_tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.trained_model import load_trained, save_trained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("run"))
    make_trained(workdir)
    return load_trained(workdir)


@pytest.fixture
def folder(model, tmp_path):
    """An exported folder, to be changed."""
    export(model, str(tmp_path / "hf"))
    return tmp_path / "hf"


def change(path, **fields):
    """Sets fields of a JSON file; None removes one."""
    old = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (old | fields).items() if v is not None}))


def change_tensors(folder, function):
    tensors = load_file(folder / "model.safetensors")
    function(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_an_export_is_read_back_whole(model, folder):
    back = bertjax.load(folder)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    assert (back.head, back.labels, back.step, back.left_out) == ("pretraining", (), 0, ())
    assert back.tokenizer.sha256 == model.tokenizer.sha256
    assert back.tokenizer.lower_case == model.tokenizer.lower_case
    for name in ("hidden_act", "num_attention_heads", "layer_norm_eps", "vocab_size"):
        assert back.config[name] == model.config[name]


def test_a_lower_case_export_is_read_back(model, tmp_path):
    tokens = [*model.tokenizer.tokens[:5], "the", *model.tokenizer.tokens[6:]]
    tokenizer = wordpiece_tokenizer(tokens, True, "test")
    export(dataclasses.replace(model, tokenizer=tokenizer), str(tmp_path / "hf"))
    for left_out in ("none", "vocab.txt"):
        (tmp_path / "hf" / left_out).unlink(missing_ok=True)
        back = load(tmp_path / "hf")
        assert (back.tokenizer.lower_case, back.tokenizer.sha256) == (True, tokenizer.sha256)


def test_a_folder_becomes_a_workdir_and_a_folder_again(folder, tmp_path):
    save_trained(load(folder), str(tmp_path / "run"))
    export(load(tmp_path / "run"), str(tmp_path / "again"))
    for name in ("model.safetensors", "config.json", "vocab.txt", "tokenizer.json"):
        first, second = (tmp_path / where / name for where in ("hf", "again"))
        if name == "model.safetensors":
            first, second = load_file(first), load_file(second)
            assert first.keys() == second.keys()
            assert all(np.array_equal(first[key], second[key]) for key in first)
        else:
            assert first.read_bytes() == second.read_bytes()
    assert "Trained with bertjax" not in (tmp_path / "again/README.md").read_text()
    with pytest.raises(InputError, match=r"run: exists; name a new folder"):
        save_trained(load(folder), str(tmp_path / "run"))


def test_the_tokenizer_may_be_in_tokenizer_json_alone(model, folder):
    (folder / "vocab.txt").unlink()
    assert load(folder).tokenizer.sha256 == model.tokenizer.sha256
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: not a BERT tokenizer \(WordPiece\)"):
        load(folder)


def test_a_model_may_have_more_rows_than_tokens(model, folder):
    lines = (folder / "vocab.txt").read_text().splitlines(keepends=True)
    (folder / "vocab.txt").write_text("".join(lines[:80]))
    with pytest.raises(InputError, match=r"vocab.txt: has other tokens than tokenizer.json"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    assert load(folder).tokenizer.vocab_size == 80
    (folder / "vocab.txt").write_text("".join(lines) + "more\n")
    with pytest.raises(InputError, match=r"vocab.txt: has 97 tokens, but the model of config.json only 96"):
        load(folder)


@pytest.mark.parametrize("head", ["masked_lm", "next_sentence", "encoder"])
def test_one_head_of_several_can_be_taken(folder, head):
    taken = load(folder, head=head)
    assert taken.head == head
    assert bert.KIND.parts_of(taken.params) == bert.KIND.heads[head]
    assert set(taken.left_out) == {"pooler", "mlm", "nsp"} - set(bert.KIND.heads[head])


def test_the_heads_name_is_not_trusted_to_be_all(folder):
    change(folder / "config.json", architectures=["BertForMaskedLM"])  # as Google's models are on the hub
    assert load(folder).head == "pretraining"
    change(folder / "config.json", architectures=None)
    assert load(folder).head == "pretraining"
    change_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "cls" in name])
    assert load(folder).head == "encoder"
    change(folder / "config.json", architectures=["BertForPreTraining"])
    with pytest.raises(
        InputError, match=r"cls.predictions.transform.dense.weight is missing; .*relationship"
    ):
        load(folder)


def classifier(folder, labels, **fields):
    def add(tensors):
        for name in [name for name in tensors if name.startswith("cls.")]:
            del tensors[name]
        tensors["classifier.weight"] = np.ones((labels, 32), np.float32)
        tensors["classifier.bias"] = np.zeros(labels, np.float32)

    change_tensors(folder, add)
    change(folder / "config.json", architectures=["BertForSequenceClassification"], **fields)


def test_labels(folder, tmp_path):
    classifier(folder, 3, id2label={"0": "no", "1": "maybe", "2": "yes"})
    model = load(folder)
    assert (model.head, model.labels) == ("sequence_classification", ("no", "maybe", "yes"))
    save_trained(model, str(tmp_path / "run"))
    export(load(tmp_path / "run"), str(tmp_path / "again"))
    written = json.loads((tmp_path / "again/config.json").read_text())
    assert written["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert written["architectures"] == ["BertForSequenceClassification"]

    # What transformers writes where nothing was given says nothing of how many there are.
    change(folder / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert load(folder).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    change(folder / "config.json", id2label={"0": "no", "1": "yes"})
    with pytest.raises(InputError, match=r"has 3 labels, but id2label of config.json names 2"):
        load(folder)
    change(folder / "config.json", id2label={"0": "no", "2": "yes"})
    with pytest.raises(InputError, match="does not name the labels 0, 1"):
        load(folder)


def test_the_problem_type_says_whether_any_number_of_labels_may_be_there(folder):
    multi_label = "multi_label_classification"
    classifier(folder, 3, problem_type=multi_label, id2label={"0": "old", "1": "new", "2": "red"})
    model = load(folder)
    assert (model.head, model.labels) == (multi_label, ("old", "new", "red"))
    change(folder / "config.json", architectures=None)  # the weights alone name the class then
    assert load(folder).head == multi_label
    assert load(folder, head="sequence_classification").labels == ("old", "new", "red")
    for other in (None, "single_label_classification", "regression"):
        change(folder / "config.json", problem_type=other)
        assert load(folder).head == "sequence_classification"
        assert load(folder, head=multi_label).head == multi_label


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": None}, "config.json: has no hidden_size"),
        ({"hidden_size": "32"}, "config.json: hidden_size is '32'; expected a whole number"),
        (
            {"hidden_size": 10**18},
            "config.json: hidden_size is '1000000000000000000'; expected a whole number",
        ),
        ({"hidden_size": 64}, "position_embeddings.weight has shape [64, 32], expected is [64, 64]"),
        ({"num_hidden_layers": 999_999}, "has 3 layers, but its config says 999999"),
        ({"num_attention_heads": 5}, "num_attention_heads=5: must divide model.hidden_size=32"),
        ({"hidden_act": "swish"}, "hidden_act='swish': must be one of gelu, gelu_new"),
        ({"layer_norm_eps": True}, "layer_norm_eps is 'True'; expected a number"),
        ({"model_type": "roberta"}, "model_type is 'roberta'; only BERT and OpenAI GPT are read"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute' is BERT"),
        ({"is_decoder": True}, "is_decoder is 'True'"),
        ({"architectures": ["BertForTokenClassification"]}, "classifier.weight is missing"),
        ({"architectures": {"x": 1}}, "expected a list"),
        ({"architectures": [[]]}, "expected a list"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps is '1000"),
        ({"hidden_act": "a\nb"}, "must be one of gelu"),
        ({"hidden_size": 100_000, "intermediate_size": 100_000}, "expected is [96, 100000]"),
    ],
)
def test_a_config_that_is_absurd(folder, fields, message):
    change(folder / "config.json", **fields)
    with pytest.raises(InputError) as error:
        load(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_lower_case": True}, "lowercase is False, but tokenizer_config.json says True"),
        ({"do_lower_case": 3}, "do_lower_case is '3'; expected true or false"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is 'False'"),
        ({"strip_accents": True}, "strip_accents is 'True'"),
    ],
)
def test_a_tokenizer_config_that_contradicts(folder, fields, message):
    change(folder / "tokenizer_config.json", **fields)
    with pytest.raises(InputError) as error:
        load(folder)
    assert message in str(error.value)


def change_tokenizer(folder, **fields):
    """Sets fields of tokenizer.json: of the model, of its BertNormalizer, or of the file."""
    path = folder / "tokenizer.json"
    old = json.loads(path.read_text())
    [rules] = [s for s in old["normalizer"]["normalizers"] if s["type"] == "BertNormalizer"]
    for name, value in fields.items():
        target = next((part for part in (old["model"], rules) if name in part), old)
        target[name] = value
    path.write_text(json.dumps(old))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lowercase": True, "strip_accents": True},
            "lowercase is True, but tokenizer_config.json says False",
        ),
        ({"handle_chinese_chars": False}, "handle_chinese_chars is 'False'; only the rules of the 2018"),
        ({"strip_accents": True}, "strip_accents is 'True'"),
        ({"lowercase": True, "do_lower_case": True}, "strip_accents is 'False'"),
        ({"continuing_subword_prefix": "@@"}, "continuing_subword_prefix is '@@'"),
        ({"added_tokens": [{"id": 96, "content": "new"}]}, "the added token 'new' is not in the vocabulary"),
        ({"vocab": {"[UNK]": 1}}, "not a BERT tokenizer"),
        ({"vocab": ["[UNK]"]}, "not a BERT tokenizer"),
    ],
)
def test_a_tokenizer_json_of_other_rules(folder, alone, fields, message):
    if "do_lower_case" in fields:
        change(folder / "tokenizer_config.json", do_lower_case=True)
    change_tokenizer(folder, **fields)
    if alone:
        (folder / "vocab.txt").unlink()
    with pytest.raises(InputError) as error:
        load(folder)
    assert message in str(error.value)


@pytest.mark.parametrize("token", ["", "a\nb", "a\r", "\ud800"])
def test_tokens_that_cannot_be_lines(folder, token):
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    word = next(name for name in vocab if name.startswith("w"))
    change_tokenizer(folder, vocab={token if name == word else name: i for name, i in vocab.items()})
    (folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match="cannot stand in a line of a vocabulary"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_files_that_are_too_large_or_too_deep(folder, name):
    with open(folder / name, "wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(InputError, match="is larger than 100 MB"):
        load(folder)
    if name.endswith("json"):
        (folder / name).write_text("[" * 10**5)
        with pytest.raises(InputError, match="not JSON"):
            load(folder)


def test_two_cases_are_two_tokenizers(model):
    tokens = [token.lower() for token in model.tokenizer.tokens[5:]]
    lower, cased = (
        wordpiece_tokenizer([*model.tokenizer.tokens[:5], *tokens], lower_case, "test")
        for lower_case in (True, False)
    )
    assert lower.sha256 != cased.sha256


def test_multiple_choice_has_one_label(folder):
    classifier(folder, 4)
    change(folder / "config.json", architectures=["BertForMultipleChoice"])
    with pytest.raises(InputError, match="has 4 labels, but multiple_choice scores one choice at a time"):
        load(folder)


def test_a_head_of_a_workdir(model, folder, tmp_path):
    save_trained(model, str(tmp_path / "run"))
    taken = load(tmp_path / "run", head="encoder")
    assert (bert.KIND.parts_of(taken.params), set(taken.left_out)) == (("pooler",), {"mlm", "nsp"})
    with pytest.raises(InputError, match="for pretraining, which has no classifier of sequence_class"):
        load(tmp_path / "run", head="sequence_classification")


def test_an_interrupted_conversion_leaves_nothing(model, folder, tmp_path, monkeypatch):
    def interrupted(self, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tokenizer, "save", interrupted)
    before = sorted(path.name for path in tmp_path.iterdir())
    for write in (save_trained, export):
        with pytest.raises(KeyboardInterrupt):
            write(model, str(tmp_path / "new"))
    with pytest.raises(KeyboardInterrupt):
        export(model, str(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load(folder).head == "pretraining"


def test_folders_without_a_model(folder, tmp_path):
    for content, message in (("[1]", "not a JSON object"), ("{", "not JSON"), ("[" * 10**5, "not JSON")):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=rf"config.json: {message}"):
            load(folder)
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no model; expected a workdir"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="head tail: there is none of that name"):
        load(folder, head="tail")
    with pytest.raises(InputError, match="has no steps"):
        load(folder, step=3)


def test_a_pickle_is_read_only_when_asked_for(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"a pickle, which is read only when asked for: .*--allow_pickle"):
        load(folder)
    with pytest.raises(InputError, match=r"pytorch_model.bin: "):
        load(folder, allow_pickle=True)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"holds no model.safetensors"):
        load(folder)
