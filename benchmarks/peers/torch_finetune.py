"""Hugging Face transformers on PyTorch: BertForSequenceClassification, AdamW, clipping, each batch filled up
to its longest example, as its users write them.

Variants: "torch" as it is, with PyTorch's fused attention (sdpa); "torch_compiled" under torch.compile with
dynamic shapes.
"""

import os

import torch
import transformers
from protocol import serve
from transformers import AutoModelForSequenceClassification


def setup(settings, batches):
    torch.manual_seed(0)
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if settings.device == "gpu" else "cpu")
    labels = int(batches["labels"].max()) + 1
    model = AutoModelForSequenceClassification.from_pretrained(settings.model, num_labels=labels)
    model = model.to(device).train()
    named = list(model.named_parameters())
    decayed = [p for name, p in named if not name.endswith("bias") and "LayerNorm" not in name]
    rest = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-5, eps=1e-6, fused=True)

    def loss_of(ids, types, mask, labels):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16"):
            return model(input_ids=ids, token_type_ids=types, attention_mask=mask, labels=labels).loss

    if settings.peer == "torch_compiled":
        loss_of = torch.compile(loss_of, dynamic=True)

    place = [0]

    def run(steps):
        for _ in range(steps):
            longest = batches["mask"][place[0]].sum(-1).max()
            batch = [torch.from_numpy(batches[name][place[0], :, :longest]).long().to(device)
                     for name in ("ids", "types", "mask")]  # fmt: skip
            loss = loss_of(*batch, torch.from_numpy(batches["labels"][place[0]]).long().to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            place[0] += 1
        return float(loss.detach())

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return run, sum(p.numel() for p in model.parameters()), versions


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    serve(setup)
