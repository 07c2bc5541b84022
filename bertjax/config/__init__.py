"""Every field of a run with its default, in one place, and the recipes that start from them."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from bertjax.errors import InputError

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
PRE_TRAINING_TASKS = ("pretrain", "language_model", "elmo")  # those that may have a second phase
ELMO_TASKS = ("elmo", "elmo_tag", "elmo_classify")  # those that train an ELMo
REMAT = ("none", "attention", "dots", "full")
MASKING = ("static", "dynamic", "next_token")
OPTIMIZERS = ("bert_adamw", "adamw", "lamb")  # others are of optax: bertjax.config.optimizers
# What config.head.layers may be, and the layers that the model needs for it.
HEAD_LAYERS = {
    "last": 1,
    "embeddings": 1,
    "second_to_last": 2,
    "sum_last_four": 4,
    "concat_last_four": 4,
    "sum_all": 1,
}
DECAYS = ("linear", "cosine", "inverse_sqrt", "constant")
GPT_TASKS = ("language_model", "classify", "choose")  # those that train a GPT


def sections(config: ConfigDict) -> list[str]:
    """The config's sections that are phases of the run."""
    return ["train", *(["phase2"] if config.phase2.steps else [])]


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

    # What a fine-tuned head stands on (Devlin et al. 2018, sections 5.1, 5.3): bertjax.models.head_features.
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
    # comma-separated list of files, folders and globs. Of the fields from weights on only next_sentence
    # is read.
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
    c.examples.cache = ""  # a folder in which the texts' token ids are kept for the next run; "": none
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

    c.optim = ConfigDict(convert_dict=False)  # args stays a dict
    # The 2018 release's, without bias correction; or "adamw", "lamb"; or an optimizer of optax, such as
    # "optax.lion" or "optax.contrib.muon".
    c.optim.name = "bert_adamw"
    c.optim.args = {}  # keyword arguments of an optimizer of optax, which reads none of beta1 to weight_decay
    c.optim.learning_rate = 1e-4
    c.optim.warmup_steps = 10_000
    c.optim.warmup_proportion = 0.0  # of the steps, where train.epochs gives them: instead of warmup_steps
    # After the warm-up: "linear" or "cosine", to 0 at the last step; "inverse_sqrt" of the step; "constant".
    c.optim.decay = "linear"
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


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("train.steps", value) for every field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
