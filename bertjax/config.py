"""Every field of a run with its default, in one place; reading of config files; checks.

A config file is a Python file with `get_config()` (or `get_config(arg)`, for `--config=file.py:arg`) that
takes `default()`, changes what its recipe needs and returns it. Fields are overridden on the command line
as `--config.train.steps=1000`.
"""

import ast
import difflib
import importlib.util
import math
import runpy
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bertjax.errors import InputError, quoted

# name: (layers, hidden, heads). Feed-forward size is 4 x hidden. base, large: Devlin et al. 2018, section 3;
# tiny to medium: Turc et al. 2019; the others: the model-size ablation of Devlin et al. 2018.
MODEL_SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "3x768": (3, 768, 12),
    "6x768-3heads": (6, 768, 3),
    "6x768": (6, 768, 12),
    "12x1024": (12, 1024, 16),
}

# Fields of config.model that parameters fit or not, and that change what is computed with them.
ARCHITECTURE = (
    "kind",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "causal",
)

# Fields of config.elmo that the parameters of its language models fit or not; likewise.
ELMO_ARCHITECTURE = (
    "vocab_size",
    "characters",
    "character_size",
    "filters",
    "highway_layers",
    "cells",
    "projection",
    "layers",
    "clip",
)

VOCAB_MULTIPLE = 128  # the embedding table divides over any mesh up to this, and fills the TPU's lanes
CHARACTER_IDS = 262  # ELMo's: 256 bytes, begin and end of sentences and words, and two kinds of padding
HIDDEN_ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")  # Hugging Face's names
KINDS = ("bert", "gpt", "elmo")  # bertjax.models.kinds has their modules
ELMO_TASKS = ("elmo", "elmo_tag", "elmo_classify")  # those that train an ELMo
REMAT = ("none", "attention", "dots", "full")
MASKING = ("static", "dynamic", "next_token")
OPTIMIZERS = ("bert_adamw", "adamw", "lamb")
# What config.head.layers may be, and the layers that the model needs for it.
HEAD_LAYERS = {
    "last": 1,
    "embeddings": 1,
    "second_to_last": 2,
    "sum_last_four": 4,
    "concat_last_four": 4,
    "sum_all": 1,
}
DECAYS = ("linear", "cosine")
GPT_TASKS = ("language_model", "classify", "choose")  # those that train a GPT

# What `check` asks of numbers, by field; those that end in _prob are shares.
_SHARES = ("optim.beta1", "optim.beta2")
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
    "train.eval_every", "train.keep_every", "train.lm_weight", "train.reinit_layers", "phase2.steps",
    "phase2.warmup_steps", "optim.warmup_steps", "optim.weight_decay", "optim.clip_norm", "eval.examples",
    "elmo.highway_layers", "elmo.clip", "head.lstm_layers",
)  # fmt: skip


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the embedding table: `vocab_size` rounded up to a multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def set_size(config: ConfigDict, name: str) -> ConfigDict:
    """Sets the sizes of `config.model` to those of `MODEL_SIZES[name]`, and returns it. Raises InputError."""
    if name not in MODEL_SIZES:
        raise InputError(f"{name}: no such model size; there are {', '.join(MODEL_SIZES)}")
    layers, hidden, heads = MODEL_SIZES[name]
    config.model.update(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    return config


def default() -> ConfigDict:
    """BERT_BASE by the paper's recipe. The only place where a default is written."""
    c = ConfigDict()
    c.task = "pretrain"  # a module of bertjax.tasks
    c.workdir = ""  # where checkpoints, metrics and events go; the same folder again continues the run
    c.init_from = ""  # a model to take parameters from, at step 0 only; see docs/models.md
    c.init_params = True  # False: take only its sizes and tokenizer, and draw all parameters anew
    c.seed = 0  # initial parameters, data order, masks and dropout all follow from it

    c.model = ConfigDict()  # BertConfig's names, but for kind
    c.model.kind = "bert"  # or "gpt", the left-to-right OpenAI GPT, or "elmo"
    c.model.vocab_size = 30522
    c.model.hidden_size = 768
    c.model.num_hidden_layers = 12
    c.model.num_attention_heads = 12
    c.model.intermediate_size = 3072
    c.model.hidden_act = "gelu_new"  # the 2018 release's tanh approximation; "gelu" is the exact erf form
    c.model.hidden_dropout_prob = 0.1
    c.model.attention_probs_dropout_prob = 0.1
    c.model.max_position_embeddings = 512
    c.model.type_vocab_size = 2  # of a GPT 1, none; or 2 with data.special_tokens
    c.model.initializer_range = 0.02
    c.model.layer_norm_eps = 1e-12
    c.model.causal = False  # True: no token sees a later one; classes then stand on the last, not on [CLS]
    c.model.dtype = "bfloat16"  # of activations and matrix products; parameters and statistics are float32
    c.model.scan_layers = True  # one compiled layer, looped over; False compiles every layer
    # What the backward pass computes again instead of keeping it: "none"; "attention", its scores and
    # probabilities; "dots", all but the products with parameters; "full", all but each layer's input.
    c.model.remat = "none"

    # What a fine-tuned head stands on (Devlin et al. 2018, sections 5.1, 5.3); see bertjax.models.features.
    c.head = ConfigDict()
    # States after the "last" layer or the "second_to_last"; the "embeddings"; a learned weighted sum of the
    # last four layers ("sum_last_four") or of all layers, without the embeddings ("sum_all"); or the last
    # four side by side ("concat_last_four").
    c.head.layers = "last"
    c.head.lstm_layers = 0  # of a bidirectional LSTM between them and the head; the paper has 2
    c.head.lstm_size = 768  # units in each direction, so that the head reads twice as many
    c.head.dropout_prob = 0.1  # on the input of each layer of the LSTM

    c.elmo = ConfigDict()  # ELMo (Peters et al. 2018); its dtype is model.dtype
    c.elmo.vocab_size = 793_471  # words that the language models predict, sorted by frequency
    c.elmo.characters = 50  # of a word, with its begin and end; bytes after them are left out
    c.elmo.character_size = 16
    c.elmo.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))  # width, count
    c.elmo.highway_layers = 2
    c.elmo.cells = 4096  # of a layer's LSTM in each direction
    c.elmo.projection = 512
    c.elmo.layers = 2
    c.elmo.clip = 3.0  # absolute value of cells and of projected outputs; 0: no limit
    c.elmo.dropout_prob = 0.1
    c.elmo.samples = 8192  # of the vocabulary in a training step's softmax
    c.elmo.mix_norm = False  # LayerNorm of each layer before the learned mix
    # What reads the mix in another task: a biLSTM, and for classes an MLP behind it.
    c.elmo.head_cells = 200  # in each direction
    c.elmo.head_layers = 2
    c.elmo.head_hidden = 512  # units of the MLP
    c.elmo.head_dropout_prob = 0.5  # on the input of each layer

    c.data = ConfigDict()
    c.data.store = ""  # folder written by bertjax.prepare
    # Instead of a store: files of finished examples by the 2018 release's create_pretraining_data.py, as a
    # comma-separated list of files, folders and globs. Only next_sentence is read of the fields below.
    c.data.tfrecord = ""
    c.data.tfrecord_heldout = ""  # likewise, for evaluation; "": none
    c.data.vocab = ""  # the vocab.txt that they were made with
    c.data.weights = ()  # passes over each of the store's inputs per epoch; () takes the store's own
    # "static": dupe_factor masked passes, then repeated; "dynamic": new in each epoch; "next_token": every
    # token is predicted from those before it, and none is masked.
    c.data.masking = "static"
    c.data.dupe_factor = 10
    c.data.short_seq_prob = 0.1
    c.data.masked_lm_prob = 0.15
    c.data.mask_split = (0.8, 0.1, 0.1)  # [MASK], random token, unchanged
    c.data.whole_word_mask = False
    c.data.next_sentence = True  # False: contiguous text only, no NSP labels
    c.data.pack = 1  # most sequences in a row; above 1, attention stays inside each sequence
    # For the task "language_model". True: rows are not plain text but BERT's pairs, with the start, delimiter
    # and extract tokens and the token types that a GPT meets in fine-tuning first otherwise.
    c.data.special_tokens = False

    c.examples = ConfigDict()  # files of a fine-tuning task: .tsv, .csv or .jsonl
    c.examples.folder = ""  # that the files below lie in, or "tfds:SET", such as "tfds:glue/mrpc"
    c.examples.train = "train.tsv"
    c.examples.dev = ("dev.tsv",)
    c.examples.test = ()  # without labels
    c.examples.columns = ()  # their names in train and dev, where the files have no line with them
    c.examples.text_a = "sentence1"  # columns
    c.examples.text_b = ""  # "": single texts
    c.examples.choices = ()  # columns of the texts of which one is right, for the task "choose"
    c.examples.label = "label"
    c.examples.id = ""  # that predictions are written with; "": the number of the line, from 0
    c.examples.labels = ()  # in the order of the classifier; (): those in train, sorted
    c.examples.number = False  # the label is a number to be predicted, not a class
    c.examples.both_orders = False  # of a GPT: a pair is read in both orders, and what they tell is added
    c.examples.document_context = False  # tags: a row holds the sentences around, as far as it reaches
    # Questions on texts: the defaults of the 2018 release's run_squad.py, lengths in tokens.
    c.examples.max_query_length = 64  # a longer question is cut
    c.examples.doc_stride = 128  # from the beginning of one window of a long text to that of the next
    c.examples.max_answer_length = 30
    c.examples.n_best_size = 20
    c.examples.unanswerable = False  # SQuAD v2.0: some questions have no answer
    c.examples.null_threshold = 0.0  # log odds of "no answer" to the best answer above which it is given
    # Whether padding can be an answer as far as the loss knows, as in the release, where every row is as long
    # as train.seq_length. False: rows are as long as they need be.
    c.examples.padding_logits = True
    c.examples.metric = "accuracy"  # of bertjax.metrics.BY_NAME

    c.train = ConfigDict()
    c.train.steps = 900_000
    # Passes over the examples of a fine-tuning task, or epochs of a store, which then give the steps.
    c.train.epochs = 0.0
    # A step's, over all devices: rows; in fine-tuning examples, for tags and questions windows of texts.
    c.train.batch_size = 256
    c.train.seq_length = 128
    c.train.max_predictions_per_seq = 20
    c.train.accumulation = 1  # a step's rows are computed in this many parts, one update for all
    c.train.log_every = 100
    c.train.eval_every = 10_000  # also after the last step; 0: never
    c.train.save_every = 5_000  # also after the last step
    c.train.keep_last = 3  # checkpoints
    c.train.keep_every = 100_000  # steps; checkpoints at its multiples stay for good; 0: none
    c.train.max_bad_steps = 20  # stop after so many non-finite updates in a row
    c.train.lm_weight = 0.0  # of the language model's loss beside the task's own, in fine-tuning a GPT
    c.train.freeze_encoder = False  # True: only what stands on it is trained, on states without dropout
    c.train.reinit_layers = 0  # top layers of init_from that are drawn anew, the pooler with them; 0: neither

    c.phase2 = ConfigDict()  # the last part of the same job, at another length; steps 0: none
    c.phase2.steps = 100_000
    c.phase2.batch_size = 256
    c.phase2.seq_length = 512
    c.phase2.max_predictions_per_seq = 77
    c.phase2.restart_schedule = False  # True: warm-up and decay begin anew, with the two fields below
    c.phase2.learning_rate = 1e-4
    c.phase2.warmup_steps = 10_000

    c.optim = ConfigDict()
    c.optim.name = "bert_adamw"  # the 2018 release's, without bias correction; or "adamw", "lamb"
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 10_000
    c.optim.warmup_proportion = 0.0  # of the steps, where train.epochs gives them: instead of warmup_steps
    c.optim.decay = "linear"  # to 0 at the last step, after the warm-up; or "cosine"
    c.optim.beta1 = 0.9
    c.optim.beta2 = 0.999
    c.optim.eps = 1e-6
    c.optim.weight_decay = 0.01  # not on biases and LayerNorm
    c.optim.clip_norm = 1.0  # of the whole gradient; 0: no clipping
    c.optim.layer_decay = 1.0  # each layer's rate is this times that of the layer above; 1: all the same

    c.mesh = ConfigDict()  # devices along each axis; -1 (one axis at most): all that are left
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1

    c.eval = ConfigDict()
    c.eval.batch_size = 256
    c.eval.examples = 0  # most held-out examples; 0: all

    c.log = ConfigDict()
    c.log.tensorboard = True
    c.log.wandb_project = ""  # "": no Weights & Biases
    return c


def fine_tuning(task: str) -> ConfigDict:
    """The paper's recipe for fine-tuning (Devlin et al. 2018, section 4.1) in BERT_BASE's batches.

    Args:
      task: a module of bertjax.tasks.
    """
    c = default()
    c.task = task
    c.train.epochs = 3.0
    c.train.batch_size = 32
    c.train.log_every = 50
    c.train.eval_every = 1_000_000  # after the last step
    c.train.save_every = 500
    c.train.keep_last = 1
    c.train.keep_every = 0
    c.phase2.steps = 0
    c.optim.warmup_proportion = 0.1
    c.eval.batch_size = 32
    return c


def gpt_fine_tuning(config: ConfigDict) -> ConfigDict:
    """A fine-tuning config changed to GPT's recipe (Radford et al. 2018, section 4.1), and returned.

    Adam with bias correction at 6.25e-5 in batches of 32, 3 epochs, warm-up over 0.2% of the steps, and half
    of the language model's loss.
    """
    config.model.kind = "gpt"
    config.train.batch_size, config.train.epochs, config.train.lm_weight = 32, 3.0, 0.5
    config.optim.name, config.optim.eps = "adamw", 1e-8
    config.optim.learning_rate, config.optim.warmup_proportion = 6.25e-5, 0.002
    return config


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of `path` ("file.py" or "file.py:arg") with overrides ("train.steps=10"), checked.

    Raises:
      InputError: no such file; an unknown field (the nearest is named); a value of another type; a value
        out of range.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise InputError(f"{file}: no such config file; the shipped ones are in configs/")
    config = _run_file(file, arg)
    defaults = dict(fields(default()))
    for name, value in fields(config):
        if name not in defaults:
            raise InputError(f"{file}: {name}: no such field; the nearest is {_nearest(name, defaults)}")
        if type(value) is not type(defaults[name]):
            kind = type(defaults[name]).__name__
            raise InputError(f"{file}: {name}={value!r}: expected {kind}, such as {defaults[name]!r}")
    missing = defaults.keys() - dict(fields(config)).keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise InputError(f"{file}: {names}: missing; change the fields of default(), but remove none")
    for override in overrides:
        _apply(config, override)
    check(config)
    return config


def _run_file(file: str, arg: str) -> ConfigDict:
    try:
        module = runpy.run_path(file)
        if "get_config" not in module:
            raise InputError(f"{file}: defines no get_config(); see configs/pretrain_tiny.py")
        config = module["get_config"](*([arg] if arg else []))
    except InputError:
        raise
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}" if error.filename else file
        raise InputError(f"{where}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # the user's code; the line of it that failed is what helps
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        reason = str(error).strip().partition("\n")[0]
        where = f"{file}:{lines[-1]}" if lines else file
        raise InputError(f"{where}: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{file}: get_config() returned {type(config).__name__}, not a config")
    return config


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def parse_args(args: Sequence[str]) -> ConfigDict:
    """The config that `--config=FILE --config.FIELD=VALUE ...` asks for. Raises InputError."""
    path, overrides = "", []
    for arg in args:
        name, equals, value = arg.partition("=")
        if name == "--config" and equals:
            path = value
        elif name.startswith("--config.") and equals:
            overrides.append(f"{name.removeprefix('--config.')}={value}")
        else:
            raise InputError(f"{arg}: not understood; use --config=FILE and --config.FIELD=VALUE")
    if not path:
        raise InputError("no config; use --config=FILE, such as --config=configs/pretrain_tiny.py")
    return load(path, overrides)


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.steps", value) for every field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _apply(config: ConfigDict, override: str) -> None:
    name, _, text = override.partition("=")
    known = dict(fields(config))
    if name not in known:
        raise InputError(f"--config.{name}: no such field; the nearest is --config.{_nearest(name, known)}")
    old = known[name]
    try:
        value = text if isinstance(old, str) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(old):
        raise InputError(f"--config.{name}={text}: expected {type(old).__name__}, such as {old!r}")
    section, _, leaf = name.rpartition(".")
    target = config
    for part in section.split(".") if section else ():
        target = target[part]
    target[leaf] = value


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


def _check_gpt(config: ConfigDict, require: Callable[[bool, str, str], None]) -> None:
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
    require(not gpt or (config.head.layers == "last" and not config.head.lstm_layers), "head",
            "a GPT's classes stand on its last layer; leave config.head as it is")  # fmt: skip
    fine_tunes = gpt and not pre_trains
    for field, asked in (("train.lm_weight", config.train.lm_weight),
                         ("examples.both_orders", config.examples.both_orders)):  # fmt: skip
        require(fine_tunes or not asked, field, "is of a GPT's fine-tuning; leave it out")
    require(not (config.train.lm_weight and config.train.freeze_encoder), "train.lm_weight",
            "has nothing to change in a frozen encoder; set it to 0.0")  # fmt: skip
    require(not config.examples.both_orders or (config.task == "classify" and bool(config.examples.text_b)),
            "examples.both_orders", "is of pairs in the task classify; name examples.text_b")  # fmt: skip


def check(config: ConfigDict) -> None:
    """Raises InputError if fields contradict each other or are out of range. Needs no device and no file."""
    m, d, t = config.model, config.data, config.train

    def require(ok: bool, field: str, rule: str) -> None:
        if not ok:
            value = dict(fields(config))[field]
            raise InputError(f"--config.{field}={value}: {rule}")

    task = config.task.isidentifier() and importlib.util.find_spec(f"bertjax.tasks.{config.task}")
    require(bool(task), "task", "no such task; a task is a module of bertjax.tasks")
    # jax.random.key takes 32 bits of a number and drops the others; dropout's is seed + 1.
    require(0 <= config.seed < 2**32 - 1, "seed", f"must be from 0 to {2**32 - 2}")
    for field, values in (("data.mask_split", d.mask_split), ("data.weights", d.weights)):
        require(all(type(x) in (int, float) and abs(x) < math.inf for x in values), field,
                "must hold finite numbers only")  # fmt: skip
    _check_fields(config)
    check_model(m)
    if config.task in ELMO_TASKS:
        require(m.kind == "elmo", "model.kind", f"the task {config.task} trains an ELMo; set it to elmo")
        require(
            config.optim.layer_decay == 1, "optim.layer_decay", "ELMo's layers have one rate; set it to 1"
        )
        require(not t.reinit_layers, "train.reinit_layers", "no layer of an ELMo is drawn anew; set it to 0")
    else:
        require(m.kind != "elmo", "model.kind", f"the task {config.task} trains no ELMo; there are "
                f"{', '.join(ELMO_TASKS)}")  # fmt: skip
    _check_gpt(config, require)
    for field, known in (("data.masking", MASKING), ("optim.name", OPTIMIZERS), ("optim.decay", DECAYS)):
        require(dict(fields(config))[field] in known, field, f"must be one of {', '.join(known)}")
    require(len(d.mask_split) == 3 and min(d.mask_split) >= 0 and abs(sum(d.mask_split) - 1) < 1e-6,
            "data.mask_split", "must be three shares (mask, random, unchanged) that add up to 1")  # fmt: skip
    require(
        d.pack == 1 or not d.tfrecord, "data.pack", "examples of data.tfrecord are not packed; set it to 1"
    )
    require(d.masking != "next_token" or m.causal, "data.masking",
            "a token that is predicted must not be seen; set model.causal=True")  # fmt: skip
    require(not (m.causal and d.next_sentence and config.task == "pretrain"), "data.next_sentence",
            "[CLS] sees nothing of a causal model; set it to False")  # fmt: skip
    h = config.head
    require(h.layers in HEAD_LAYERS, "head.layers", f"must be one of {', '.join(HEAD_LAYERS)}")
    require(HEAD_LAYERS[h.layers] <= m.num_hidden_layers, "head.layers",
            f"the model has {m.num_hidden_layers} layers, which are too few")  # fmt: skip
    for field in ("layers", "lstm_layers"):
        require(config.task != "pretrain" or h[field] == default().head[field], f"head.{field}",
                "is of fine-tuning; pre-training predicts from the last layer")  # fmt: skip
    require(not t.freeze_encoder or (config.optim.layer_decay == 1 and not t.reinit_layers),
            "train.freeze_encoder", "nothing of the encoder changes; set neither optim.layer_decay nor "
            "train.reinit_layers")  # fmt: skip
    require(0 < config.optim.layer_decay <= 1, "optim.layer_decay", "must be above 0 and at most 1")
    phases = ["train", *(["phase2"] if config.phase2.steps else [])]
    for name in phases:
        phase = config[name]
        require(phase.batch_size % t.accumulation == 0, f"{name}.batch_size",
                f"must be a multiple of train.accumulation={t.accumulation}")  # fmt: skip
        require(8 <= phase.seq_length <= m.max_position_embeddings, f"{name}.seq_length",
                f"must be from 8 to model.max_position_embeddings={m.max_position_embeddings}")  # fmt: skip
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
    axes = (config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    require(all(n > 0 or n == -1 for n in axes) and axes.count(-1) <= 1, "mesh.data",
            "mesh axes must be positive; one may be -1")  # fmt: skip
