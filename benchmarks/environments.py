"""The peers' virtual environments, made from benchmarks/peers/*.txt and kept under build/."""

import re
import subprocess
import sys
import venv
from pathlib import Path

from bertjax.errors import InputError

REPOSITORY = Path(__file__).parent.parent
REQUIREMENTS = REPOSITORY / "benchmarks" / "peers"
FOLDER = REPOSITORY / "build" / "benchmark-envs"


def requirements_of(name: str, device: str) -> list[str]:
    """The lines for pip of environment `name`; on a GPU those of `NAME.gpu.txt`, where there is one."""
    path = REQUIREMENTS / f"{name}.txt"
    if device == "gpu" and (REQUIREMENTS / f"{name}.gpu.txt").is_file():
        path = REQUIREMENTS / f"{name}.gpu.txt"
    lines: list[str] = []
    for line in path.read_text().splitlines():
        included = re.fullmatch(r"-r (\w+)\.txt", line)
        lines += requirements_of(included[1], "cpu") if included else [line]
    return lines


def python_of(name: str, device: str) -> Path:
    """The interpreter of environment `name`, made anew if its requirements have changed.

    Raises InputError if pip cannot install them.
    """
    folder = FOLDER / (name if device == "cpu" else f"{name}-{device}")
    python, stamp, log = folder / "bin" / "python", folder / "requirements.txt", folder / "pip.log"
    wanted = requirements_of(name, device)
    text = "\n".join(wanted) + "\n"
    if stamp.is_file() and stamp.read_text() == text:
        return python
    print(f"making {folder.relative_to(REPOSITORY)} (minutes)", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    with log.open("w") as file:
        command = [str(python), "-m", "pip", "install", *wanted]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise InputError(
                f"{log}: pip could not install {', '.join(wanted)}; see that file, or leave the peer out"
            )
    stamp.write_text(text)
    return python
