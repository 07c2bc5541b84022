"""For the tests of questions to models: what is asked, and what a model says of one text alone."""

import io

import numpy as np


def give_stdin(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def states(model, a, b=None):
    """Hidden states [1 + L, tokens, D] of one text or two, computed alone."""
    tokenizer = model.tokenizer
    parts = tokenizer.encode_batch([a] if b is None else [a, b])
    ids, types = [tokenizer.cls_id], [0]
    for number, part in enumerate(parts):
        ids += [*part, tokenizer.sep_id]
        types += [number] * (len(ids) - len(types))
    row = {"input_ids": ids, "token_type_ids": types, "position_ids": range(len(ids)),
           "segment_ids": [1] * len(ids)}  # fmt: skip
    batch = {name: np.array([values], np.int32) for name, values in row.items()}
    return np.asarray(model.module().encoder(batch, every_layer=True))[:, 0]
