"""What the fields of a config must be, alone and together."""

import importlib.util
import math
from collections.abc import Callable

from ml_collections import ConfigDict

from bertjax.config import (
    DECAYS,
    ELMO_TASKS,
    GPT_TASKS,
    HEAD_LAYERS,
    HIDDEN_ACTS,
    KINDS,
    MASKING,
    PRE_TRAINING_TASKS,
    REMAT,
    default,
    fields,
    optimizers,
    sections,
)
from bertjax.errors import InputError, quoted

# What `check` asks of numbers, by field; those that end in _prob are shares.
_SHARES = ("optim.beta1", "optim.beta2", "optim.warmup_proportion")
_POSITIVE = (
    "model.vocab_size", "model.hidden_size", "model.num_hidden_layers", "model.num_attention_heads",
    "model.intermediate_size", "model.max_position_embeddings", "model.type_vocab_size",
    "model.initializer_range", "model.layer_norm_eps", "data.dupe_factor", "data.pack",
    "train.steps", "train.batch_size", "train.max_predictions_per_seq", "train.accumulation",
    "train.log_every", "train.save_every", "train.keep_last", "train.max_bad_steps",
    "phase2.batch_size", "phase2.max_predictions_per_seq", "phase2.learning_rate",
    "optim.learning_rate", "optim.eps", "eval.batch_size", "examples.max_query_length",
    "examples.doc_stride", "examples.max_answer_length", "examples.n_best_size", "elmo.vocab_size",
    "elmo.character_size", "elmo.cells", "elmo.projection", "elmo.layers", "elmo.samples",
    "elmo.head_cells", "elmo.head_layers", "elmo.head_hidden", "head.lstm_size",
)  # fmt: skip
_NOT_NEGATIVE = (
    "train.epochs", "train.eval_every", "train.keep_every", "train.lm_weight", "train.reinit_layers",
    "phase2.steps", "phase2.warmup_steps", "optim.warmup_steps", "optim.weight_decay", "optim.clip_norm",
    "eval.examples", "elmo.highway_layers", "elmo.clip", "head.lstm_layers",
)  # fmt: skip


def check_model(model: ConfigDict) -> None:
    """Raises InputError if a field of config.model is out of range or contradicts another one."""
    _check_fields(model, "model.")
    for field, known in (
        ("kind", KINDS),
        ("dtype", ("float32", "bfloat16")),
        ("hidden_act", HIDDEN_ACTS),
        ("remat", REMAT),
    ):
        if model[field] not in known:
            raise InputError(
                f"--config.model.{field}={quoted(model[field])}: must be one of {', '.join(known)}"
            )
    if model.hidden_size % model.num_attention_heads:
        raise InputError(f"--config.model.num_attention_heads={model.num_attention_heads}: "
                         f"must divide model.hidden_size={model.hidden_size}")  # fmt: skip


def _check_fields(config: ConfigDict, prefix: str = "") -> None:
    """Each number by itself."""
    for field, value in fields(config, prefix):
        rule = ""
        if isinstance(value, float) and not math.isfinite(value):
            rule = "must be a finite number"
        elif (field in _SHARES or field.endswith("_prob")) and not 0 <= value < 1:
            rule = "must be at least 0 and below 1"
        elif field in _POSITIVE and not value > 0:
            rule = "must be positive"
        elif field in _NOT_NEGATIVE and not value >= 0:
            rule = "must not be negative"
        if rule:
            raise InputError(f"--config.{field}={value}: {rule}")


Require = Callable[[bool, str, str], None]  # whether it is so, the field that is wrong if not, the rule


def check(config: ConfigDict) -> None:
    """Raises InputError if fields contradict each other or are out of range. Needs no device and no file."""

    def require(ok: bool, field: str, rule: str) -> None:
        if not ok:
            value = dict(fields(config))[field]
            raise InputError(f"--config.{field}={value}: {rule}")

    task = config.task.isidentifier() and importlib.util.find_spec(f"bertjax.tasks.{config.task}")
    require(bool(task), "task", "no such task; a task is a module of bertjax.tasks")
    # jax.random.key takes 32 bits of a number and drops the others; dropout's is seed + 1.
    require(0 <= config.seed < 2**32 - 1, "seed", f"must be from 0 to {2**32 - 2}")
    for field in ("data.mask_split", "data.weights"):
        numbers = dict(fields(config))[field]
        require(all(type(x) in (int, float) and abs(x) < math.inf for x in numbers), field,
                "must hold finite numbers only")  # fmt: skip
    _check_fields(config)
    check_model(config.model)
    for field, known in (("data.masking", MASKING), ("optim.decay", DECAYS),
                         ("head.layers", tuple(HEAD_LAYERS))):  # fmt: skip
        require(dict(fields(config))[field] in known, field, f"must be one of {', '.join(known)}")
    optimizers.check(config.optim)
    _check_kind(config, require)
    _check_gpt(config, require)
    _check_head(config, require)
    _check_data(config, require)
    _check_training(config, require)
    _check_elmo(config, require)
    rest = 0  # axes that take the devices that are left
    for axis, size in config.mesh.items():
        rest += size == -1
        require(size > 0 or (size == -1 and rest == 1), f"mesh.{axis}",
                "mesh axes must be positive; one may be -1")  # fmt: skip


def _check_kind(config: ConfigDict, require: Require) -> None:
    """That the task trains a model of this kind, by what it can change in it."""
    kind = config.model.kind
    if config.task not in ELMO_TASKS:
        require(kind != "elmo", "model.kind", f"the task {config.task} trains no ELMo; there are "
                f"{', '.join(ELMO_TASKS)}")  # fmt: skip
        return
    require(kind == "elmo", "model.kind", f"the task {config.task} trains an ELMo; set it to elmo")
    require(config.optim.layer_decay == 1, "optim.layer_decay", "ELMo's layers have one rate; set it to 1")
    require(not config.train.reinit_layers, "train.reinit_layers",
            "no layer of an ELMo is drawn anew; set it to 0")  # fmt: skip


def _check_gpt(config: ConfigDict, require: Require) -> None:
    """That a GPT, and what only a GPT has, is asked for where there is one."""
    gpt, types = config.model.kind == "gpt", config.model.type_vocab_size
    pre_trains = config.task == "language_model"
    require(not gpt or config.task in GPT_TASKS, "model.kind",
            f"the task {config.task} trains a BERT; a GPT's are {', '.join(GPT_TASKS)}")  # fmt: skip
    require(gpt or not pre_trains, "task", "trains a GPT; set model.kind=gpt")
    require(not pre_trains or types == 1 + config.data.special_tokens, "model.type_vocab_size",
            f"must be {1 + config.data.special_tokens} with data.special_tokens="
            f"{config.data.special_tokens}")  # fmt: skip
    require(pre_trains or not config.data.special_tokens, "data.special_tokens",
            "is of the task language_model; leave it out")  # fmt: skip
    fine_tunes = gpt and not pre_trains
    for field, asked in (("train.lm_weight", config.train.lm_weight),
                         ("examples.both_orders", config.examples.both_orders)):  # fmt: skip
        require(fine_tunes or not asked, field, "is of a GPT's fine-tuning; leave it out")
    require(not (config.train.lm_weight and config.train.freeze_encoder), "train.lm_weight",
            "has nothing to change in a frozen encoder; set it to 0.0")  # fmt: skip
    require(not config.examples.both_orders or (config.task == "classify" and bool(config.examples.text_b)),
            "examples.both_orders", "is of pairs in the task classify; name examples.text_b")  # fmt: skip


def _check_head(config: ConfigDict, require: Require) -> None:
    """That what a head stands on is asked for where there is such a head."""
    head, plain, layers = config.head, default().head, config.model.num_hidden_layers
    of_bert = config.model.kind == "bert" and config.task != "pretrain"
    for name in ("layers", "lstm_layers"):
        require(of_bert or head[name] == plain[name], f"head.{name}",
                f"is of a BERT's fine-tuning; set it to {plain[name]}")  # fmt: skip
    require(HEAD_LAYERS[head.layers] <= layers, "head.layers",
            f"the model has {layers} layers, which are too few")  # fmt: skip


def _check_data(config: ConfigDict, require: Require) -> None:
    d, causal = config.data, config.model.causal
    require(len(d.mask_split) == 3 and min(d.mask_split) >= 0 and abs(sum(d.mask_split) - 1) < 1e-6,
            "data.mask_split", "must be three shares (mask, random, unchanged) that add up to 1")  # fmt: skip
    require(
        d.pack == 1 or not d.tfrecord, "data.pack", "examples of data.tfrecord are not packed; set it to 1"
    )
    require(not (d.tfrecord and config.train.epochs), "train.epochs",
            "with data.tfrecord set it to 0.0, and train.steps")  # fmt: skip
    require(d.masking != "next_token" or causal, "data.masking",
            "a token that is predicted must not be seen; set model.causal=True")  # fmt: skip
    require(not (causal and d.next_sentence and config.task == "pretrain"), "data.next_sentence",
            "[CLS] sees nothing of a causal model; set it to False")  # fmt: skip


def _check_training(config: ConfigDict, require: Require) -> None:
    t, decay = config.train, config.optim.layer_decay
    most, limit = config.model.max_position_embeddings, "model.max_position_embeddings="
    if config.model.kind == "elmo":  # it has no positions; sentences.Sentences keeps lengths as uint16
        most, limit = 2**16 - 1, ""
    require(not config.phase2.steps or config.task in PRE_TRAINING_TASKS, "phase2.steps",
            f"the task {config.task} has one phase; set it to 0")  # fmt: skip
    require(not t.freeze_encoder or (decay == 1 and not t.reinit_layers), "train.freeze_encoder",
            "nothing of the encoder changes; set neither optim.layer_decay nor "
            "train.reinit_layers")  # fmt: skip
    require(0 < decay <= 1, "optim.layer_decay", "must be above 0 and at most 1")
    for name in sections(config):
        phase = config[name]
        require(phase.batch_size % t.accumulation == 0, f"{name}.batch_size",
                f"must be a multiple of train.accumulation={t.accumulation}")  # fmt: skip
        require(8 <= phase.seq_length <= most, f"{name}.seq_length",
                f"must be from 8 to {limit}{most}")  # fmt: skip


def _check_elmo(config: ConfigDict, require: Require) -> None:
    e = config.elmo
    pairs = all(
        isinstance(each, tuple) and len(each) == 2 and all(type(n) is int and n > 0 for n in each)
        for each in e.filters
    )
    require(bool(e.filters) and pairs and len({width for width, _ in e.filters}) == len(e.filters),
            "elmo.filters", "must be (width, count) pairs of positive integers, each width once")  # fmt: skip
    widest = max(width for width, _ in e.filters)
    require(e.characters >= max(widest, 3), "elmo.characters",
            f"must be at least 3 and the widest of elmo.filters={widest}")  # fmt: skip
    require(e.samples <= e.vocab_size - 2, "elmo.samples",
            f"must be below elmo.vocab_size={e.vocab_size} by 2 or more")  # fmt: skip
