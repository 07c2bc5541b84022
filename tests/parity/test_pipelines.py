"""An exported model in Hugging Face's own code; `make parity` installs what it needs."""

import json

import jax
import numpy as np
import pytest
from store_fixture import make_batch
from trained_fixture import make_trained, with_classifier

from bertjax.convert.export import export
from bertjax.convert.huggingface import CONFIG_FIELDS
from bertjax.data.finetuning.conll import Sentence
from bertjax.models import bert
from bertjax.predict.predictor import Predictor
from bertjax.trained_model import load_trained, save_trained

torch = pytest.importorskip("torch", reason="torch is not installed; make parity installs it")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; make parity installs it"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend


@pytest.fixture(scope="module", params=["gelu_new", "gelu"])
def exported(request, tmp_path_factory):
    """(config, trained model, folder)"""
    folder = tmp_path_factory.mktemp("parity")
    config, _ = make_trained(str(folder / "run"), **{"model.hidden_act": request.param})
    model = load_trained(str(folder / "run"))
    export(model, str(folder / "out"))
    return config, model, str(folder / "out")


def test_logits(exported):
    config, model, folder = exported
    theirs, report = transformers.AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == "BertForPreTraining"
    assert {name: list(found) for name, found in report.items() if found} == {}
    batch = make_batch(config, rows=6)
    ours_mlm, ours_nsp = jax.jit(
        lambda params, batch: bert.KIND.bind(config.model, params).pretraining(batch)
    )(model.params, batch)
    with torch.no_grad():
        out = theirs.eval()(
            input_ids=torch.tensor(batch["input_ids"], dtype=torch.long),
            token_type_ids=torch.tensor(batch["token_type_ids"], dtype=torch.long),
            attention_mask=torch.tensor(batch["segment_ids"] > 0),
        )
    masked = np.take_along_axis(
        out.prediction_logits.numpy(), batch["masked_lm_positions"][:, :, None], axis=1
    )
    np.testing.assert_allclose(ours_mlm[:, :, : model.config.vocab_size], masked, atol=1e-4)
    np.testing.assert_allclose(ours_nsp[:, 0], out.seq_relationship_logits.numpy(), atol=1e-4)


def test_the_config_is_read_whole(exported):
    _, _, folder = exported
    with open(f"{folder}/config.json") as file:
        written = json.load(file)
    read = transformers.AutoConfig.from_pretrained(folder)
    assert {name: getattr(read, name) for name in CONFIG_FIELDS} == {
        name: written[name] for name in CONFIG_FIELDS
    }


def test_token_ids(exported):
    _, model, folder = exported
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        "The w8s w9w7 unheard",
        "w8\u00adw9 w10",
        "\ue000 w8",
        "The, w12!",
        "w8s " * 30,
        "",
        "w8" + "w7" * 60,
    ]
    for text, ids in zip(texts, model.tokenizer.encode_batch(texts), strict=True):
        assert theirs(text, add_special_tokens=False).input_ids == ids
    pair = theirs("The [MASK]", "w9")
    special = [model.tokenizer.tokens[i] for i in pair.input_ids]
    assert special == ["[CLS]", "The", "[MASK]", "[SEP]", "w9", "[SEP]"]
    assert pair.token_type_ids == [0, 0, 0, 0, 1, 1]
    assert theirs.model_max_length == 64


def test_fill_mask(exported):
    _, model, folder = exported
    text = "The w8s [MASK] w9w7"
    [[ours]] = Predictor(model).fill_mask([text], top_k=5)
    theirs = transformers.pipeline("fill-mask", model=folder)(text)
    assert [model.tokenizer.tokens[guess["token"]] for guess in theirs] == [token for token, _ in ours]
    np.testing.assert_allclose([guess["score"] for guess in theirs], [share for _, share in ours], atol=1e-5)


def test_feature_extraction(exported):
    _, model, folder = exported
    texts = ["The w8s w9w7", "w12 w13 w14 w15"]
    ours = Predictor(model).embed(texts, "tokens")
    theirs = transformers.pipeline("feature-extraction", model=folder)(texts)
    for text, x, [wanted] in zip(texts, ours, theirs, strict=True):
        np.testing.assert_allclose(x, wanted, atol=2e-5, err_msg=text)


def fine_tuned(model, folder, head, labels, width=None):
    """A predictor of the model with a random classifier, and its export from a workdir."""
    trained = with_classifier(model, head, labels, width)
    save_trained(trained, str(folder / "run"))
    export(load_trained(str(folder / "run")), str(folder / "hf"))
    return Predictor(trained), str(folder / "hf")


@pytest.mark.parametrize(
    ("head", "labels", "share"),
    [
        ("sequence_classification", ("no", "maybe", "yes"), jax.nn.softmax),
        ("sequence_classification", ("number",), jax.numpy.asarray),
        ("multi_label_classification", ("old", "new", "red"), jax.nn.sigmoid),
    ],
)
def test_text_classification(exported, tmp_path, head, labels, share):
    _, model, _ = exported
    ours, folder = fine_tuned(model, tmp_path, head, labels)
    [logits] = ours.classify([("The w8s", "w9w7")])
    pipe = transformers.pipeline("text-classification", model=folder, top_k=None)
    assert type(pipe.model).__name__ == "BertForSequenceClassification"
    found = {each["label"]: each["score"] for each in pipe([{"text": "The w8s", "text_pair": "w9w7"}])[0]}
    assert found == pytest.approx(dict(zip(labels, share(logits).tolist(), strict=True)), abs=1e-5)


def test_token_classification(exported, tmp_path):
    _, model, _ = exported
    labels = ("O", "B-X", "I-X")
    ours, folder = fine_tuned(model, tmp_path, "token_classification", labels)
    words = ["The", "w8", "w9", "w12", "w13", "w14", "w16"]
    [(tags, shares)] = ours.best_tags([Sentence(tuple(words), (), 0, 0)], ours.most, False)
    pipe = transformers.pipeline("token-classification", model=folder, ignore_labels=[])
    assert type(pipe.model).__name__ == "BertForTokenClassification"
    found = pipe(" ".join(words))
    assert [each["word"] for each in found] == words
    assert [each["entity"] for each in found] == [labels[i] for i in tags]
    np.testing.assert_allclose([each["score"] for each in found], shares, atol=1e-5)


def test_multiple_choice(exported, tmp_path):
    _, model, _ = exported
    ours, folder = fine_tuned(model, tmp_path, "multiple_choice", (), width=1)
    choices = ["w9w7", "w12 w13 w14", "w16"]
    [scores] = ours.choose([("The w8s", choices)])
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["The w8s"] * 3, choices, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = theirs(**{name: x[None] for name, x in batch.items()}).logits[0].numpy()
    np.testing.assert_allclose(scores, logits, atol=1e-5)
