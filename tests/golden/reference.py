"""What the goldens and the parity tests compare with: Hugging Face's PyTorch BERT with random weights, and a
transcription of the 2018 release's optimizer and schedule (optimization.py), and of LAMB, in NumPy.
"""

import math

import numpy as np
import torch
import transformers
from head_outputs import CHOICES, of_tokens

CLASSES = {
    "encoder": transformers.BertModel,
    "pretraining": transformers.BertForPreTraining,
    "masked_lm": transformers.BertForMaskedLM,
    "next_sentence": transformers.BertForNextSentencePrediction,
    "sequence_classification": transformers.BertForSequenceClassification,
    "token_classification": transformers.BertForTokenClassification,
    "question_answering": transformers.BertForQuestionAnswering,
    "multiple_choice": transformers.BertForMultipleChoice,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def random_bert(head, seed=0, **fields):
    """A model of Hugging Face's class, in evaluation mode; no bias is 0 and no scale is 1.

    The weights keep the size of what they multiply, and the biases are small. With larger ones all positions
    of a deep model come out nearly alike, and the gradients of its attention are nothing but rounding, in
    PyTorch as here.
    """
    config = transformers.BertConfig(num_labels=fields.pop("num_labels", 2), **fields)
    model = CLASSES[head](config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.01 if p.ndim == 1 else 0.6 / config.hidden_size**0.5
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if name.endswith("LayerNorm.weight"):
                p += 1
    return model


def random_batch(config, rows, length, masked=0, seed=0):
    """A bertjax batch of rows of all lengths: a dict of NumPy arrays. `config` is a BertConfig."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(len(SPECIAL), config.vocab_size, (rows, length), dtype=np.int32)
    lengths = np.linspace(max(4, masked + 2), length, rows).astype(int)
    seconds = rng.integers(2, lengths)
    position = np.arange(length, dtype=np.int32)
    real = position < lengths[:, None]
    batch = {
        "input_ids": np.where(real, ids, 0),
        "token_type_ids": (real & (position >= seconds[:, None])) * np.int32(config.type_vocab_size > 1),
        "position_ids": np.broadcast_to(position, ids.shape).copy(),
        "segment_ids": real.astype(np.int32),
    }
    if masked:
        places = np.stack([rng.choice(np.arange(1, n), masked, replace=False) for n in lengths])
        batch |= {
            "masked_lm_positions": places.astype(np.int32),
            "masked_lm_ids": rng.integers(len(SPECIAL), config.vocab_size, places.shape, dtype=np.int32),
            "masked_lm_weights": np.ones(places.shape, np.float32),
            "next_sentence_positions": np.zeros((rows, 1), np.int32),
            "next_sentence_labels": rng.integers(2, size=(rows, 1), dtype=np.int32),
            "next_sentence_weights": np.ones((rows, 1), np.float32),
        }
    return batch


def inputs(batch):
    """The batch as keyword arguments of a PyTorch model."""
    return {
        "input_ids": torch.tensor(batch["input_ids"], dtype=torch.long),
        "token_type_ids": torch.tensor(batch["token_type_ids"], dtype=torch.long),
        "attention_mask": torch.tensor(batch["segment_ids"], dtype=torch.long),
    }


def outputs(head, model, batch):
    """What a model of CLASSES gives for a batch, as NumPy arrays by name."""
    given = inputs(batch)
    if head == "multiple_choice":
        given = {name: x.reshape(-1, CHOICES, x.shape[-1]) for name, x in given.items()}
    with torch.no_grad():
        out = model(**given, output_hidden_states=head == "encoder")
    if head == "encoder":
        found = {"hidden_states": torch.stack(out.hidden_states), "pooled": out.pooler_output}
    elif head == "pretraining":
        found = {"masked_lm": out.prediction_logits, "next_sentence": out.seq_relationship_logits}
    elif head == "question_answering":
        found = {"logits": torch.stack([out.start_logits, out.end_logits], -1)}
    else:
        found = {"logits": out.logits}
    return of_tokens(head, {name: x.numpy() for name, x in found.items()}, batch)


def pretraining_loss(model, batch):
    """run_pretraining.py's loss of BertForPreTraining, a PyTorch scalar."""
    out = model(**inputs(batch))
    places = torch.tensor(batch["masked_lm_positions"], dtype=torch.long)
    rows = torch.arange(len(places))[:, None]
    ids = torch.tensor(batch["masked_lm_ids"], dtype=torch.long)
    weights = torch.tensor(batch["masked_lm_weights"])
    nll = -torch.log_softmax(out.prediction_logits[rows, places], -1).gather(-1, ids[..., None])[..., 0]
    labels = torch.tensor(batch["next_sentence_labels"][:, 0], dtype=torch.long)
    nsp = torch.nn.functional.cross_entropy(out.seq_relationship_logits, labels)
    return (nll * weights).sum() / (weights.sum() + 1e-5) + nsp


def gradients(model, batch):
    """(loss, {name: gradient}) of the pre-training loss; tied parameters once."""
    model.zero_grad()
    loss = pretraining_loss(model, batch)
    loss.backward()
    return loss.item(), {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def learning_rate(step, steps, peak, warmup):
    """optimization.py: the warm-up from 0; then polynomial decay, which the warm-up does not move."""
    if step < warmup:
        return peak * step / warmup
    return peak * (1 - min(step, steps) / steps)


class Optimizer:
    """AdamWeightDecayOptimizer of the 2018 release after clip_by_global_norm(1.0), or LAMB (You et al. 2020,
    algorithm 2, with bias correction), in float64 over a dict of arrays."""

    def __init__(self, kind, params, beta1=0.9, beta2=0.999, eps=1e-6, decay=0.01, clip=1.0):
        self.kind, self.settings, self.count = kind, (beta1, beta2, eps, decay, clip), 0
        self.m = {name: np.zeros(x.shape) for name, x in params.items()}
        self.v = {name: np.zeros(x.shape) for name, x in params.items()}

    def step(self, params, grads, rate):
        """New parameters."""
        beta1, beta2, eps, decay, clip = self.settings
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grads.values()))
        self.count += 1
        result = {}
        for name, p in params.items():
            g = grads[name].astype(np.float64) * (clip / max(norm, clip))
            m = self.m[name] = beta1 * self.m[name] + (1 - beta1) * g
            v = self.v[name] = beta2 * self.v[name] + (1 - beta2) * g * g
            if self.kind == "lamb":
                m, v = m / (1 - beta1**self.count), v / (1 - beta2**self.count)
            update = m / (np.sqrt(v) + eps)
            if not ("LayerNorm" in name or name.endswith("bias")):
                update = update + decay * p
                if self.kind == "lamb":
                    update = update * np.linalg.norm(p) / np.linalg.norm(update)
            result[name] = p - rate * update
        return result


def train(model, batches, kind, peak, warmup):
    """The losses while BertForPreTraining learns from the batches, without dropout; changes the model."""
    params = {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}
    optimizer = Optimizer(kind, params)
    losses = []
    for step, batch in enumerate(batches):
        loss, grads = gradients(model, batch)
        losses.append(loss)
        params = optimizer.step(params, grads, learning_rate(step, len(batches), peak, warmup))
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.tensor(params[name]))
    return losses
