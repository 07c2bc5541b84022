"""What is trained for curves.json: the fields of each case's config, and nothing else.

A case is (the recipe it starts from, the fields it changes). In a value, {inputs} is the folder that
golden.inputs writes and {runs} the folder of all workdirs: "{runs}/elmo" begins from what the case "elmo"
trained, which is run first. Sizes are those of the models in golden.inputs, and shapes are shared, so that
few programs are compiled.
"""

RUN = {
    "seed": 7,
    "model.dtype": "float32",
    "train.steps": 8,
    "train.seq_length": 32,
    "train.log_every": 1,
    "train.eval_every": 0,
    "optim.learning_rate": 3e-3,
    "optim.warmup_steps": 2,
    "eval.batch_rows": 8,
    "log.tensorboard": False,
}

TOY = {
    "model.vocab_size": 96,
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 128,
    "model.max_position_embeddings": 64,
}

TWO_PHASES = {
    "train.steps": 5,
    "phase2.steps": 4,
    "phase2.batch_rows": 8,
    "phase2.seq_length": 48,
    "phase2.max_predictions_per_seq": 7,
}

ROWS = RUN | {"train.batch_rows": 8, "phase2.steps": 0}

PRETRAIN = ROWS | TOY | {"data.store": "{inputs}/store", "train.max_predictions_per_seq": 5}

TFRECORD = {
    "data.store": "",
    "data.tfrecord": "{inputs}/examples_32.tfrecord,{inputs}/examples_48.tfrecord",
    "data.tfrecord_heldout": "{inputs}/heldout_32.tfrecord,{inputs}/heldout_48.tfrecord",
    "data.vocab": "{inputs}/tfrecord_vocab.txt",
}

GPT = {"model.kind": "gpt", "optim.name": "adamw"}

LANGUAGE_MODEL = ROWS | TOY | GPT | {"task": "language_model", "data.store": "{inputs}/gpt_store"}

PAIRS = {"data.special_tokens": True, "model.type_vocab_size": 2, "model.vocab_size": 99}

ELMO = {"model.kind": "elmo", "optim.name": "adamw"}

ELMO_SIZES = ELMO | {
    "model.vocab_size": 40,
    "model.characters": 9,
    "model.character_size": 4,
    "model.filters": ((1, 8), (2, 8), (3, 16)),
    "model.highway_layers": 1,
    "model.cells": 16,
    "model.layers": 2,
    "model.projection": 16,
    "train.samples": 12,
}

ELMO_HEAD = ELMO | {
    "init_from": "{runs}/elmo",
    "head.lstm_size": 16,
    "head.lstm_layers": 1,
    "head.hidden_size": 16,
    "head.dropout_prob": 0.1,
}

FINE_TUNE = RUN | {
    "init_from": "{inputs}/bert",
    "examples.folder": "{inputs}/examples",
    "train.epochs": 2.0,
    "optim.warmup_proportion": 0.25,
}

# Two examples share a row.
CLASSIFY = FINE_TUNE | {
    "task": "classify",
    "train.batch_examples": 16,
    "examples.train": "train.tsv",
    "examples.dev": ("dev.tsv", "more.tsv"),
    "examples.test": ("test.tsv",),
    "examples.text_a": "one",
}

CHOOSE = FINE_TUNE | {
    "task": "choose",
    "train.batch_examples": 8,
    "train.epochs": 1.0,
    "examples.dev": ("dev.tsv",),
    "examples.text_a": "one",
    "examples.choices": ("two", "three"),
    "examples.label": "choice",
}

TAG = FINE_TUNE | {
    "task": "tag",
    "train.batch_windows": 8,
    "optim.learning_rate": 5e-3,
    "examples.train": "train.conll",
    "examples.dev": ("dev.conll",),
    "examples.test": ("test.conll",),
}

ANSWER = FINE_TUNE | {
    "task": "answer",
    "train.batch_windows": 8,
    "train.epochs": 1.0,
    "optim.learning_rate": 5e-3,
    "examples.train": "train.json",
    "examples.dev": ("dev.json",),
    "examples.max_query_length": 6,
    "examples.doc_stride": 12,
}

UNANSWERABLE = {
    "examples.train": "train_v2.json",
    "examples.dev": ("dev_v2.json",),
    "examples.unanswerable": True,
    "examples.padding_logits": False,
    "examples.null_threshold": 100.0,
}

NUMBER = {"examples.label": "number", "examples.number": True, "examples.metric": "correlations"}

ONE_BY_ONE = {"train.batch_examples": 8, "train.epochs": 1.0}

GPT_FINE_TUNE = GPT | ONE_BY_ONE | {"init_from": "{inputs}/gpt", "head.lm_weight": 0.5}

BILSTM = {"head.lstm_layers": 2, "head.lstm_size": 16}

CASES = {
    "pretrain": (PRETRAIN, TWO_PHASES),
    "pretrain_packed": (
        PRETRAIN,
        TWO_PHASES
        | {
            "data.pack": 2,
            "data.masking": "dynamic",
            "data.whole_word_mask": True,
            "train.accumulation": 2,
            "phase2.accumulation": 2,
            "phase2.restart_schedule": True,
            "phase2.seq_length": 32,
            "phase2.learning_rate": 1e-3,
            "phase2.warmup_steps": 2,
            "optim.name": "adamw",
        },
    ),
    "pretrain_causal": (
        PRETRAIN,
        {
            "model.causal": True,
            "data.masking": "next_token",
            "data.next_sentence": False,
            "optim.decay": "cosine",
        },
    ),
    "pretrain_lamb": (
        PRETRAIN,
        {
            "model.dtype": "bfloat16",
            "model.scan_layers": False,
            "train.remat": "full",
            "optim.name": "lamb",
            "optim.learning_rate": 1e-2,
        },
    ),
    "pretrain_tfrecord": (PRETRAIN, TWO_PHASES | TFRECORD),
    "language_model": (LANGUAGE_MODEL, {"data.pack": 2, "optim.decay": "cosine"}),
    "language_model_pairs": (LANGUAGE_MODEL, PAIRS),
    "elmo": (
        ROWS | ELMO_SIZES,
        {
            "task": "bidirectional_lm",
            "data.store": "{inputs}/words",
            "data.pack": 3,
            "optim.learning_rate": 3e-2,
        },
    ),
    "classify_single": (CLASSIFY, {"head.layers": "sum_all", "train.accumulation": 2}),
    "classify_pair": (
        CLASSIFY,
        {
            "examples.text_b": "two",
            "train.reinit_layers": 1,
            "optim.layer_decay": 0.9,
            "optim.learning_rate": 5e-3,
        },
    ),
    "classify_number": (CLASSIFY, NUMBER | {"examples.text_b": "two", "optim.name": "adamw"}),
    "classify_causal": (CLASSIFY, {"init_from": "{runs}/pretrain_causal"}),
    "classify_gpt": (CLASSIFY, GPT_FINE_TUNE),
    "classify_gpt_both_orders": (
        CLASSIFY,
        GPT_FINE_TUNE | {"examples.text_b": "two", "examples.both_orders": True},
    ),
    "choose": (CHOOSE, {}),
    "choose_gpt": (CHOOSE, GPT_FINE_TUNE),
    "tag": (TAG, {}),
    "tag_frozen": (
        TAG,
        BILSTM
        | {
            "init_from": "{inputs}/bert_of_four_layers",
            "head.layers": "concat_last_four",
            "train.freeze_encoder": True,
            "train.epochs": 8.0,
            "examples.document_context": True,
        },
    ),
    "answer": (ANSWER, {}),
    "answer_unanswerable": (ANSWER, UNANSWERABLE),
    "elmo_tag": (
        TAG | ELMO_HEAD,
        {
            "train.freeze_encoder": True,
            "head.mix_norm": True,
            "optim.learning_rate": 2e-2,
        },
    ),
    "elmo_classify_single": (
        CLASSIFY | ELMO_HEAD,
        ONE_BY_ONE | {"optim.learning_rate": 2e-2},
    ),
    "elmo_classify_pair": (
        CLASSIFY | ELMO_HEAD,
        ONE_BY_ONE
        | {
            "train.freeze_encoder": True,
            "optim.learning_rate": 2e-2,
            "examples.text_b": "two",
        },
    ),
}
