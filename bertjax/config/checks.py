"""What the fields of a config must be, each by itself and together."""

import math

from ml_collections import ConfigDict

from bertjax import optimizer_names
from bertjax.config import trained_kind
from bertjax.errors import InputError
from bertjax.models.interface import DTYPES, check_choice
from bertjax.models.transformer import REMAT
from bertjax.optim import DECAYS
from bertjax.sections import batch_field, batch_size, fields, phases
from bertjax.tasks import task_of

# What is asked of numbers, by field; those that end in _prob are shares. Those that a config lacks do not
# matter.
_SHARES = ("optim.beta1", "optim.beta2", "optim.warmup_proportion")
_POSITIVE = (
    "model.vocab_size", "model.hidden_size", "model.num_hidden_layers", "model.num_attention_heads",
    "model.intermediate_size", "model.max_position_embeddings", "model.initializer_range",
    "model.layer_norm_eps", "model.character_size", "model.cells", "model.projection", "model.layers",
    "data.dupe_factor", "data.pack",
    "train.batch_rows", "train.batch_examples", "train.batch_windows", "train.max_predictions_per_seq",
    "train.accumulation", "train.log_every", "train.save_every", "train.keep_last", "train.max_bad_steps",
    "train.samples", "train.seq_length",
    "phase2.batch_rows", "phase2.max_predictions_per_seq", "phase2.learning_rate", "phase2.accumulation",
    "optim.learning_rate", "optim.eps", "eval.batch_rows",
    "examples.max_query_length", "examples.doc_stride", "examples.max_answer_length", "examples.n_best_size",
    "head.lstm_size", "head.hidden_size",
)  # fmt: skip
_NOT_NEGATIVE = (
    "model.type_vocab_size", "model.highway_layers", "model.clip",
    "train.steps", "train.epochs", "train.eval_every", "train.keep_every", "train.reinit_layers",
    "phase2.steps", "phase2.warmup_steps", "optim.warmup_steps", "optim.weight_decay", "optim.clip_norm",
    "eval.max_rows", "head.lstm_layers", "head.lm_weight",
)  # fmt: skip
_NUMBERS = ("data.mask_split", "data.weights", "examples.positive_weights")  # tuples of them


def check_numbers(config: ConfigDict, prefix: str = "") -> None:
    """Raises InputError if a number, by itself, is out of range."""
    for field, value in fields(config, prefix):
        rule = ""
        if isinstance(value, float) and not math.isfinite(value):
            rule = "must be a finite number"
        elif field in _NUMBERS and not all(type(x) in (int, float) and abs(x) < math.inf for x in value):
            rule = "must hold finite numbers only"
        elif (field in _SHARES or field.endswith("_prob")) and not 0 <= value < 1:
            rule = "must be at least 0 and below 1"
        elif field in _POSITIVE and not value > 0:
            rule = "must be positive"
        elif field in _NOT_NEGATIVE and not value >= 0:
            rule = "must not be negative"
        if rule:
            raise InputError(f"--config.{field}={value}: {rule}")


def check(config: ConfigDict) -> None:
    """Raises InputError if fields contradict each other or are out of range. Needs no device and no file."""

    def require(ok: bool, field: str, rule: str) -> None:
        if not ok:
            value = dict(fields(config))[field]
            raise InputError(f"--config.{field}={value}: {rule}")

    task = task_of(config.task)
    kind = trained_kind(task, config.model.kind)
    # jax.random.key takes 32 bits of a number and drops the others; dropout's is seed + 1.
    require(0 <= config.seed < 2**32 - 1, "seed", f"must be from 0 to {2**32 - 2}")
    check_numbers(config)
    check_choice("model.dtype", config.model.dtype, DTYPES)
    optimizer_names.check(config.optim)
    check_choice("optim.decay", config.optim.decay, DECAYS)
    if "layer_decay" in config.optim:
        require(0 < config.optim.layer_decay <= 1, "optim.layer_decay", "must be above 0 and at most 1")
    if not task.fine_tunes:
        kind.check(config.model)
    for name in phases(config):
        phase = config[name]
        if "remat" in phase:
            check_choice(f"{name}.remat", phase.remat, tuple(REMAT))
        require(batch_size(phase) % phase.accumulation == 0, f"{name}.{batch_field(phase)}",
                f"must be a multiple of {name}.accumulation={phase.accumulation}")  # fmt: skip
    task.check(config, require)
    rest = 0  # axes that take the devices that are left
    for axis, size in config.mesh.items():
        rest += size == -1
        require(size > 0 or (size == -1 and rest == 1), f"mesh.{axis}",
                "mesh axes must be positive; one may be -1")  # fmt: skip
