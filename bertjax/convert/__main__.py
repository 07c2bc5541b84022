"""Exports the model of a run as a Hugging Face folder: weights, config, tokenizer and model card."""

from collections.abc import Sequence

from bertjax.errors import run_command
from bertjax.flags import Parser


def main(args: Sequence[str]) -> None:
    """Reads the flags, exports, prints where to. Raises InputError."""
    parser = Parser(prog="python -m bertjax.convert", description=__doc__)
    parser.add_argument("--from", dest="workdir", required=True, metavar="WORKDIR", help="of the run")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="new, empty, or an earlier export")
    parser.add_argument("--step", type=int, metavar="N", help="of the checkpoint (default: the newest)")
    flags = parser.parse_args(args)
    from bertjax.convert.huggingface import export  # after the flags: JAX takes a second to load
    from bertjax.trained import load_trained

    model = load_trained(flags.workdir, flags.step)
    export(model, flags.to)
    print(f"step {model.step} of {flags.workdir} is in {flags.to}")


if __name__ == "__main__":
    run_command(main)
