"""Converts a BERT or a GPT: a run's checkpoint to a Hugging Face folder; a Hugging Face folder, or one of
Google's 2018 release, to a checkpoint that every command takes."""

import os
from collections.abc import Sequence

from bertjax.errors import InputError, check_utf8, run_command
from bertjax.flags import Parser


def main(args: Sequence[str]) -> None:
    """Reads the flags, converts, prints where to. Raises InputError."""
    parser = Parser(command="convert", description=__doc__)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH",
        help="the workdir of a run, a Hugging Face folder, or a folder (or checkpoint) of Google's",
    )  # fmt: skip
    parser.add_argument("--to", required=True, metavar="FOLDER", help="new, empty, or an earlier export")
    parser.add_argument(
        "--format", choices=("bertjax", "huggingface"), help="of --to (default: huggingface from a workdir)"
    )
    parser.add_argument("--step", type=int, metavar="N", help="of the run (default: the newest)")
    parser.add_argument("--head", metavar="NAME", help="keep the parts of this head only, such as encoder")
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read pytorch_model.bin; builds tensors, runs no code"
    )
    flags = parser.parse_args(args)
    check_utf8(flags.to)
    if "://" in flags.to:
        raise InputError(f"{flags.to}: a folder is needed; mount the bucket and name its path")
    if os.path.realpath(flags.to) == os.path.realpath(flags.source):
        raise InputError(f"{flags.to}: is what is converted; name another folder")
    from bertjax.convert.export import export  # after the flags: JAX takes a second to load
    from bertjax.convert.load import kind_of, load
    from bertjax.trained_model import save_trained

    kind = kind_of(flags.source)
    wanted = flags.format or ("huggingface" if kind == "bertjax" else "bertjax")
    if kind == wanted == "bertjax":
        raise InputError(f"{flags.source}: is a workdir already; copy it, or add --format=huggingface")
    model = load(flags.source, step=flags.step, head=flags.head, allow_pickle=flags.allow_pickle)
    (export if wanted == "huggingface" else save_trained)(model, flags.to)
    if model.left_out:
        print(f"left out, since {model.head} has no such part: {', '.join(model.left_out)}")
    what = f"step {model.step} of {flags.source}" if kind == "bertjax" else flags.source
    print(f"{what} ({model.head}) is in {flags.to}")


if __name__ == "__main__":
    run_command(main)
