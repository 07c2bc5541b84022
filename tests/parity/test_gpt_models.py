"""bertjax's GPT against Hugging Face's PyTorch OpenAI GPT: outputs, the way there and back, the tokenizer."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; make parity installs it")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed; make parity installs it"
)

from safetensors.numpy import load_file  # noqa: E402

import bertjax  # noqa: E402
from bertjax.convert.export import export  # noqa: E402
from bertjax.data.tokenizers import gpt_bpe  # noqa: E402
from bertjax.data.tokenizers.tokenizer import gpt_tokenizer  # noqa: E402
from bertjax.trained_model import save_trained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend

# layers, hidden, heads, vocabulary, activation
SHAPES = {
    "tiny": (2, 128, 2, 1000, "gelu"),
    "three heads": (3, 96, 3, 501, "relu"),
    "mini": (4, 256, 4, 2000, "gelu"),
}
CLASSES = {
    "OpenAIGPTModel": "causal_lm",
    "OpenAIGPTLMHeadModel": "causal_lm",
    "OpenAIGPTDoubleHeadsModel": "multiple_choice",
    "OpenAIGPTForSequenceClassification": "sequence_classification",
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["The cab, a Café; it'd 中x!", "", "x\u200by\ufffd ÉLAN zzz\u00a0the"]


def make_tokenizer(size):
    """A vocabulary of `size` tokens."""
    characters = [*LETTERS, *".,!?';"]
    given = [gpt_bpe.UNKNOWN, *characters, *(c + gpt_bpe.WORD_END for c in characters)]
    pairs = [("t", "h"), ("th", "e</w>"), *((a, b) for a in LETTERS for b in LETTERS if a + b != "th")]
    merges = pairs[: size - len(given)]
    more = [f"{i}" for i in range(size - len(given) - len(merges))]
    return gpt_tokenizer([*given, *("".join(pair) for pair in merges), *more], merges, "made")


def random_model(name, shape, folder):
    """A model of Hugging Face's class, saved with a vocabulary of its size; no bias is 0, no scale is 1."""
    layers, hidden, heads, vocab, act = SHAPES[shape]
    more = {"num_labels": 5, "pad_token_id": 0} if name.endswith("Classification") else {}
    config = transformers.OpenAIGPTConfig(
        vocab_size=vocab, n_embd=hidden, n_layer=layers, n_head=heads, n_positions=64, afn=act, **more
    )
    model = getattr(transformers, name)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.01 if p.ndim == 1 else 0.6 / hidden**0.5))
            if ".ln_" in key and key.endswith("weight"):
                p += 1
    model.save_pretrained(folder)
    make_tokenizer(vocab).save(folder)
    return model


def make_batch(vocab, rows=5, length=40):
    rng = np.random.default_rng(0)
    lengths = np.linspace(4, length, rows).astype(int)
    position = np.broadcast_to(np.arange(length), (rows, length))
    real = position < lengths[:, None]
    ids = np.where(real, rng.integers(1, vocab, (rows, length)), 0)
    batch = {"input_ids": ids, "position_ids": position, "segment_ids": real}
    return {name: x.astype(np.int32) for name, x in batch.items()}, lengths


def of_theirs(name, model, batch, lengths):
    given = {
        "input_ids": torch.tensor(batch["input_ids"], dtype=torch.long),
        "attention_mask": torch.tensor(batch["segment_ids"], dtype=torch.long),
    }
    if name == "OpenAIGPTDoubleHeadsModel":
        given["mc_token_ids"] = torch.tensor(lengths - 1, dtype=torch.long)
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
    found = {"hidden_states": torch.stack(out.hidden_states)}
    if name != "OpenAIGPTModel":
        found["logits"] = out.logits
    if name == "OpenAIGPTDoubleHeadsModel":
        found["choices"] = out.mc_logits
    return {key: x.numpy() for key, x in found.items()}


def of_ours(name, model, batch, lengths):
    def forward(params):
        module = model.module(params)
        found = {"hidden_states": module.encoder(batch, every_layer=True)}
        last_BND = module.encoder(batch, positions_BM=lengths[:, None] - 1)
        if name.endswith("Classification"):
            return found | {"logits": module.class_logits(last_BND)[:, 0]}
        if name != "OpenAIGPTModel":
            logits = module.language_model(found["hidden_states"][-1])
            found["logits"] = logits[..., : module.vocab_size]
        if name == "OpenAIGPTDoubleHeadsModel":
            found["choices"] = module.class_logits(last_BND)[:, 0, 0]
        return found

    return jax.jit(forward)(model.params)


def assert_alike(found, wanted, batch, atol=2e-5):
    assert found.keys() == wanted.keys()
    real = batch["segment_ids"] > 0
    for name, x in found.items():
        x, y = (np.asarray(each).squeeze() for each in (x, wanted[name]))
        if x.ndim > 2:
            x, y = x[..., real, :], y[..., real, :]
        print(f"{name}: within {np.abs(x - y).max():.1e}")
        np.testing.assert_allclose(x, y, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CLASSES)
def test_outputs_and_the_way_back(name, shape, tmp_path):
    theirs = random_model(name, shape, tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    assert (ours.head, ours.config.kind, ours.left_out) == (CLASSES[name], "gpt", ())
    batch, lengths = make_batch(theirs.config.vocab_size)
    wanted = of_theirs(name, theirs, batch, lengths)
    assert_alike(of_ours(name, ours, batch, lengths), wanted, batch)

    # Through a checkpoint of ours, and into Hugging Face's class again.
    save_trained(ours, str(tmp_path / "run"))
    export(bertjax.load(tmp_path / "run"), str(tmp_path / "back"))
    tensors, back = (load_file(tmp_path / part / "model.safetensors") for part in ("theirs", "back"))
    if name == "OpenAIGPTModel":
        tensors = {f"transformer.{key}": x for key, x in tensors.items()}
    if "lm_head.weight" in tensors:  # of the tied two it is this one that the double heads write
        tensors["transformer.tokens_embed.weight"] = tensors.pop("lm_head.weight")
    assert back.keys() == tensors.keys()
    for key, x in back.items():
        np.testing.assert_array_equal(x, tensors[key], err_msg=key)
    again, report = getattr(transformers, name).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert {key: list(found) for key, found in report.items() if found} == {}
    assert_alike(of_theirs(name, again.eval(), batch, lengths), wanted, batch, atol=1e-6)


def test_the_tokenizer(tmp_path):
    random_model("OpenAIGPTLMHeadModel", "tiny", tmp_path / "theirs")
    ours = bertjax.load(tmp_path / "theirs")
    export(ours, str(tmp_path / "back"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert type(theirs).__name__ == "OpenAIGPTTokenizer"
    for text, ids in zip(TEXTS, ours.tokenizer.encode_batch(TEXTS), strict=True):
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.tokenizer.decode(ids)

    # What transformers writes is tokenizer.json alone.
    theirs.save_pretrained(tmp_path / "saved")
    for file in ("model.safetensors", "config.json"):
        (tmp_path / "theirs" / file).rename(tmp_path / "saved" / file)
    again = bertjax.load(tmp_path / "saved")
    assert again.tokenizer.sha256 == ours.tokenizer.sha256
