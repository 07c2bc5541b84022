"""Hugging Face transformers on PyTorch: BertForPreTraining, AdamW, clipping, as its users write them.

Variants: "torch" runs it as it is, with PyTorch's fused attention (sdpa); "torch_eager_attention" with the
attention written out; "torch_compiled" under torch.compile; "torch_gathered" compiled too, and the heads,
called by hand, see only the masked positions.
"""

import os

import torch
import torch.nn.functional as F
import transformers
from protocol import serve
from transformers import BertConfig, BertForPreTraining


def gathered_loss(model, inputs, positions_BP, ids_BP, next_sentence_labels_B):
    """The loss of BertForPreTraining with the vocabulary projection at the masked positions only."""
    hidden_BSD, pooled_BD = model.bert(**inputs)[:2]
    index_BPD = positions_BP.unsqueeze(-1).expand(-1, -1, hidden_BSD.shape[-1])
    logits_BPV = model.cls.predictions(hidden_BSD.gather(1, index_BPD))
    masked = F.cross_entropy(logits_BPV.flatten(0, 1).float(), ids_BP.flatten(), ignore_index=-100)
    next_sentence = F.cross_entropy(model.cls.seq_relationship(pooled_BD).float(), next_sentence_labels_B)
    return masked + next_sentence


def setup(settings, batch):
    torch.manual_seed(0)
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if settings.device == "gpu" else "cpu")
    config = BertConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        attn_implementation="eager" if settings.peer == "torch_eager_attention" else "sdpa",
    )
    model = BertForPreTraining(config).to(device).train()
    parameters = sum(p.numel() for p in model.parameters())

    named = list(model.named_parameters())
    decayed = [p for name, p in named if not name.endswith("bias") and "LayerNorm" not in name]
    rest = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, eps=1e-6, fused=True)

    data = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    inputs = {
        "input_ids": data["input_ids"].long(),
        "token_type_ids": data["token_type_ids"].long(),
        "attention_mask": (data["segment_ids"] > 0).long(),
    }
    positions_BP = data["masked_lm_positions"].long()
    ids_BP = data["masked_lm_ids"].long().masked_fill(data["masked_lm_weights"] == 0, -100)
    labels_BS = torch.full_like(inputs["input_ids"], -100)
    rows, slots = torch.nonzero(ids_BP != -100, as_tuple=True)
    labels_BS[rows, positions_BP[rows, slots]] = ids_BP[rows, slots]
    next_sentence_labels_B = data["next_sentence_labels"][:, 0].long()

    def loss_of():
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16"):
            if settings.peer == "torch_gathered":
                return gathered_loss(model, inputs, positions_BP, ids_BP, next_sentence_labels_B)
            return model(**inputs, labels=labels_BS, next_sentence_label=next_sentence_labels_B).loss

    if settings.peer in ("torch_compiled", "torch_gathered"):
        loss_of = torch.compile(loss_of)

    def run(steps):
        for _ in range(steps):
            loss = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run, parameters, {"torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    serve(setup)
