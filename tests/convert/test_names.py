import jax
import numpy as np
import pytest
from store_fixture import toy_config

from bertjax.convert import names
from bertjax.convert.weights import Tensor
from bertjax.errors import InputError
from bertjax.models import bert


def in_memory(arrays):
    return {name: Tensor(x.shape, str(x.dtype), lambda x=x: x) for name, x in arrays.items()}


def random_model(head, num_labels=3, **fields):
    """(config, parameters) of a head; no two numbers are alike."""
    config = toy_config(**{"model.num_hidden_layers": 3, **fields}).model
    abstract = names.abstract_params(config, bert.KIND.heads[head], num_labels)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract)
    params["encoder"]["embeddings"]["word"][config.vocab_size :] = 0
    if "mlm_output_bias" in params:
        params["mlm_output_bias"][config.vocab_size :] = 0
    return config, params


def there_and_back(config, tensors, head):
    return names.from_huggingface(
        config, names.canonical(in_memory(tensors), "the file"), bert.KIND.heads[head], "the file"
    )


@pytest.mark.parametrize("head", bert.KIND.heads)
def test_what_goes_out_comes_back(head):
    config, params = random_model(head)
    tensors = names.to_huggingface(config, params)
    jax.tree.map(np.testing.assert_array_equal, there_and_back(config, tensors, head), params)
    assert names.parts_in(names.canonical(in_memory(tensors), "the file"), "bert") == bert.KIND.heads[head]


@pytest.mark.parametrize(
    "fields", [{"model.type_vocab_size": 1}, {"model.hidden_size": 36, "model.num_attention_heads": 3}]
)
def test_other_shapes_come_back(fields):
    config, params = random_model("pretraining", **fields)
    tensors = names.to_huggingface(config, params)
    jax.tree.map(np.testing.assert_array_equal, there_and_back(config, tensors, "pretraining"), params)


# What Hugging Face's classes hold beside the encoder; D 32, C 3.
HEAD_TENSORS = {
    "encoder": {"pooler.dense.weight": (32, 32), "pooler.dense.bias": (32,)},
    "next_sentence": {"cls.seq_relationship.weight": (2, 32), "cls.seq_relationship.bias": (2,)},
    "sequence_classification": {"classifier.weight": (3, 32), "classifier.bias": (3,)},
    "multi_label_classification": {"classifier.weight": (3, 32), "classifier.bias": (3,)},
    "token_classification": {"classifier.weight": (3, 32), "classifier.bias": (3,)},
    "question_answering": {"qa_outputs.weight": (2, 32), "qa_outputs.bias": (2,)},
}


@pytest.mark.parametrize("head", HEAD_TENSORS)
def test_a_heads_tensors_are_hugging_faces(head):
    tensors = names.to_huggingface(*random_model(head))
    shapes = {name: x.shape for name, x in tensors.items()}
    assert HEAD_TENSORS[head].items() <= shapes.items()
    prefix = "" if head == "encoder" else "bert."
    others = {name for name in shapes.keys() - HEAD_TENSORS[head].keys() if "pooler" not in name}
    assert all(name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.layer.")) for name in others)
    assert ("bert.pooler.dense.bias" in shapes) == (prefix == "bert." and "pooler" in bert.KIND.heads[head])


def test_parts_that_the_head_lacks_are_left_out():
    config, params = random_model("pretraining")
    tensors = names.to_huggingface(config, params)
    taken = there_and_back(config, tensors, "masked_lm")
    assert bert.KIND.parts_of(taken) == ("mlm",)
    np.testing.assert_array_equal(taken["mlm_kernel"], params["mlm_kernel"])


def test_all_faults_are_said_at_once():
    config, params = random_model("pretraining")
    tensors = names.to_huggingface(config, params)
    del tensors["bert.pooler.dense.bias"], tensors["cls.predictions.bias"]
    tensors["bert.encoder.layer.1.output.dense.weight"] = np.zeros((64, 32), np.float32)
    tensors["bert.encoder.layer.0.crossattention.self.query.bias"] = np.zeros(32, np.float32)
    with pytest.raises(InputError) as error:
        there_and_back(config, tensors, "pretraining")
    assert str(error.value) == (
        "the file: does not fit its config: bert.pooler.dense.bias is missing; "
        "cls.predictions.bias is missing; "
        "bert.encoder.layer.1.output.dense.weight has shape [64, 32], expected is [32, 64]; "
        "'bert.encoder.layer.0.crossattention.self.query.bias' is not known"
    )
    with pytest.raises(InputError, match=r"is missing; and 54 more$"):
        there_and_back(config, {}, "pretraining")


def test_old_names_and_buffers_are_understood():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in tensors.items()
    }
    assert old.keys() != tensors.keys()
    old["embeddings.position_ids"] = np.arange(64)[None]
    jax.tree.map(np.testing.assert_array_equal, there_and_back(config, old, "encoder"), params)


def test_a_tied_decoder_may_be_written_again_but_not_differ():
    config, params = random_model("masked_lm")
    tensors = names.to_huggingface(config, params)
    word = tensors["bert.embeddings.word_embeddings.weight"]
    tensors |= {
        "cls.predictions.decoder.weight": word,
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }
    jax.tree.map(np.testing.assert_array_equal, there_and_back(config, tensors, "masked_lm"), params)
    tensors["cls.predictions.decoder.weight"] = word + 1e-6
    with pytest.raises(
        InputError, match=r"decoder.weight differs from bert.embeddings.word_embeddings.weight"
    ):
        there_and_back(config, tensors, "masked_lm")


def test_a_tensor_that_is_not_finite_is_refused():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params)
    tensors["pooler.dense.bias"][3] = np.nan
    with pytest.raises(InputError, match=r"^the file: bert.pooler.dense.bias holds NaN or infinity"):
        there_and_back(config, tensors, "encoder")


def test_layers_are_counted():
    config, params = random_model("masked_lm")
    tensors = names.canonical(in_memory(names.to_huggingface(config, params)), "the file")
    assert names.layers_in(tensors, "bert") == 3


def test_a_tensor_by_both_names_is_refused():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params)
    tensors["embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    with pytest.raises(InputError, match=r"'bert.embeddings.LayerNorm.weight' is there twice, also by"):
        there_and_back(config, tensors, "encoder")


def test_types_that_are_no_weights_are_refused():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params)
    half = tensors | {"pooler.dense.bias": tensors["pooler.dense.bias"].astype(np.float64)}
    assert there_and_back(config, half, "encoder")["pooler_bias"].dtype == np.float32
    integers = tensors | {"pooler.dense.bias": np.zeros(32, np.int8)}
    with pytest.raises(InputError, match=r"bert.pooler.dense.bias is of type 'int8', expected is float32"):
        there_and_back(config, integers, "encoder")
    huge = tensors | {"pooler.dense.bias": np.full(32, 1e300)}
    with pytest.raises(InputError, match=r"bert.pooler.dense.bias holds NaN or infinity"):
        there_and_back(config, huge, "encoder")


def test_names_from_a_file_stay_short_and_on_one_line():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params) | {"a\nb" * 10**5: np.zeros(1, np.float32)}
    with pytest.raises(InputError) as error:
        there_and_back(config, tensors, "encoder")
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(10**12, 0), (0,), (), (2,)])
def test_a_classifier_of_a_wrong_shape_takes_no_memory(shape):
    config, params = random_model("sequence_classification")
    tensors = names.to_huggingface(config, params)
    given = in_memory(tensors)
    given["classifier.bias"] = Tensor(shape, "float32", lambda: pytest.fail("it was read"))
    for weight in (given["classifier.weight"], Tensor((10**12, 32), "float32", lambda: None)):
        given["classifier.weight"] = weight
        with pytest.raises(InputError, match="has shape"):
            names.from_huggingface(config, given, bert.KIND.heads["sequence_classification"], "the file")


def test_queries_keys_and_values_have_their_own_tensors():
    config, params = random_model("encoder")
    tensors = names.to_huggingface(config, params)
    attention = params["encoder"]["layers"]["attention"]
    for layer in range(config.num_hidden_layers):
        for i, name in enumerate(("query", "key", "value")):
            prefix = f"encoder.layer.{layer}.attention.self.{name}"
            kernel_DD = attention["qkv_kernel"][layer, :, i].reshape(config.hidden_size, -1)
            np.testing.assert_array_equal(tensors[f"{prefix}.weight"], kernel_DD.T)  # [out, in]
            np.testing.assert_array_equal(tensors[f"{prefix}.bias"], attention["qkv_bias"][layer, i].ravel())


def test_the_padding_of_the_vocabulary_stays_here():
    config, params = random_model("pretraining")
    assert len(params["mlm_output_bias"]) > config.vocab_size
    tensors = names.to_huggingface(config, params)
    assert len(tensors["bert.embeddings.word_embeddings.weight"]) == config.vocab_size
    assert len(tensors["cls.predictions.bias"]) == config.vocab_size
