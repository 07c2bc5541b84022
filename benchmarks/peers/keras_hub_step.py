"""KerasHub on the JAX backend: BertBackbone, MaskedLMHead and a dense NSP head, compile() and fit()."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import keras_hub
from protocol import serve


def build_model(settings):
    """The pre-training model: MLM logits at the masked positions (tied embedding) and NSP logits."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=settings.vocab_size,
        num_layers=settings.layers,
        num_heads=settings.heads,
        hidden_dim=settings.hidden,
        intermediate_dim=4 * settings.hidden,
        dropout=settings.dropout,
        max_sequence_length=512,
    )
    initializer = keras.initializers.TruncatedNormal(stddev=0.02)
    positions_BP = keras.Input((settings.predictions,), dtype="int32", name="masked_lm_positions")
    outputs = backbone.output
    masked_lm_BPV = keras_hub.layers.MaskedLMHead(
        vocabulary_size=settings.vocab_size,
        token_embedding=backbone.token_embedding,
        intermediate_activation=lambda x: keras.activations.gelu(x, approximate=True),
        kernel_initializer=initializer,
        name="masked_lm",
    )(outputs["sequence_output"], mask_positions=positions_BP)
    next_sentence_B2 = keras.layers.Dense(2, kernel_initializer=initializer, name="next_sentence")(
        outputs["pooled_output"]
    )
    return keras.Model(
        {**backbone.input, "masked_lm_positions": positions_BP},
        {"masked_lm": masked_lm_BPV, "next_sentence": next_sentence_B2},
    )


def setup(settings, batch):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if settings.dtype == "bfloat16" else "float32")
    model = build_model(settings)
    optimizer = keras.optimizers.AdamW(
        settings.learning_rate, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])

    def loss():
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight", dtype="float32"
        )

    model.compile(optimizer, loss={"masked_lm": loss(), "next_sentence": loss()}, jit_compile=True)
    data = (
        {
            "token_ids": batch["input_ids"],
            "segment_ids": batch["token_type_ids"],
            "padding_mask": (batch["segment_ids"] > 0).astype("int32"),
            "masked_lm_positions": batch["masked_lm_positions"],
        },
        {"masked_lm": batch["masked_lm_ids"], "next_sentence": batch["next_sentence_labels"]},
        {"masked_lm": batch["masked_lm_weights"], "next_sentence": batch["next_sentence_weights"][:, 0]},
    )

    def run(steps):
        model.fit((data for _ in range(steps)), steps_per_epoch=steps, verbose=0)
        return float(model.history.history["loss"][-1])

    versions = {"jax": jax.__version__, "keras": keras.__version__, "keras_hub": keras_hub.__version__}
    return run, model.count_params(), versions


if __name__ == "__main__":
    serve(setup)
