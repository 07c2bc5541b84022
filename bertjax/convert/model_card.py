"""README.md of an exported folder."""

import json

from bertjax.convert.names import NAMES
from bertjax.trained_model import Trained

# What of a run's config the card shows: not its paths and its machines.
_RECIPE = ("model.", "data.", "train.", "phase2.", "optim.", "seed")
_PATHS = ("data.store", "data.tfrecord", "data.tfrecord_heldout", "data.vocab")

# The pipeline of transformers that fits a head, and a line that shows it.
_FILL_MASK = ("fill-mask", 'pipe("Return the [MASK] of the list.")')
_PIPELINES = {
    "pretraining": _FILL_MASK,
    "masked_lm": _FILL_MASK,
    "encoder": ("feature-extraction", 'pipe("A text.")'),
    "multi_label_classification": ("text-classification", 'pipe("A text.", top_k=None)'),
    "sequence_classification": ("text-classification", 'pipe("A text.")'),
    "token_classification": ("token-classification", 'pipe("A text.")'),
    "question_answering": ("question-answering", 'pipe(question="A question?", context="A text.")'),
    "causal_lm": ("text-generation", 'pipe("A text")'),
}
_VOCABULARIES = {"wordpiece": "WordPiece", "gpt_bpe": "BPE"}


def model_card(model: Trained, name: str, parameters: int) -> str:
    """What the model is, how to use it, its held-out metrics and the config of its run.

    Args:
      name: of the folder.
      parameters: how many it has.
    """
    c, run = model.config, model.meta["resolved_config"]
    metrics = {
        key.removeprefix("eval/").replace("_", " "): f"{value:.4g}"
        for key, value in model.meta["metrics"].items()
    }
    recipe = {
        key: json.dumps(value)
        for key, value in sorted(run.items())
        if key.startswith(_RECIPE) and key not in _PATHS and (run.get("phase2.steps") or "phase2." not in key)
    }
    if run.get("data.tfrecord"):  # finished examples, whose pairs and masks no field decided
        recipe = {key: x for key, x in recipe.items() if key == "data.next_sentence" or "data." not in key}
    case = "lower-case" if model.tokenizer.lower_case else "cased"
    family, tag = ("BERT", "bert") if c.kind == "bert" else ("OpenAI GPT", "openai-gpt")
    vocabulary = _VOCABULARIES[model.tokenizer.kind]
    trained = f"Trained with bertjax; this is the checkpoint of step {model.step:,}." if model.step else ""
    pipeline, example = _PIPELINES.get(model.head, ("", ""))
    if pipeline:
        usage = f"""from transformers import pipeline

pipe = pipeline("{pipeline}", model="{name}")  # this folder
{example}"""
    else:
        architecture = NAMES[c.kind].classes[model.head]
        usage = f"""from transformers import {architecture}

model = {architecture}.from_pretrained("{name}")  # this folder"""
    return f"""---
library_name: transformers
{f"pipeline_tag: {pipeline}" if pipeline else ""}
tags:
- {tag}
---

# {name}

{family} of {c.num_hidden_layers} layers, {c.hidden_size} hidden units and {c.num_attention_heads} heads \
({parameters / 1e6:.1f}M parameters), with a {case} {vocabulary} vocabulary of \
{model.tokenizer.vocab_size:,} tokens.
{trained}

```python
{usage}
```

## Held-out metrics

{_table("metric", metrics) if metrics else "None: the model was not evaluated at this step."}

## Config

{_table("field", recipe)}
""".replace("\n\ntags:", "\ntags:").replace("\n\n\n", "\n\n")


def _table(head: str, rows: dict[str, str]) -> str:
    return "\n".join([f"| {head} | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])
