"""The sections of a config that several tasks read, with their defaults, which are written only here.

A task and a kind of model compose a run's config of sections (bertjax.tasks.interface.Task.config), so that
it has no field that the run does not read. A phase is a section with a batch: "train", and "phase2" where it
has steps.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from bertjax.models.interface import ModelKind

_BATCH = "batch_"  # how a phase's field of its batch begins: batch_rows, batch_examples, batch_windows


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.steps", value) for every field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def phases(config: ConfigDict) -> list[str]:
    """The names of the sections that are phases of the run."""
    return ["train", *(["phase2"] if "phase2" in config and config.phase2.steps else [])]


def total_steps(config: ConfigDict) -> int:
    """Of all phases."""
    return sum(int(config[name].steps) for name in phases(config))


def batch_field(phase: ConfigDict) -> str:
    """The name of the phase's field that says how large a step's batch is."""
    return str(next(name for name in phase if name.startswith(_BATCH)))


def batch_size(phase: ConfigDict) -> int:
    """Rows, examples or windows of a step, as its field says, over all devices."""
    return int(phase[batch_field(phase)])


def run(task: str, kind: ModelKind) -> ConfigDict:
    """The fields that belong to no section."""
    c = ConfigDict()
    c.task = task  # of bertjax.tasks.TASKS, or "module:NAME" of one's own
    c.workdir = ""  # where checkpoints, metrics and events go; the same folder again continues the run
    c.init_from = ""  # a model to take parameters from, at step 0 only; see docs/models.md
    c.seed = 0  # initial parameters, data order, masks and dropout all follow from it
    return c


def _phase(kind: ModelKind) -> ConfigDict:
    """How each phase is computed."""
    c = ConfigDict()
    c.accumulation = 1  # a step's rows are computed in this many parts, one update for all
    if kind.recomputes:
        # What the backward pass computes again instead of keeping it: "none"; "attention", its scores and
        # probabilities; "dots", all but the products with parameters; "full", all but each layer's input.
        c.remat = "none"
    return c


def pretraining(kind: ModelKind) -> ConfigDict:
    """config.train of pre-training from text."""
    c = _phase(kind)
    c.steps = 900_000
    c.epochs = 0.0  # passes over the text, which then give the steps
    c.batch_rows = 256  # of a step, over all devices
    c.seq_length = 128
    c.log_every = 100
    c.eval_every = 10_000  # also after the last step; 0: only then
    c.save_every = 5_000  # also after the last step
    c.keep_last = 3  # checkpoints
    c.keep_every = 100_000  # steps; checkpoints at its multiples stay for good; 0: none
    c.max_bad_steps = 20  # stop after so many non-finite updates in a row
    return c


def second_phase(kind: ModelKind) -> ConfigDict:
    """config.phase2: the last part of the same job, at another length."""
    c = _phase(kind)
    c.steps = 0  # 0: there is none
    c.batch_rows = 256
    c.seq_length = 512
    c.restart_schedule = False  # True: warm-up and decay begin again, with the two fields below
    c.learning_rate = 1e-4
    c.warmup_steps = 10_000
    return c


def finetuning(kind: ModelKind, unit: str = "examples") -> ConfigDict:
    """config.train of fine-tuning, by the paper's recipe (Devlin et al. 2018, section 4.1).

    Args:
      unit: what batches are made of.
    """
    c = _phase(kind)
    c.epochs = 3.0  # passes over the training examples, which give the steps
    c.steps = 0  # instead, where train.epochs is 0
    c[f"{_BATCH}{unit}"] = 32  # of a step, over all devices
    c.seq_length = 128
    c.log_every = 50
    c.eval_every = 0  # also after the last step; 0: only then
    c.save_every = 500
    c.keep_last = 1
    c.keep_every = 0
    c.max_bad_steps = 20
    c.from_scratch = False  # True: take only sizes and tokenizer of init_from, and draw all parameters
    c.freeze_encoder = False  # True: only what reads the encoder is trained, on states without dropout
    if kind.stacked_layers:
        c.reinit_layers = 0  # top layers of init_from that are drawn again, the pooler with them; 0: neither
    return c


def optim(kind: ModelKind) -> ConfigDict:
    """config.optim."""
    c = ConfigDict(convert_dict=False)  # args stays a dict
    # The 2018 release's, without bias correction; or "adamw", "lamb"; or an optimizer of optax, such as
    # "optax.lion" or "optax.contrib.muon".
    c.name = "bert_adamw"
    c.args = {}  # keyword arguments of an optimizer of optax, which reads none of beta1 to weight_decay
    c.learning_rate = 1e-4
    c.warmup_steps = 10_000
    c.warmup_proportion = 0.0  # of the steps, where train.epochs gives them: instead of warmup_steps
    # After the warm-up: "linear" or "cosine", to 0 at the last step; "inverse_sqrt" of the step; "constant".
    c.decay = "linear"
    c.beta1 = 0.9
    c.beta2 = 0.999
    c.eps = 1e-6
    c.weight_decay = 0.01  # not on biases and LayerNorm
    c.clip_norm = 1.0  # of the whole gradient; 0: no clipping
    if kind.stacked_layers:
        c.layer_decay = 1.0  # each layer's rate is this times that of the layer above; 1: all the same
    return c


def mesh() -> ConfigDict:
    """config.mesh: devices along each axis; -1 (one axis at most): all that are left."""
    return ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})


def log() -> ConfigDict:
    """config.log."""
    c = ConfigDict()
    c.tensorboard = True
    c.wandb_project = ""  # "": no Weights & Biases
    return c


def store_data() -> ConfigDict:
    """config.data of pre-training on a token store."""
    c = ConfigDict()
    c.store = ""  # folder written by bertjax.prepare
    c.weights = ()  # passes over each of the store's inputs per epoch; () takes the store's own
    c.pack = 1  # most sequences in a row; above 1, attention stays inside each sequence
    return c


def held_out() -> ConfigDict:
    """config.eval of pre-training."""
    c = ConfigDict()
    c.enabled = True  # False: held-out text is not read
    c.batch_rows = 256
    c.max_rows = 0  # of held-out text; 0: all
    return c


def compose(task: str, kind: ModelKind, /, **sections: ConfigDict) -> ConfigDict:
    """A whole config: the fields of `run`, `sections`, and those that every run has."""
    config = run(task, kind)
    for name, section in (sections | {"optim": sections.get("optim", optim(kind)), "mesh": mesh(),
                                      "log": log()}).items():  # fmt: skip
        config[name] = section
    return config


def pretraining_config(task: str, kind: ModelKind, data: ConfigDict) -> ConfigDict:
    """The config of a task that pre-trains on `data`, a config.data."""
    return compose(
        task, kind, model=kind.section(), data=data, train=pretraining(kind), phase2=second_phase(kind),
        eval=held_out(),
    )  # fmt: skip


def finetuning_config(task: str, kind: ModelKind, examples: ConfigDict, unit: str = "examples") -> ConfigDict:
    """The config of a task that fine-tunes on `examples`, a config.examples; its architecture is that of the
    model that it begins from."""
    rates = optim(kind)
    rates.learning_rate, rates.warmup_proportion = 2e-5, 0.1
    return compose(
        task, kind, model=kind.section(architecture=False), head=kind.head_section(), examples=examples,
        train=finetuning(kind, unit), eval=ConfigDict({"batch_rows": 32}), optim=rates,
    )  # fmt: skip
