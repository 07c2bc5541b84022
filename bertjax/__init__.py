"""BERT (Devlin et al. 2018) in JAX: from raw text to a pre-trained and fine-tuned model."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertjax.trained_model import Trained

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    head: str | None = None,
    allow_pickle: bool = False,
) -> "Trained":
    """Reads a BERT, a GPT or, from a workdir alone, an ELMo, with its parameters and its tokenizer.

    See bertjax.convert.load.load.
    """
    from bertjax.convert import load  # here, so that `import bertjax` alone does not load JAX

    return load.load(path, step=step, head=head, allow_pickle=allow_pickle)
