"""Fine-tunes Hugging Face's class of a task as benchmarks.finetune_scores says, and writes its answers.

The recipe: AdamW with bias correction, decay on matrices only, linear warm-up and decay, clipping. Each batch
is filled up to its longest sequence; rows of questions to the full length, as their examples do.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch
import transformers

CLASSES = {
    "classify": transformers.BertForSequenceClassification,
    "tag": transformers.BertForTokenClassification,
    "answer": transformers.BertForQuestionAnswering,
    "choose": transformers.BertForMultipleChoice,
}


class Split:
    """Sequences of a file of arrays."""

    def __init__(self, arrays, name, settings):
        self.ids, self.types, self.lengths, self.labels = (
            arrays[f"{name}_{part}"] for part in ("ids", "types", "lengths", "labels")
        )
        self.ends, self.settings = np.cumsum(self.lengths), settings

    def inputs(self, chosen):
        """The model's arguments for the sequences of these numbers."""
        names = ("input_ids", "token_type_ids", "attention_mask")
        batch = {name: np.zeros((len(chosen), self._length(chosen)), np.int64) for name in names}
        for row, i in enumerate(chosen):
            length, here = self.lengths[i], self._tokens(i)
            batch["input_ids"][row, :length] = self.ids[here]
            batch["token_type_ids"][row, :length] = self.types[here]
            batch["attention_mask"][row, :length] = 1
        batch = {name: torch.from_numpy(x).to(self.settings.device) for name, x in batch.items()}
        if self.settings.choices:
            batch = {name: x.reshape(-1, self.settings.choices, x.shape[-1]) for name, x in batch.items()}
        return batch

    def targets(self, chosen):
        """Their labels, as further arguments."""
        labels = self.labels[chosen] if self.settings.task != "tag" else self._tags(chosen)
        labels = torch.from_numpy(labels[:: max(self.settings.choices, 1)]).to(self.settings.device)
        if self.settings.task == "answer":
            return {"start_positions": labels[:, 0].long(), "end_positions": labels[:, 1].long()}
        return {"labels": labels.float() if self.settings.number else labels.long()}

    def _tags(self, chosen):
        tags = np.full((len(chosen), self._length(chosen)), -100)
        for row, i in enumerate(chosen):
            tags[row, : self.lengths[i]] = self.labels[self._tokens(i)]
        return tags

    def _length(self, chosen):
        return self.settings.seq_length if self.settings.task == "answer" else self.lengths[chosen].max()

    def _tokens(self, i):
        return slice(self.ends[i] - self.lengths[i], self.ends[i])


def train(model, split, settings):
    named = list(model.named_parameters())
    decayed = [p for name, p in named if not name.endswith("bias") and "LayerNorm" not in name]
    rest = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)
    # The 2018 release's: the decay runs from the first step, under the warm-up.
    warmup, steps = settings.warmup_steps, settings.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / warmup if step < warmup else 1 - step / steps
    )
    model.train()
    for chosen in np.arange(len(split.lengths)).reshape(settings.steps, -1):
        model(**split.inputs(chosen), **split.targets(chosen)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def answers(model, split, settings):
    """Arrays of all sequences, in order."""
    model.eval()
    found = []
    size = 32 * max(settings.choices, 1)
    order = np.arange(len(split.lengths))
    if not settings.choices:  # short ones together
        order = np.argsort(split.lengths, kind="stable")
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        result = model(**split.inputs(chosen))
        if settings.task == "answer":
            found += list(
                zip(result.start_logits.cpu().numpy(), result.end_logits.cpu().numpy(), strict=True)
            )
        elif settings.task == "tag":
            tags = result.logits.argmax(-1).cpu().numpy()
            found += [row[: split.lengths[i]] for row, i in zip(tags, chosen, strict=True)]
        else:
            found += list(result.logits.cpu().numpy())
    if not settings.choices:
        found = [found[i] for i in np.argsort(order)]
    if settings.task == "answer":
        return {"start": np.array([start for start, _ in found]), "end": np.array([end for _, end in found])}
    if settings.task == "tag":
        return {"tags": np.concatenate(found), "lengths": split.lengths}
    return {"logits": np.array(found)}


def main():
    settings = SimpleNamespace(**json.loads(sys.argv[1]))
    settings.device = "cuda" if settings.device == "gpu" else "cpu"
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    rates = {f"{name}_dropout_prob": settings.dropout for name in ("hidden", "attention_probs")}
    model = CLASSES[settings.task].from_pretrained(settings.model, **rates).to(settings.device)
    with np.load(settings.data, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    train(model, Split(arrays, "train", settings), settings)
    found = {}
    for i in range(settings.evals):
        for name, x in answers(model, Split(arrays, f"eval{i}", settings), settings).items():
            found[f"eval{i}_{name}"] = x
    np.savez(settings.out, **found)


if __name__ == "__main__":
    main()
