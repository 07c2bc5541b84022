"""Which files an input's path names, and their bytes, decompressed and checked to be whole."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from bertjax.errors import InputError

# Compressed bytes that are read at a time. A chunk is decompressed as a whole, so memory is this times the
# ratio of the compression.
COMPRESSED_CHUNK = 1 << 16

# 2 GiB, the largest window of `zstd --long=31`.
ZSTD_WINDOW = 1 << 31

# A new decoder for one member (gzip), stream (bz2, xz) or frame (zstd).
DECODERS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16),  # 16: with gzip's header and checksum
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(),
}


def file_bytes(path: str) -> int:
    """The file's size on disk. Raises InputError if there is none any more."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def is_compressed(path: str) -> bool:
    """Whether the suffix says so."""
    return Path(path).suffix in DECODERS


def read_chunks(path: str, size: int) -> Iterator[tuple[bytes, int]]:
    """(bytes, on-disk bytes read so far) of the file, decompressed as its suffix (.gz .bz2 .xz .zst) says.

    Chunks have about `size` bytes: at least so many, but for the last one. Members, streams and frames that
    follow each other in one compressed file are all read.

    Raises:
      InputError: the file cannot be read, or is compressed and broken or cut short.
    """
    new_decoder = DECODERS.get(Path(path).suffix)
    parts, held = [], 0
    try:
        with open(path, "rb") as file:
            pieces = (
                _decompress(path, file, new_decoder) if new_decoder else iter(lambda: file.read(size), b"")
            )
            for piece in pieces:
                parts.append(piece)
                held += len(piece)
                if held >= size:
                    yield b"".join(parts), file.tell()
                    parts, held = [], 0
            if held:
                yield b"".join(parts), file.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def _decompress(path: str, file: BinaryIO, new_decoder: Callable[[], Any]) -> Iterator[bytes]:
    # The standard library's own file objects stop without a word at a broken second stream (bz2, xz), and
    # zstandard's reader at a frame that is cut short; here every byte is either decoded or an error.
    decoder = None
    while chunk := file.read(COMPRESSED_CHUNK):
        while chunk:
            if decoder is None:
                chunk = chunk.lstrip(b"\0")  # gzip and xz allow padding between members
                if not chunk:
                    break
                decoder = new_decoder()
            try:
                piece = decoder.decompress(chunk)
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, MemoryError) as error:
                raise InputError(
                    f"{path}: broken compressed data before byte {file.tell()} ({error}); get the file again"
                ) from error
            chunk = b""
            if decoder.eof:
                chunk, decoder = decoder.unused_data, None
            if piece:
                yield piece
    if decoder is not None:
        raise InputError(
            f"{path}: the compressed data is cut short at byte {file.tell()}; get the file again"
        )
