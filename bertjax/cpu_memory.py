"""How malloc keeps its memory where training runs on a CPU."""

import glob
import os
import sys

# XLA's CPU backend takes its temporary arrays from malloc in every step. By default glibc gives large blocks
# back at once, so each step has its memory mapped, zeroed and faulted in anew, 4 KiB at a time. These keep
# it, in huge pages, and in one arena: threads' own arenas hold 64 MiB at most and map what is larger.
MALLOC_TUNABLES = (
    "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1000000000000:"
    "glibc.malloc.trim_threshold=1000000000000:glibc.malloc.top_pad=268435456"
)
GPUS = ("/dev/nvidia[0-9]*",)
TPU_CHIPS = ("/dev/accel*", "/dev/vfio/[0-9]*")


def keep_memory() -> None:
    """Starts this program again with malloc set to keep its memory, if it is to compute on a Linux CPU.

    A GLIBC_TUNABLES that the user has set is left as it is. docs/performance.md has what it brings.
    """
    accelerator = device_files(GPUS + TPU_CHIPS)
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and not accelerator:
        os.environ["GLIBC_TUNABLES"] = MALLOC_TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def device_files(patterns: tuple[str, ...]) -> list[str]:
    """The files by which Linux names the devices of one kind, such as `GPUS` or `TPU_CHIPS`."""
    return sorted(path for pattern in patterns for path in glob.glob(pattern))
