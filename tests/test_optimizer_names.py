"""Which optimizers a config may name, and with which arguments."""

import json

import pytest

from bertjax import optimizer_names
from bertjax.config import default
from bertjax.config.files import load
from bertjax.errors import InputError
from bertjax.optimizer_names import OWN
from bertjax.sections import fields
from bertjax.workdir import check_config

RECIPE = "configs/pretrain_tiny.py"


def fails(message, *overrides):
    with pytest.raises(InputError, match=message) as error:
        load(RECIPE, overrides)
    assert "\n" not in str(error.value)


def test_optimizers_of_optax_are_found_by_their_full_names():
    names = optimizer_names.constructors()
    assert {"optax.adam", "optax.lion", "optax.contrib.muon", "optax.contrib.schedule_free_adamw"} <= {*names}
    # Neither a part of one, nor what needs another optimizer or more than a learning rate.
    for name in ("optax.scale_by_learning_rate", "optax.contrib.schedule_free", "optax.contrib.dpsgd",
                 "optax.chain", "optax.ScaleByAdamState"):  # fmt: skip
        assert name not in names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("optax.lyon", "optax.lion"), ("optax.muon", "optax.contrib.muon"), ("lion", "optax.lion"),
     ("adamww", "adamw"), ("optax.adamww", "optax.adamw"), ("os.system", r"\S+"), ("", r"\S+")],
)  # fmt: skip
def test_a_wrong_name_is_one_line_with_the_nearest(name, nearest):
    fails(f"--config.optim.name={name}: no such optimizer; the nearest is {nearest}; there are bert_adamw, "
          "adamw, lamb, by their full names those of optax", f"optim.name={name}")  # fmt: skip


@pytest.mark.parametrize("name", ["optax.lbfgs", "optax.noisy_sgd", "optax.contrib.galore"])
def test_what_a_train_step_cannot_use_says_why(name):
    fails(f"--config.optim.name={name}: it .*; name another optimizer", f"optim.name={name}")


def test_arguments_are_one_field():
    config = load(RECIPE, ["optim.name=optax.lion", "optim.args={'b1': 0.95, 'weight_decay': 1}"])
    assert config.optim.args == {"b1": 0.95, "weight_decay": 1}
    assert dict(fields(config))["optim.args"] == {"b1": 0.95, "weight_decay": 1}
    assert type(config.copy_and_resolve_references().optim.args) is dict
    assert "b1: 0.95" in str(config)
    fails(
        "--config.optim.args.b1: no such field of .*; the nearest is --config.optim.args", "optim.args.b1=0.9"
    )
    fails(r"--config.optim.args=0.9: expected dict, such as \{\}", "optim.args=0.9")
    assert default().optim.args is not default().optim.args


def test_a_recipe_gives_arguments_as_a_dict(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from bertjax.config import default\n\ndef get_config():\n    c = default()\n"
        "    c.optim.name = 'optax.contrib.muon'\n    c.optim.args = {'ns_coeffs': (3.0, -4.0, 2.0)}\n"
        "    return c\n"
    )
    assert load(str(path)).optim.args == {"ns_coeffs": (3.0, -4.0, 2.0)}
    path.write_text(path.read_text().replace("ns_coeffs", "ns_coeff"))
    with pytest.raises(InputError, match=r"has no argument 'ns_coeff'; optax.contrib.muon accepts ns_coeffs"):
        load(str(path))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("optax.lion", "{'beta': 0.9}", "optax.lion has no argument 'beta'; optax.lion accepts b1, b2, "),
        ("optax.lion", "{1: 0.9}", "optax.lion has no argument 1; "),
        ("optax.lion", "{'b1': 'x'}", "b1='x': expected float, such as 0.9; optax.lion accepts b1, b2"),
        ("optax.lion", "{'b1': True}", "b1=True: expected float"),
        ("optax.lion", "{'b1': None}", "b1=None: expected float"),
        ("optax.lion", "{'b1': 1e999}", "b1=inf: expected float"),
        ("optax.lion", "{'mu_dtype': {}}", "mu_dtype={}: expected a number, a text, a tuple or None"),
        ("optax.lion", "{'learning_rate': 1.0}", "learning_rate: optim.learning_rate and its schedule "),
        ("optax.adam", "{'nesterov': 1}", "nesterov=1: expected bool, such as False"),
        ("optax.adafactor", "{'dtype_momentum': 4}", "dtype_momentum=4: expected a type's name"),
        ("optax.contrib.muon", "{'adam_learning_rate': 1.0}", "adam_learning_rate: optim.learning_rate and"),
        ("optax.contrib.muon", "{'preconditioning': 'x'}", "preconditioning='x': expected one of 'frob"),
        ("optax.contrib.muon", "{'ns_coeffs': 3}", "ns_coeffs=3: expected tuple, such as"),
        ("optax.sign_sgd", "{'b1': 1.0}", "optax.sign_sgd accepts no arguments"),
        ("adamw", "{'b1': 0.9}", "is for optimizers of optax; adamw reads optim.beta1, optim.beta2, "),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_with_those_that_there_are(name, args, message):
    fails(rf"--config.optim.args=\{{.*\}}: .*{message}", f"optim.name={name}", f"optim.args={args}")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("optax.adam", "{'mu_dtype': 'bfloat16', 'nesterov': True, 'b1': 0}"),
        ("optax.lion", "{'mask': None}"),
        ("optax.adafactor", "{'clipping_threshold': None, 'momentum': 0.9, 'dtype_momentum': 'bfloat16'}"),
        ("optax.contrib.muon", "{'ns_coeffs': 'dion', 'preconditioning': 'aol', 'consistent_rms': 0.2}"),
        ("optax.contrib.prodigy", "{'betas': (0.9, 0.99), 'safeguard_warmup': True}"),
    ],
)
def test_arguments_of_every_type(name, args):
    load(RECIPE, [f"optim.name={name}", f"optim.args={args}"])


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("optax.lion", "beta1=0.8", r"""set --config.optim.args="\{'b1': 0.8\}" instead"""),
        ("optax.adam", "eps=1e-7", r"""set --config.optim.args="\{'eps': 1e-07\}" instead"""),
        ("optax.lion", "eps=1e-7", "its arguments are b1, b2, mu_dtype, weight_decay, mask"),
        ("optax.sign_sgd", "weight_decay=0.1", "its arguments are none"),
    ],
)
def test_a_field_that_the_optimizer_does_not_read_is_an_error(name, field, message):
    fails(f"--config.optim.{field.partition('=')[0]}: {name} does not read it; {message}",
          f"optim.name={name}", f"optim.{field}")  # fmt: skip
    for own in OWN:
        load(RECIPE, [f"optim.name={own}", f"optim.{field}"])
    load(RECIPE, [f"optim.name={name}", "optim.clip_norm=0.5", "optim.layer_decay=0.9"])


def test_layers_that_are_averaged_have_one_rate():
    fails("optim.layer_decay=0.9: optax.contrib.schedule_free_adamw averages",
          "optim.name=optax.contrib.schedule_free_adamw", "optim.layer_decay=0.9")  # fmt: skip


def test_a_run_goes_on_with_the_same_arguments_only(tmp_path):
    overrides = ["optim.name=optax.contrib.muon", "optim.args={'ns_coeffs': (3.0, -4.0, 2.0)}"]
    config = load(RECIPE, overrides)
    check_config(str(tmp_path), config, {})
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    check_config(str(tmp_path), config, {})
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["optim.args"] == {"ns_coeffs": [3.0, -4.0, 2.0]}
    config.optim.args = {"ns_steps": 4}
    with pytest.raises(InputError, match=r"optim.args was \{'ns_coeffs': .*\}, now \{'ns_steps': 4\}"):
        check_config(str(tmp_path), config, {})
