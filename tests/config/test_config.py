import jax
import pytest
from ml_collections import ConfigDict

from bertjax.config import default, set_size
from bertjax.config.checks import check
from bertjax.config.files import load, parse_args
from bertjax.errors import InputError
from bertjax.models import KINDS
from bertjax.sections import fields


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("from bertjax.config import default\n\n\ndef get_config():\n    return default()\n")
    return str(path)


def fails(message, call, *args):
    with pytest.raises(InputError, match=message) as error:
        call(*args)
    assert "\n" not in str(error.value)


def test_the_default_is_bert_base_by_the_paper():
    config = default()
    check(config)
    model = config.model
    assert (model.num_hidden_layers, model.hidden_size, model.num_attention_heads) == (12, 768, 12)
    assert config.train.steps + config.phase2.steps == 1_000_000
    assert config.train.steps == 0.9 * 1_000_000
    assert (config.train.seq_length, config.phase2.seq_length, config.train.batch_rows) == (128, 512, 256)
    assert (config.optim.learning_rate, config.optim.warmup_steps) == (1e-4, 10_000)


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind in KINDS for size in KINDS[kind].sizes])
def test_every_size_passes_the_checks(kind, size):
    config = set_size(default({"bert": "pretrain", "gpt": "language_model"}[kind]), size)
    check(config)
    assert config.model.intermediate_size == 4 * config.model.hidden_size


def test_overrides(recipe):
    config = parse_args(
        [f"--config={recipe}", "--config.train.steps=7", "--config.workdir=/a=b", "--config.optim.eps=1",
         "--config.data.whole_word_mask=True", "--config.data.weights=[1.0, 2.0]",
         "--config.data.mask_split=(1.0, 0.0, 0.0)", "--config.optim.learning_rate=2e-4"]
    )  # fmt: skip
    assert config.train.steps == 7
    assert config.workdir == "/a=b"
    assert (config.optim.eps, type(config.optim.eps)) == (1.0, float)
    assert config.data.whole_word_mask is True
    assert config.data.weights == (1.0, 2.0)
    assert config.data.mask_split == (1.0, 0.0, 0.0)
    assert config.optim.learning_rate == 2e-4
    untouched = dict(fields(default()))
    assert {name for name, value in fields(config) if untouched[name] != value} == {
        "train.steps", "workdir", "optim.eps", "data.whole_word_mask", "data.weights", "data.mask_split",
        "optim.learning_rate",
    }  # fmt: skip


def test_a_config_file_takes_an_argument(tmp_path):
    path = tmp_path / "sized.py"
    path.write_text(
        "from bertjax.config import default, set_size\n\n"
        "def get_config(size):\n    return set_size(default(), size)\n"
    )
    assert load(f"{path}:tiny").model.hidden_size == 128
    fails("huge: no such model size; the nearest is [a-z]+ of tiny, mini, ", load, f"{path}:huge")
    fails("sized.py: give the size behind a colon, --config=.*sized.py:SIZE; ", load, str(path))
    fails("configs/ner.py:mrpc: the file takes nothing behind a colon", load, "configs/ner.py:mrpc")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.step=5",
            r"train.step: no such field of the task pretrain on bert; the nearest is --config\.train\.steps",
        ),
        (
            "optim.lr=5",
            r"--config.optim.lr: no such field .*; the nearest is --config.optim.\w+",
        ),
        ("hidden_size=5", r"the nearest is --config.model.hidden_size"),
        ("train=5", r"--config.train: no such field"),
        ("train.steps=ten", r"--config.train.steps=ten: expected int, such as 900000"),
        ("train.steps=1.5", r"--config.train.steps=1.5: expected int"),
        ("train.steps=True", r"--config.train.steps=True: expected int"),
        ("train.steps=", r"--config.train.steps=: expected int"),
        ("optim.learning_rate=fast", r"expected float, such as 0.0001"),
        ("data.whole_word_mask=yes", r"expected bool, such as False"),
        ("data.mask_split=0.8", r"expected tuple, such as \(0.8, 0.1, 0.1\)"),
    ],
)
def test_wrong_names_and_types(recipe, override, message):
    fails(message, parse_args, [f"--config={recipe}", f"--config.{override}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_dropout_prob=1.0", "must be at least 0 and below 1"),
        ("data.short_seq_prob=-0.1", "must be at least 0 and below 1"),
        ("model.vocab_size=0", "must be positive"),
        ("model.num_attention_heads=7", "must divide model.hidden_size=768"),
        ("model.dtype=float16", "float32.*bfloat16"),
        ("data.masking=often", "static.*dynamic"),
        ("data.masking=next_token", "must not be seen; set model.causal=True"),
        ("model.causal=True", "next_sentence=True: .CLS. sees nothing of a causal model"),
        ("data.dupe_factor=0", "must be positive"),
        ("optim.decay=square", "optim.decay='square': must be one of linear, cosine"),
        ("data.pack=0", "must be positive"),
        ("data.mask_split=(0.8, 0.1)", "three shares"),
        ("data.mask_split=(0.8, 0.1, 0.2)", "add up to 1"),
        ("data.mask_split=(1.1, -0.1, 0.0)", "add up to 1"),
        ("train.steps=0", "must be positive"),
        ("train.accumulation=0", "must be positive"),
        ("train.accumulation=3", "train.batch_rows=256: must be a multiple of train.accumulation=3"),
        ("phase2.accumulation=3", "phase2.batch_rows=256: must be a multiple of phase2.accumulation=3"),
        ("train.log_every=0", "must be positive"),
        ("train.save_every=0", "must be positive"),
        ("train.keep_last=0", "must be positive"),
        ("train.batch_rows=0", "must be positive"),
        ("train.seq_length=4", "from 8 to 512, the longest row of this model"),
        ("phase2.seq_length=513", "phase2.seq_length=513: must be from 8 to 512"),
        ("train.max_predictions_per_seq=0", "must be positive"),
        ("phase2.batch_rows=-1", "must be positive"),
        ("optim.learning_rate=0.0", "must be positive"),
        ("mesh.data=0", "mesh.data=0: mesh axes must be positive"),
        ("mesh.fsdp=-1", "mesh.fsdp=-1: .*one may be -1"),
        ("mesh.tensor=0", "mesh.tensor=0: mesh axes must be positive"),
        ("train.epochs=-1.0", "train.epochs=-1.0: must not be negative"),
        ("optim.warmup_proportion=2.0", "optim.warmup_proportion=2.0"),
        ("optim.warmup_proportion=0.1", "of train.epochs' steps, and that is 0; set optim.warmup_steps"),
        # A name that is not known must not become another optimizer, or a traceback from deep inside.
        ("optim.name=sgd", "optim.name=sgd: .*bert_adamw"),
        ("model.hidden_act=swish", "model.hidden_act='swish': .*gelu_new"),
        ("train.remat=half", "train.remat='half': .*full"),
        ("phase2.remat=half", "phase2.remat='half': .*full"),
        # Numbers that no run can use.
        ("model.layer_norm_eps=-1.0", "layer_norm_eps=-1.0"),
        ("model.initializer_range=-1.0", "initializer_range=-1.0"),
        ("phase2.steps=-1", "phase2.steps=-1"),
        ("train.eval_every=-1", "train.eval_every=-1"),
        ("train.keep_every=-1", "train.keep_every=-1"),
        ("train.max_bad_steps=0", "train.max_bad_steps=0"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1"),
        ("optim.beta1=1.0", "optim.beta1=1.0"),
        ("optim.beta2=-0.1", "optim.beta2=-0.1"),
        ("optim.eps=-1e-6", "optim.eps=-1e-06"),
        ("optim.clip_norm=-1.0", "optim.clip_norm=-1.0"),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1"),
        ("optim.layer_decay=0.0", "optim.layer_decay=0.0: must be above 0 and at most 1"),
        ("optim.layer_decay=1.1", "optim.layer_decay=1.1: must be above 0 and at most 1"),
        ("eval.batch_rows=0", "eval.batch_rows=0"),
        ("eval.max_rows=-1", "eval.max_rows=-1"),
        ("optim.learning_rate=1e999", "optim.learning_rate=inf"),
        ("data.mask_split=('a', 'b', 'c')", "mask_split=.*must hold finite numbers only"),
        ("data.mask_split=(1e999, 0.0, 0.0)", "mask_split=.*must hold finite numbers only"),
        ("data.weights=('a',)", "weights=.*must hold finite numbers only"),
        ("data.weights=[[1.0]]", "weights=.*must hold finite numbers only"),
        ("seed=-1", "seed=-1: must be from 0 to 4294967294"),
        ("seed=4294967295", "seed=4294967295: must be from 0 to 4294967294"),
    ],
)
def test_values_out_of_range(recipe, override, message):
    fails(message, parse_args, [f"--config={recipe}", f"--config.{override}"])


@pytest.mark.parametrize(
    ("path", "override", "message"),
    [
        ("pretrain_gpt.py", "model.type_vocab_size=2", "type_vocab_size=2: must be 0 with data.special_tok"),
        ("pretrain_gpt.py", "data.special_tokens=True", "type_vocab_size=0: must be 2 with data.special_to"),
        ("gpt_glue.py:cola", "examples.both_orders=True", "both_orders=True: is of pairs; name examples"),
        (
            "gpt_glue.py:cola",
            "train.freeze_encoder=True",
            "leaves nothing to change for lm_loss; set head",
        ),
        ("gpt_glue.py:cola", "head.lm_weight=-0.5", "must not be negative"),
        ("gpt_bridge.py:corpus+size", "seed=1", "size: no such switch; there are gpt, corpus, sep_cls, batc"),
        ("gpt_glue.py:snli", "seed=1", "snli: no such task; it is one of cola"),
        ("classify.py", "train.seq_length=7", "must be 8 or more"),
        ("classify.py", "train.reinit_layers=-1", "train.reinit_layers=-1"),
        ("classify.py", "train.batch_examples=0", "must be positive"),
        ("classify.py", "train.accumulation=3", "train.batch_examples=32: must be a multiple of train.accum"),
        ("classify.py", "examples.metric=bleu", "metric=bleu: must be one of accuracy, "),
        ("ner.py", "train.batch_windows=0", "must be positive"),
        ("ner.py", "head.layers=first", "head.layers='first': must be one of last, embeddings, .*sum_all"),
        ("ner.py", "head.lstm_layers=-1", "must not be negative"),
        ("ner.py", "head.lstm_size=0", "must be positive"),
        ("ner.py", "head.dropout_prob=1.0", "at least 0 and below 1"),
        ("qa.py", "examples.max_query_length=400", "leaves no room for text in train.seq_length=384"),
        ("multi_label.py", "examples.separator=", "must not be empty"),
        ("multi_label.py", "examples.positive_weights=(1.0,)", "give one for each of the 0 labels"),
        ("multi_label.py", "examples.positive_weights=('a',)", "must hold finite numbers only"),
        ("pretrain_elmo.py", "model.filters=()", "model.filters=.*pairs"),
        ("pretrain_elmo.py", "model.filters=((1, 0),)", "model.filters=.*pairs"),
        ("pretrain_elmo.py", "model.filters=((1, 2), (1, 3))", "model.filters=.*each width once"),
        ("pretrain_elmo.py", "model.filters=(1, 2)", "model.filters=.*pairs"),
        ("pretrain_elmo.py", "model.characters=6", "characters=6: .*widest of model.filters=7"),
        ("pretrain_elmo.py", "train.samples=793470", "samples=793470: must be below model.vocab_size=793471"),
        ("pretrain_elmo.py", "train.samples=0", "must be positive"),
        ("pretrain_elmo.py", "model.clip=-1.0", "must not be negative"),
        ("pretrain_elmo.py", "model.dropout_prob=1.0", "at least 0 and below 1"),
        ("elmo_ner.py", "head.lstm_layers=-1", "must not be negative"),
    ],
)
def test_what_a_task_or_a_kind_asks_of_its_fields(path, override, message):
    fails(message, parse_args, [f"--config=configs/{path}", f"--config.{override}"])


def test_positive_weights_are_as_many_as_labels():
    labels, two = "examples.labels=('a', 'b')", "examples.positive_weights=(1.0, 2.0)"
    assert load("configs/multi_label.py", [labels, two]).examples.positive_weights == (1.0, 2.0)
    fails("give one for each of the 2 labels", load, "configs/multi_label.py",
          [labels, "examples.positive_weights=(1.0,)"])  # fmt: skip
    fails("must be positive", load, "configs/multi_label.py",
          [labels, "examples.positive_weights=(1.0, 0.0)"])  # fmt: skip


def test_the_bridge_changes_one_thing_at_a_time():
    def changed(argument):
        old, new = (dict(fields(load(f"configs/gpt_bridge.py:{x}"))) for x in ("gpt", argument))
        return {name: value for name, value in new.items() if old[name] != value}

    corpus, batch = {"data.weights": (1.0, 1.0)}, {"train.batch_rows": 256}
    sep_cls = {"data.special_tokens": True, "model.type_vocab_size": 2, "model.vocab_size": 40_481}
    assert (changed("corpus"), changed("batch"), changed("sep_cls")) == (corpus, batch, sep_cls)
    assert changed("corpus+sep_cls+batch") == corpus | batch | sep_cls
    bert = load("configs/gpt_bridge.py:bert")
    assert (bert.task, bert.model.causal, bert.data.masking) == ("pretrain", True, "next_token")
    recipe, gpt = dict(fields(load("configs/pretrain_gpt.py"))), load("configs/gpt_bridge.py:gpt")
    assert {name for name, value in fields(gpt) if recipe[name] != value} == {
        "train.epochs", "train.steps", "data.weights"}  # fmt: skip
    assert (gpt.train.batch_rows * gpt.train.seq_length, gpt.train.steps) == (32_768, 10**6)


def test_every_seed_is_one_of_its_own(recipe):
    """jax.random.key drops the higher bits of a number; 1 is added for dropout."""
    largest = parse_args([f"--config={recipe}", "--config.seed=4294967294"]).seed
    keys = [tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in (0, largest, largest + 1)]
    assert len(set(keys)) == 3


def test_phase_2_is_checked_only_if_there_is_one(recipe):
    parse_args([f"--config={recipe}", "--config.phase2.steps=0", "--config.phase2.seq_length=9999"])


def test_what_another_field_would_make_void_is_an_error():
    steps, warmup = "train.steps=9", "optim.warmup_steps=3"
    fails("--config.train.steps: train.epochs gives them here; add --config.train.epochs=0",
          load, "configs/swag.py", [steps])  # fmt: skip
    fails("optim.warmup_steps: optim.warmup_proportion gives them here; add --config.optim.warmup_prop",
          load, "configs/swag.py", [warmup])  # fmt: skip
    config = load("configs/swag.py", [steps, warmup, "train.epochs=0"])
    assert (config.train.steps, config.optim.warmup_steps) == (9, 3)
    assert load("configs/swag.py", [warmup, "optim.warmup_proportion=0"]).optim.warmup_steps == 3


def test_an_elmo_has_no_positions_that_limit_its_rows():
    assert load("configs/pretrain_elmo.py", ["train.seq_length=2000"]).train.seq_length == 2000
    fails("train.seq_length=65536: must be from 8 to 65535",
          load, "configs/pretrain_elmo.py", ["train.seq_length=65536"])  # fmt: skip


def test_arguments_that_are_none():
    fails("no config; use --config=RECIPE", parse_args, [])
    fails("--confg=a.py: not understood; use --config=RECIPE", parse_args, ["--confg=a.py"])
    fails("train.steps=5: not understood", parse_args, ["train.steps=5"])


def test_a_value_may_stand_behind_a_space(recipe):
    given = ["--config", recipe, "--config.train.steps", "7", "--config.workdir=/a b", "--config.seed", "5"]
    config = parse_args(given)
    assert (config.train.steps, config.workdir, config.seed) == (7, "/a b", 5)
    fails("--config: no value; use --config=VALUE", parse_args, ["--config", "--config.train.steps=7"])
    fails("--config.seed: no value; use", parse_args, [f"--config={recipe}", "--config.seed"])
    fails("seed=-1: must be from 0", parse_args, [f"--config={recipe}", "--config.seed", "-1"])


RECIPE = "from bertjax.config import default\ndef get_config():\n    c = default()\n    {}\n    return c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"defines no get_config\(\)"),
        ("def get_config(:\n", r"bad.py:1: .*invalid syntax"),
        ("import no_such_module_at_all\n", r"bad.py:1: .*no_such_module_at_all"),
        ("def get_config():\n    return None\n", r"bad.py: .*get_config"),
        (RECIPE.format("c.trian.steps = 5"), r"bad.py.*trian"),
        (RECIPE.format("c.train.steps = 'x'"), r"bad.py.*(train.steps|int)"),
        (RECIPE.format("c.train.stepz = 5"), r"bad.py.*train.stepz.*train.steps"),
        (RECIPE.format("del c.train.steps"), r"bad.py: train.steps: missing"),
        (RECIPE.format("del c.log"), r"bad.py: log.tensorboard, log.wandb_project: missing"),
        ("x = '\0'\n", r"bad.py: source code .*null bytes"),
        ("import sys\nsys.exit(5)\n", r"bad.py:2: SystemExit: 5"),
    ],
    ids=[
        "no get_config",
        "syntax",
        "import",
        "returns None",
        "unknown section",
        "wrong type",
        "unknown field",
        "no field",
        "no section",
        "NUL",
        "exit",
    ],
)
def test_bad_config_files(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    fails(message, load, str(path))


def test_fields_are_listed_by_their_dotted_names():
    names = dict(fields(default()))
    assert names["train.steps"] == 900_000
    assert names["task"] == "pretrain"
    assert not any(isinstance(value, ConfigDict) for value in names.values())
