"""What bertjax gives for a batch with each head, in the form in which Hugging Face's classes give it."""

CHOICES = 3  # of a multiple-choice question


def of_tokens(head, found, batch):
    """Without what stands at padding, which nobody reads."""
    real = batch["segment_ids"] > 0
    by_token = {"encoder": ["hidden_states"], "pretraining": ["masked_lm"], "masked_lm": ["logits"],
                "token_classification": ["logits"], "question_answering": ["logits"]}  # fmt: skip
    return {
        name: x if name not in by_token.get(head, ()) else x[:, real] if name == "hidden_states" else x[real]
        for name, x in found.items()
    }


def bertjax_outputs(head, module, batch):
    """Outputs by name of a bertjax.models.bert.Bert; `batch` is a dict of NumPy arrays."""
    x_BSD = module.encoder(batch)
    first_BD = x_BSD[:, 0]
    if head == "encoder":
        states = module.encoder(batch, every_layer=True)
        found = {"hidden_states": states, "pooled": module.pool(first_BD)}
    elif head == "pretraining":
        masked_lm = module.masked_lm(x_BSD)[..., : module.vocab_size]
        found = {"masked_lm": masked_lm, "next_sentence": module.next_sentence(module.pool(first_BD))}
    elif head == "masked_lm":
        found = {"logits": module.masked_lm(x_BSD)[..., : module.vocab_size]}
    elif head == "next_sentence":
        found = {"logits": module.next_sentence(module.pool(first_BD))}
    elif head == "question_answering":
        found = {"logits": module.spans(x_BSD)}
    elif head == "token_classification":
        found = {"logits": module.classify(x_BSD)}
    else:
        logits = module.classify(module.pool(first_BD))
        found = {"logits": logits.reshape(-1, CHOICES) if head == "multiple_choice" else logits}
    return of_tokens(head, found, batch)
