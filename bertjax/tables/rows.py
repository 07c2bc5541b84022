"""The paper's tables as data: their rows and columns, and the scales at which they can be made.

A row is a pre-training and what it is fine-tuned with, a column a task and its figure. Both are overrides
("data.next_sentence=False") of the configs that SCALES and SYSTEMS name. In them {hidden} is the units of the
row's model, {lstm_size} and {feature_rate} are the scale's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bertjax.sweep import paper

Fields = tuple[str, ...]
BASE = 3  # of Scale.sizes: the size of all rows that do not name another one
CHECKPOINTS = 5  # of a pre-training whose course is looked at, at equal distances, the last one among them


class Column(NamedTuple):
    """A figure of every row."""

    name: str
    task: str  # of Scale.tasks; "" for pre-training itself
    metric: str = "eval/accuracy"  # of a run's metrics.jsonl
    fine_tuning: Fields = ()

    @property
    def percent(self) -> bool:
        return self.metric != "eval/perplexity"


class TableRow(NamedTuple):
    """A pre-trained model, and how it is fine-tuned."""

    name: str
    pretraining: Fields = ()
    fine_tuning: Fields = ()
    system: str = "bert"  # of SYSTEMS
    size: int = BASE  # of Scale.sizes
    share: float = 1.0  # of the pre-training's steps after which its checkpoint is taken
    paper: Mapping[str, float] = {}  # by the names of columns


class Table(NamedTuple):
    """A table of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    reference: int = 0  # the row that the others are compared with in the plot
    by_size: bool = False  # whether rows are named by the paper's layers, units and heads
    curve: bool = False  # whether the plot is of a figure over the steps, a line for each system of rows


MNLI = Column("MNLI-m", "mnli")
QNLI = Column("QNLI", "qnli")
SST2 = Column("SST-2", "sst2")
MRPC = Column("MRPC", "mrpc")
NER = Column("NER F1", "ner", "eval/f1")

LEFT_TO_RIGHT = ("model.causal=True", "data.masking=next_token", "data.next_sentence=False")
# The paper freezes BERT and trains two layers of a BiLSTM on what it says of each token.
FEATURES = (
    "train.freeze_encoder=True",
    "head.lstm_layers=2",
    "head.lstm_size={lstm_size}",
    "optim.learning_rate={feature_rate}",
)
_LAYERS = {
    "embeddings": "embeddings",
    "second-to-last": "second_to_last",
    "last": "last",
    "sum of the last four": "sum_last_four",
    "concatenation of the last four": "concat_last_four",
    "sum of all": "sum_all",
}


def _split(name: str) -> Fields:
    """The override for the paper's [MASK]/same/random; data.mask_split has them as [MASK], random, same."""
    masked, same, drawn = (int(percent) / 100 for percent in name.split("/"))
    return (f"data.mask_split=({masked}, {drawn}, {same})",) if name != "80/10/10" else ()


def _course(name: str, pretraining: Fields, last: float) -> tuple[TableRow, ...]:
    """Rows of the checkpoints of a pre-training. Of the paper's plot the last point is in a table too."""
    shares = [(i + 1) / CHECKPOINTS for i in range(CHECKPOINTS)]
    return tuple(
        TableRow(
            f"{name}, {share:.0%}", pretraining, share=share, paper={MNLI.name: last} if share == 1 else {}
        )
        for share in shares
    )


TABLES = {
    "pretraining_tasks": Table(
        "Pre-training tasks",
        (MNLI, QNLI, MRPC, SST2, Column("SQuAD F1", "squad", "eval/f1")),
        tuple(
            TableRow(name, *fields, paper=paper.PRETRAINING_TASKS.get(name, {}))
            for name, fields in {
                "BERT": ((), ()),
                "No NSP": (("data.next_sentence=False",), ()),
                "LTR & No NSP": (LEFT_TO_RIGHT, ()),
                "+ BiLSTM": (LEFT_TO_RIGHT, ("head.lstm_layers=1", "head.lstm_size={hidden}")),
                # Not in the paper: what fine-tuning learns by itself, which all the others build on.
                "not pre-trained": ((), ("train.from_scratch=True",)),
            }.items()
        ),
    ),
    "model_size": Table(
        "Model size",
        (Column("perplexity", "", "eval/perplexity"), MNLI, MRPC, SST2),
        tuple(
            TableRow(name, size=i, paper=figures)
            for i, (name, figures) in enumerate(paper.MODEL_SIZE.items())
        ),
        reference=BASE,
        by_size=True,
    ),
    "training_steps": Table(
        "Training steps",
        (MNLI,),
        (
            *_course("masked LM", (), paper.PRETRAINING_TASKS["BERT"][MNLI.name]),
            *_course("left-to-right", LEFT_TO_RIGHT, paper.PRETRAINING_TASKS["LTR & No NSP"][MNLI.name]),
        ),
        curve=True,
    ),
    "features": Table(
        "Features from a frozen encoder",
        (NER,),
        (
            TableRow("fine-tuned", paper=paper.FEATURES["fine-tuned"]),
            *(
                TableRow(name, (), (*FEATURES, f"head.layers={layers}"), paper=paper.FEATURES[name])
                for name, layers in _LAYERS.items()
            ),
        ),
    ),
    "masking": Table(
        "Masking",
        (
            MNLI,
            NER,
            Column("NER F1 of features", "ner", "eval/f1", (*FEATURES, "head.layers=concat_last_four")),
        ),
        tuple(TableRow(name, _split(name), paper=figures) for name, figures in paper.MASKING.items()),
    ),
    "systems": Table(
        "Systems",
        (
            MNLI,
            Column("QQP F1", "qqp", "eval/f1"),
            QNLI,
            SST2,
            Column("CoLA MCC", "cola", "eval/matthews_correlation"),
            Column("STS-B Spearman", "stsb", "eval/spearman"),
            Column("MRPC F1", "mrpc", "eval/f1"),
            Column("RTE", "rte"),
            NER,
        ),
        tuple(
            TableRow(name, system=system, paper=paper.SYSTEMS[name])
            for name, system in (("BERT", "bert"), ("OpenAI GPT", "gpt"), ("ELMo", "elmo"))
        ),
    ),
}
# Whose checkpoints on the way are kept.
COURSES = {row.pretraining for row in TABLES["training_steps"].rows}


class System(NamedTuple):
    """What is pre-trained and fine-tuned as one."""

    store: str  # the flag that names its text
    fine_tuning: Mapping[str, str]  # its config of each task that it is fine-tuned for
    sized: bool = True  # whether its layers, units and heads are those of Scale.sizes
    # Whether it predicts no more of its text's words than its config says, the most frequent ones.
    frequent_words: bool = False


_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
SYSTEMS = {
    "bert": System(
        "store",
        {
            **{task: f"glue:{task}" for task in _GLUE},
            "squad": "squad:v1.1",
            "ner": "ner",
        },
    ),
    "gpt": System("gpt_store", {task: f"gpt_glue:{task}" for task in _GLUE}),
    "elmo": System(
        "elmo_store",
        {**{task: f"elmo_glue:{task}" for task in _GLUE}, "ner": "elmo_ner"},
        sized=False,
        frequent_words=True,
    ),
}


class Budget(NamedTuple):
    """What a task's fine-tuning may take."""

    fields: Fields = ()
    train: int = 0  # most examples, evenly spaced over the file; 0: all
    dev: int = 0


@dataclass(frozen=True)
class Scale:
    """How large the models are, and how long everything takes."""

    pretraining: Mapping[str, tuple[str, Fields]]  # by system: config, overrides
    sizes: tuple[tuple[int, int, int], ...]  # layers, units, heads: in place of paper.MODEL_SIZE's
    common: Mapping[str, Fields]  # by system: of pre-training and of fine-tuning
    tasks: Mapping[str, Budget]
    fine_tuning: Mapping[str, Fields]  # by system, over those of `tasks`
    seeds: int
    feature_rate: float
    lstm_size: int = 0  # of the BiLSTM on frozen features; 0: as many as the model's units


def by_steps(
    steps: int, rate: float, length: int, batch: int = 32, unit: str = "examples", **limits: int
) -> Budget:
    """A budget of so many updates, the warm-up a tenth of them, on rows of at most `length` tokens.

    Args:
      unit: what a task's batches are made of: "examples" or "windows".
    """
    fields = ("train.epochs=0.0", f"train.steps={steps}", f"train.batch_{unit}={batch}",
              f"optim.learning_rate={rate}", f"optim.warmup_steps={steps // 10}")  # fmt: skip
    return Budget((*fields, f"train.seq_length={length}", f"eval.batch_rows={batch}"), **limits)


def _questions(steps: int, rate: float, batch: int = 32, **limits: int) -> Budget:
    """Windows of 128 tokens, which is as far as the positions of the `cpu` scale go."""
    budget = by_steps(steps, rate, 128, batch, "windows", **limits)
    more = ("examples.doc_stride=64", "examples.max_query_length=32", "examples.padding_logits=False")
    return budget._replace(fields=(*budget.fields, *more))


_FLOAT32 = ("model.dtype=float32",)
_UNROLLED = (*_FLOAT32, "model.scan_layers=False")  # faster on a CPU
_SCANNED = (*_FLOAT32, "model.scan_layers=True")  # what is compiled soonest
_CI = ("train.batch_rows=16", "train.seq_length=32", "train.accumulation=1", "optim.warmup_steps=4",
       "eval.batch_rows=16", "eval.max_rows=64")  # fmt: skip
_CI_STEPS, _CPU_STEPS, _GPU_STEPS = 40, 3000, 10_000


def _every(steps: int, second: int = 0) -> Fields:
    """Pre-training that is saved and measured now and then, so many of its steps in a second phase."""
    every = steps // CHECKPOINTS
    return (f"train.steps={steps - second}", f"phase2.steps={second}", f"train.save_every={every // 2}",
            f"train.eval_every={every}", f"train.log_every={max(1, every // 10)}")  # fmt: skip


# Rows of a quarter of the length first, in which attention finds what to look at far sooner.
_CPU_PHASES = (
    *_every(_CPU_STEPS, second=_CPU_STEPS * 3 // 4),
    "train.seq_length=16", "train.batch_rows=256",
    "phase2.seq_length=64", "phase2.batch_rows=64", "phase2.accumulation=4",
    "model.initializer_range=0.049", "optim.learning_rate=1e-3", "optim.warmup_steps=300",
    "eval.max_rows=2048",
)  # fmt: skip
_CPU_PREDICTIONS = ("train.max_predictions_per_seq=3", "phase2.max_predictions_per_seq=10")
# A model this small hardly overfits in the few steps that it is fine-tuned for.
_NO_DROPOUT = ("model.hidden_dropout_prob=0.0", "model.attention_probs_dropout_prob=0.0")


def _elmo(cells: int) -> Fields:
    """What reads a frozen ELMo."""
    return (f"head.lstm_size={cells}", f"head.hidden_size={cells}", "optim.learning_rate=1e-3")


SCALES = {
    # The configs as they are.
    "paper": Scale(
        pretraining={
            "bert": ("pretrain_base", ()),
            "gpt": ("pretrain_gpt", ()),
            "elmo": ("pretrain_elmo", ()),
        },
        sizes=((3, 768, 12), (6, 768, 3), (6, 768, 12), (12, 768, 12), (12, 1024, 16), (24, 1024, 16)),
        common={},
        tasks=dict.fromkeys((*_GLUE, "squad", "ner"), Budget()),
        fine_tuning={},
        seeds=5,
        feature_rate=1e-3,
        lstm_size=768,
    ),
    "gpu": Scale(
        pretraining={
            "bert": (
                "pretrain_base",
                (*_every(_GPU_STEPS), "data.masking=dynamic", "optim.learning_rate=5e-4",
                 "optim.warmup_steps=1000", "eval.max_rows=8192"),
            ),
            "gpt": (
                "pretrain_gpt",
                (*_every(_GPU_STEPS), "train.epochs=0.0", "train.batch_rows=256", "train.seq_length=128",
                 "data.pack=8", "optim.learning_rate=5e-4", "optim.warmup_steps=1000", "eval.max_rows=8192"),
            ),
            "elmo": (
                "pretrain_elmo",
                (*_every(_GPU_STEPS), "model.cells=1024", "model.projection=256", "eval.max_rows=8192"),
            ),
        },
        sizes=((2, 512, 8), (4, 512, 2), (4, 512, 8), (8, 512, 8), (8, 704, 11), (16, 704, 11)),
        common={},
        tasks={
            "mnli": by_steps(3000, 1e-4, 128),
            "qqp": by_steps(3000, 1e-4, 128),
            "qnli": by_steps(1500, 1e-4, 128),
            "sst2": by_steps(1500, 1e-4, 128),
            "cola": by_steps(800, 1e-4, 128),
            "stsb": by_steps(540, 1e-4, 128),
            "mrpc": by_steps(340, 1e-4, 128),
            "rte": by_steps(230, 1e-4, 128),
            "squad": _questions(2500, 1e-4),
            "ner": by_steps(1200, 1e-4, 128, unit="windows"),
        },
        fine_tuning={"elmo": _elmo(300)},
        seeds=3,
        feature_rate=1e-3,
    ),
    "cpu": Scale(
        pretraining={
            "bert": ("pretrain_mini", (*_CPU_PHASES, *_CPU_PREDICTIONS)),
            "gpt": ("pretrain_gpt_mini", _CPU_PHASES),
            "elmo": ("pretrain_elmo_mini", (*_every(_CPU_STEPS), "eval.max_rows=2048")),
        },
        sizes=((1, 128, 4), (2, 128, 1), (2, 128, 4), (4, 128, 4), (4, 160, 5), (8, 160, 5)),
        common={"bert": _UNROLLED, "gpt": _UNROLLED, "elmo": _FLOAT32},
        # Rows as long as in pre-training, which few pairs are longer than: one program for most batches.
        tasks={
            "mnli": by_steps(600, 1e-4, 64, dev=2000),
            "qqp": by_steps(600, 1e-4, 64, dev=2000),
            "qnli": by_steps(600, 5e-5, 64, dev=2000),
            "sst2": by_steps(600, 2e-4, 64),
            "cola": by_steps(400, 1e-4, 64),
            "stsb": by_steps(600, 1e-4, 64),
            "mrpc": by_steps(230, 5e-5, 64),
            "rte": by_steps(160, 3e-5, 64),
            "squad": _questions(300, 3e-4, train=12000, dev=500),
            "ner": by_steps(480, 3e-4, 64, unit="windows"),
        },
        fine_tuning={"bert": (*_NO_DROPOUT, "head.dropout_prob=0.0"), "gpt": _NO_DROPOUT, "elmo": _elmo(128)},
        seeds=3,
        feature_rate=1e-3,
    ),
    "ci": Scale(
        pretraining={
            "bert": (
                "pretrain_tiny",
                (*_every(_CI_STEPS), *_CI, "train.max_predictions_per_seq=5"),
            ),
            "gpt": ("pretrain_gpt_mini", (*_every(_CI_STEPS), *_CI)),
            "elmo": (
                "pretrain_elmo_mini",
                (*_every(_CI_STEPS), *_CI, "model.cells=32", "model.projection=16",
                 "model.filters=((1, 8), (2, 8))", "train.samples=64"),
            ),
        },
        sizes=((1, 64, 4), (2, 64, 1), (2, 64, 4), (4, 64, 4), (4, 80, 5), (8, 80, 5)),
        common={"bert": _SCANNED, "gpt": _SCANNED, "elmo": _FLOAT32},
        tasks={
            **dict.fromkeys(_GLUE, by_steps(10, 1e-3, 64, batch=8, train=80, dev=40)),
            "squad": _questions(10, 1e-3, batch=8, train=80, dev=40),
            "ner": by_steps(10, 1e-3, 64, 8, "windows", dev=40),  # all of training, which has every tag
        },
        fine_tuning={"elmo": _elmo(16)},
        seeds=1,
        feature_rate=1e-3,
    ),
}  # fmt: skip
