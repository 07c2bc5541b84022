"""Hugging Face transformers on Flax: FlaxBertForPreTraining with optax, one jitted step, state donated."""

import flax
import jax
import jax.numpy as jnp
import optax
import transformers
from flax.traverse_util import path_aware_map
from protocol import serve
from transformers import BertConfig, FlaxBertForPreTraining


def setup(settings, batch):
    config = BertConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )
    model = FlaxBertForPreTraining(config, seed=0, dtype=jnp.dtype(settings.dtype))
    decayed = path_aware_map(lambda path, _: path[-1] != "bias" and "LayerNorm" not in path, model.params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(settings.learning_rate, eps=1e-6, weight_decay=0.01, mask=decayed),
    )

    labels_BS = batch["input_ids"] * 0 - 100
    for row, (positions_P, ids_P, weights_P) in enumerate(
        zip(batch["masked_lm_positions"], batch["masked_lm_ids"], batch["masked_lm_weights"], strict=True)
    ):
        labels_BS[row, positions_P[weights_P > 0]] = ids_P[weights_P > 0]
    data = jax.device_put({
        "input_ids": batch["input_ids"],
        "token_type_ids": batch["token_type_ids"],
        "attention_mask": (batch["segment_ids"] > 0).astype("int32"),
        "labels": labels_BS,
        "next_sentence_labels": batch["next_sentence_labels"][:, 0],
    })  # fmt: skip

    def loss_of(params, data, key):
        output = model(
            data["input_ids"],
            attention_mask=data["attention_mask"],
            token_type_ids=data["token_type_ids"],
            params=params,
            dropout_rng=key,
            train=True,
        )
        weights_BS = data["labels"] != -100
        losses_BS = optax.softmax_cross_entropy_with_integer_labels(
            output.prediction_logits.astype(jnp.float32), jnp.where(weights_BS, data["labels"], 0)
        )
        next_sentence_B = optax.softmax_cross_entropy_with_integer_labels(
            output.seq_relationship_logits.astype(jnp.float32), data["next_sentence_labels"]
        )
        return (losses_BS * weights_BS).sum() / weights_BS.sum() + next_sentence_B.mean()

    def step(params, optimizer_state, data, key):
        key, dropout_key = jax.random.split(key)
        loss, gradient = jax.value_and_grad(loss_of)(params, data, dropout_key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, key, loss

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.array, model.params)
    state = [params, jax.jit(optimizer.init)(params), jax.random.key(0)]
    parameters = sum(p.size for p in jax.tree.leaves(params))

    def run(steps):
        for _ in range(steps):
            *state[:], loss = step(state[0], state[1], data, state[2])
        return float(loss)

    versions = {"jax": jax.__version__, "flax": flax.__version__, "transformers": transformers.__version__}
    return run, parameters, versions


if __name__ == "__main__":
    serve(setup)
