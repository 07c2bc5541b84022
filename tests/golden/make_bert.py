"""Makes bert_*.npz: small BERTs with what Hugging Face's PyTorch classes give for a batch, their gradients,
and ten steps of the 2018 release's optimizer and of LAMB, for tests/models/test_golden.py to compare.

    make parity   # once, for its environment
    PYTHONPATH=tests .venv-parity/bin/python tests/golden/make_bert.py

In each file: "config" (JSON); "batch/NAME"; "HEAD/tensors/NAME", the encoder's being those of "pretraining"
if they are not given; "HEAD/outputs/NAME"; "loss" and "gradients/NAME" of pre-training; "KIND/losses" and
"KIND/tensors/NAME" of ten steps, each on two rows of the batch.
"""

import json
from pathlib import Path

import numpy as np
import reference

SIZES = {"vocab_size": 48, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 20, "max_position_embeddings": 20}  # fmt: skip
FILES = {
    "bert_gelu_new": SIZES | {"hidden_act": "gelu_new", "type_vocab_size": 2},
    "bert_gelu_one_type": SIZES | {"hidden_act": "gelu", "type_vocab_size": 1},
}
PEAK, WARMUP, STEPS = 1e-2, 3, 10


def tensors_of(model):
    """Its parameters, tied ones once."""
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def make(fields):
    arrays = {"config": np.array(json.dumps(fields))}
    pretraining = reference.random_bert("pretraining", **fields)
    batch = reference.random_batch(pretraining.config, rows=6, length=16, masked=3)
    arrays |= {f"batch/{name}": x for name, x in batch.items()}
    shared = tensors_of(pretraining)
    for head in reference.CLASSES:
        model = reference.random_bert(head, **fields)
        prefix = "bert." if head == "encoder" else ""
        for name, x in tensors_of(model).items():
            if head == "pretraining" or not np.array_equal(shared.get(prefix + name), x):
                arrays[f"{head}/tensors/{prefix + name}"] = x
        arrays |= {f"{head}/outputs/{k}": x for k, x in reference.outputs(head, model, batch).items()}
    loss, grads = reference.gradients(pretraining, batch)
    arrays["loss"] = np.float32(loss)
    arrays |= {f"gradients/{name}": x for name, x in grads.items()}
    batches = [{name: np.roll(x, -step, axis=0)[:2] for name, x in batch.items()} for step in range(STEPS)]
    for kind in ("bert_adamw", "lamb"):
        model = reference.random_bert("pretraining", **fields)
        arrays[f"{kind}/losses"] = np.float32(reference.train(model, batches, kind, PEAK, WARMUP))
        arrays |= {f"{kind}/tensors/{name}": x for name, x in tensors_of(model).items()}
    return arrays


if __name__ == "__main__":
    for file_name, fields in FILES.items():
        path = Path(__file__).with_name(f"{file_name}.npz")
        np.savez_compressed(path, **make(fields))
        print(f"{path.name}: {path.stat().st_size:,} bytes")
