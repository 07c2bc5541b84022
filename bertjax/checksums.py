"""The checksum that TFRecord files, TensorBoard's event files and TF1 checkpoints hold."""

from collections.abc import Iterable

import google_crc32c


def masked_crc32c(parts: Iterable[bytes]) -> int:
    """CRC-32C of the parts, one behind the other, rotated and shifted as TensorFlow stores it, so that a
    checksum of checksums is not weak (tensorflow/core/lib/hash/crc32c.h, Mask)."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
