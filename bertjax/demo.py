"""From text to an exported model: runs bertjax's own commands one after the other, and shows each.

`make demo`, or `python -m bertjax.demo --out=DIR`. The text is the English prose
in the documentation of Python and of the installed packages. Run again, it continues where it stopped.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from bertjax.config import files
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import EXIT_INTERRUPTED, InputError, Interrupted, run_command
from bertjax.flags import Parser
from bertjax.logs import METRICS, read_metrics
from bertjax.predict.__main__ import format_guesses
from bertjax.predict.predictor import Predictor
from bertjax.tasks.pretrain import TASK
from bertjax.trained_model import Trained

CONFIG = "pretrain_tiny"
INPUT = "python"  # see bertjax.prepare.pydoc
HELDOUT = 0.02  # share of the documents: about 80
TEXTS = (
    "If the file does [MASK] exist, an error is raised.",
    "This function returns a [MASK] of strings.",
    "It can [MASK] used as a decorator.",
    "If the argument is [MASK], the default value is used.",
    "Returns the number of [MASK] in the array.",
)


def main(args: Sequence[str]) -> None:
    """Reads the flags and runs every step.

    Raises:
      InputError: a command failed; its own message stands above.
      Interrupted: a command was interrupted; the demo continues there when it is run again.
    """
    parser = Parser(command="demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for everything that the demo makes"
    )
    out = parser.parse_args(args).out
    config = files.load(CONFIG)
    store, workdir, exported = (os.path.join(out, name) for name in ("store", "tiny", "huggingface"))

    _heading("1. Prepare: text to a vocabulary and tokens")
    if os.path.exists(os.path.join(store, "store.json")):
        print(f"{store} is complete.")
    else:
        vocab_size = f"--vocab_size={config.model.vocab_size}"
        _run("bertjax.prepare", f"--input={INPUT}", "--format=pydoc", vocab_size, f"--heldout={HELDOUT}",
             f"--out={store}")  # fmt: skip

    _heading("2. Before training: what an untrained model makes of five sentences")
    _show_untrained(config, store)

    _heading("3. Pre-train: masked words and next sentences")
    _run("bertjax.main", f"--config={CONFIG}", f"--config.data.store={store}", f"--config.workdir={workdir}")

    _heading("4. After training: the same sentences")
    _run("bertjax.predict", "fill-mask", f"--model={workdir}", *TEXTS)

    _heading("5. Draw the run, export the model")
    _run("bertjax.report", f"--workdir={workdir}")
    _run("bertjax.convert", f"--from={workdir}", f"--to={exported}")

    _heading("Done")
    print(summary(out, workdir, store, exported))


def _heading(text: str) -> None:
    print(f"\n{text}\n", flush=True)


def _run(module: str, *flags: str) -> None:
    """Prints `python -m module flags` and runs it.

    Raises InputError if it fails, Interrupted if it was stopped by a signal.
    """
    print(f"$ {_shown(module, *flags)}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", module, *flags])
    # Ctrl-C reaches the command too, which saves its state; SIGTERM is passed on for the same reason.
    old = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        code = process.wait()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if code in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        raise Interrupted("the same command continues from here")
    if code:
        raise InputError(f"{module} ended with exit code {code}; its message is above")


def _shown(module: str, *flags: str) -> str:
    """The command as a line for a shell in the repository's folder."""
    python = os.path.relpath(sys.executable)
    return shlex.join([sys.executable if python.startswith("..") else python, "-m", module, *flags])


def _show_untrained(config: ConfigDict, store: str) -> None:
    jax.config.update("jax_platforms", "cpu")  # leaves an accelerator to the commands
    params = TASK.init_params(config, jax.random.key(config.seed))
    model = Trained(config.model, TASK.head, (), params, load_tokenizer(store), {}, 0)
    guesses = Predictor(model).fill_mask(TEXTS, top_k=5)
    for text, masks in zip(TEXTS, guesses, strict=True):
        print(format_guesses(text, masks))


def summary(out: str, workdir: str, store: str, exported: str) -> str:
    """The last held-out figures of the run, where its files are, and what to run next."""
    rows = [row for row in read_metrics(os.path.join(workdir, METRICS)) if "eval/mlm_loss" in row]
    if not rows:
        raise InputError(f"{workdir}: the run was not evaluated; remove {out} and run the demo again")
    last = rows[-1]
    longer = (
        f"--config={CONFIG}",
        f"--config.data.store={store}",
        f"--config.workdir={os.path.join(out, 'longer')}",
        "--config.train.steps=20000",
    )
    report = os.path.join(workdir, "report.png")
    width = max(len(report), len(exported))
    return f"""On documents that training never saw:
  masked-LM loss           {last["eval/mlm_loss"]:.2f} nats a token; guessing by word frequency costs \
{last["eval/unigram_entropy"]:.2f}
  masked-LM accuracy       {last["eval/mlm_accuracy"]:.1%}
  next-sentence accuracy   {last["eval/nsp_accuracy"]:.1%}

  {report:{width}}   losses and accuracies over the run
  {exported:{width}}   the model, for Hugging Face's from_pretrained

Next:
  ask it       {_shown("bertjax.predict", "fill-mask", f"--model={workdir}", "Your own [MASK] here.")}
  train longer {_shown("bertjax.main", *longer)}
  your text    {_shown("bertjax.prepare", "--help")}"""


if __name__ == "__main__":
    run_command(main)
