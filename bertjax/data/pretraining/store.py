"""The token store: a tokenised corpus in a folder, written once, checksummed, and mapped into memory.

  tokens.bin     little-endian uint16 (vocabularies up to 65,536) or uint32, all documents in order
  sentences.bin  int64 [Ns + 1]: sentence i is tokens[sentences[i]:sentences[i + 1]]; none is empty
  documents.bin  int64 [D + 1]: document d is the sentences documents[d]..documents[d + 1]; none is empty
  vocab.txt and tokenizer.json, or spm.model, or another kind's files
  store.json     the manifest, written last: a folder without it is not finished
  progress.json  only in an unfinished store: how much of it is whole

Shape letters: T tokens, Ns sentences, D documents.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.data import rng
from bertjax.errors import InputError
from bertjax.files import read_json, sync_folder, write_atomically

VERSION = 1
BLOCK_BYTES = 16 << 20  # a checksum each
_READ_BYTES = 1 << 20
DATA_FILES = ("tokens.bin", "sentences.bin", "documents.bin")
# Of all kinds of tokenizers.
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "spm.model", "vocab.json", "merges.txt", "words.json")
OFFSET = np.dtype("<i8")
_COUNTED_TOKENS = 1 << 18  # at a time; bincount needs 8 bytes for each

_Block = tuple[Path, int, int, str]  # file, first byte, end, their SHA-256


@dataclass(frozen=True)
class Store:
    """A finished store. `open_store` makes it."""

    path: Path
    manifest: dict[str, Any]
    tokens: np.ndarray  # uint16 or uint32 [T], mapped
    sentences: np.ndarray  # int64 [Ns + 1], mapped
    documents: np.ndarray  # int64 [D + 1], mapped
    train_documents: np.ndarray  # int64, ascending
    heldout_documents: np.ndarray  # int64, ascending
    inputs: list[dict[str, Any]]  # path, format, weight, first_document, end_document

    @property
    def sha256(self) -> str:
        """Of what decides the rows made from it, so neither of its path nor of where its text came from."""
        files = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        inputs = [[each["first_document"], each["end_document"], each["weight"]] for each in self.inputs]
        return _digest({"files": files, "heldout": self.manifest["heldout"], "inputs": inputs})


def open_store(path: str | os.PathLike[str]) -> Store:
    """Opens a store after checking the size and every checksum of its files.

    Raises:
      InputError: no store there; an unfinished one; a file that is missing, cut short or changed (with the
        range of bytes).
    """
    path = Path(path)
    manifest = _read_manifest(path)
    blocks: list[_Block] = []
    for name, entry in manifest["files"].items():
        file, size = path / name, entry["bytes"]
        if not file.is_file():
            raise InputError(f"{file}: is missing; {remake(path)}")
        if file.stat().st_size != size:
            found = file.stat().st_size
            fault = "cut short" if found < size else "too long"
            raise InputError(f"{file}: {fault}, {found} bytes where {size} were written; {remake(path)}")
        blocks += _blocks(file, size, entry["block_bytes"], entry["sha256"])
    _check_blocks(blocks)
    types = token_type(manifest["tokenizer"]["vocab_size"]), OFFSET, OFFSET
    tokens, sentences, documents = (
        np.memmap(path / name, dtype, mode="r") for name, dtype in zip(DATA_FILES, types, strict=True)
    )
    train, heldout = split_documents(len(documents) - 1, manifest["heldout"])
    return Store(path, manifest, tokens, sentences, documents, train, heldout, manifest["inputs"])


def token_type(vocab_size: int) -> np.dtype:
    """What tokens are stored as."""
    return np.dtype("<u2" if vocab_size <= 65536 else "<u4")


def split_documents(documents: int, heldout: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, held-out) document indices, int64, ascending.

    Held out are max(2, round(heldout * documents)) documents (0 for heldout 0): a random next sentence needs
    another one. They are those whose index, as a key, has the smallest first random number (rng.draw), so
    the choice needs no seed and no list.
    """
    index = np.arange(documents, dtype=np.int64)
    if not heldout or not documents:
        return index, index[:0]
    numbers = rng.draw(index.astype(np.uint64), 0)
    is_heldout = np.zeros(documents, bool)
    is_heldout[np.argsort(numbers)[: max(2, round(heldout * documents))]] = True
    return index[~is_heldout], index[is_heldout]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces the file in one step: after a crash it is either the old or the new one."""
    write_atomically(str(path), json.dumps(value, indent=1))
    sync_folder(str(path.parent))


class StoreWriter:
    """Appends documents to the three data files.

    `state()` is taken after the files are on disk; given back to a later writer, it cuts them back to that
    point and goes on, once every byte up to there has proved to be the one that was written.

    Raises:
      InputError: the files are shorter than the state says, or were changed (with the range of bytes).
      OSError: the disk is full, for one. What an earlier state() covers stays whole.
    """

    def __init__(self, path: Path, vocab_size: int, state: dict[str, Any] | None = None):
        files = state["files"] if state else {}
        self.token_type = token_type(vocab_size)
        self._vocab_size = vocab_size
        blocks: list[_Block] = []
        for name, (size, digests) in files.items():
            found = (path / name).stat().st_size if (path / name).exists() else 0
            if found < size:
                raise InputError(f"{path / name}: {found} bytes where {size} were written; {remake(path)}")
            blocks += _blocks(path / name, size, BLOCK_BYTES, digests)
        _check_blocks(blocks)
        self._files = [_AppendedFile(path / name, *files.get(name, (0, []))) for name in DATA_FILES]
        if not state:
            for file in self._files[1:]:
                file.append(np.zeros(1, OFFSET))

    @property
    def tokens(self) -> int:
        return self._files[0].size // self.token_type.itemsize

    @property
    def sentences(self) -> int:
        return self._files[1].size // OFFSET.itemsize - 1

    @property
    def documents(self) -> int:
        return self._files[2].size // OFFSET.itemsize - 1

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self._files)

    def append(self, tokens: np.ndarray, sentence_tokens: np.ndarray, document_sentences: np.ndarray) -> None:
        """Adds documents: their tokens, tokens in each sentence, sentences in each document; none is 0."""
        sentence_ends = self.tokens + np.cumsum(sentence_tokens, dtype=OFFSET)
        document_ends = self.sentences + np.cumsum(document_sentences, dtype=OFFSET)
        self._files[0].append(tokens.astype(self.token_type, copy=False))
        self._files[1].append(sentence_ends)
        self._files[2].append(document_ends)

    def state(self) -> dict[str, Any]:
        """Everything appended so far, forced to disk, as a JSON value for `__init__`."""
        for file in self._files:
            os.fsync(file.handle.fileno())
        return {"files": {file.path.name: (file.size, file.digests()) for file in self._files}}

    def unigram_entropy(self) -> float:
        """Entropy of the tokens' frequencies, in nats a token. Reads all tokens once."""
        counts = np.zeros(self._vocab_size, np.int64)
        with open(self._files[0].path, "rb") as file:
            while len(tokens := np.fromfile(file, self.token_type, _COUNTED_TOKENS)):
                counts += np.bincount(tokens, minlength=self._vocab_size)
        shares = counts[counts > 0] / self.tokens
        return float(-(shares * np.log(shares)).sum())

    def close(self) -> None:
        for file in self._files:
            file.handle.close()

    def finish(self, path: Path, manifest: dict[str, Any], others: Sequence[str]) -> None:
        """Writes the manifest with the checksums of the data files and of the files named in `others`."""
        self.state()
        self.close()
        files = {
            file.path.name: {
                "bytes": file.size,
                "block_bytes": BLOCK_BYTES,
                "sha256": file.digests(),
            }
            for file in self._files
        }
        for name in others:
            content = (path / name).read_bytes()
            digests = [
                hashlib.sha256(content[i : i + BLOCK_BYTES]).hexdigest()
                for i in range(0, len(content), BLOCK_BYTES)
            ]
            files[name] = {"bytes": len(content), "block_bytes": BLOCK_BYTES, "sha256": digests}
        manifest = {"version": VERSION, **manifest, "files": files}
        write_json(path / "store.json", {**manifest, "sha256": _digest(manifest)})
        (path / "progress.json").unlink(missing_ok=True)


class _AppendedFile:
    # Unbuffered, so that nothing is left to write when the disk is full; appends are large.
    def __init__(self, path: Path, size: int, digests: Sequence[str]):
        self.path, self.size, self.whole = path, size, list(digests[: size // BLOCK_BYTES])
        mode = "r+b" if path.exists() else "w+b"
        self.handle = open(path, mode, buffering=0)  # noqa: SIM115 (open as long as the writer)
        self.handle.truncate(size)
        self.handle.seek(len(self.whole) * BLOCK_BYTES)
        self.hash = hashlib.sha256(self.handle.read(size % BLOCK_BYTES))
        self.handle.seek(size)

    def append(self, array: np.ndarray) -> None:
        data = memoryview(array.tobytes())
        while data:
            piece = data[: BLOCK_BYTES - self.size % BLOCK_BYTES]
            piece = piece[: self.handle.write(piece)]
            self.hash.update(piece)
            self.size += len(piece)
            if self.size % BLOCK_BYTES == 0:
                self.whole.append(self.hash.hexdigest())
                self.hash = hashlib.sha256()
            data = data[len(piece) :]

    def digests(self) -> list[str]:
        """Of every block, a partial last one too."""
        return [*self.whole, *([self.hash.hexdigest()] if self.size % BLOCK_BYTES else [])]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / "store.json").is_file():
        if (path / "progress.json").is_file():
            raise InputError(f"{path}: the store is not finished; run the same bertjax.prepare command again")
        raise InputError(f"{path}: no token store (no store.json); make one with bertjax.prepare")
    manifest = read_json(path / "store.json", remake(path))
    digest = manifest.pop("sha256", None)
    if manifest.get("version", VERSION) != VERSION:
        raise InputError(f"{path}: a store of version {manifest['version']}, not {VERSION}; {remake(path)}")
    if digest != _digest(manifest):
        raise InputError(f"{path / 'store.json'}: is not what was written; {remake(path)}")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _blocks(file: Path, size: int, step: int, digests: Sequence[str]) -> list[_Block]:
    return [(file, i * step, min(size, (i + 1) * step), digest) for i, digest in enumerate(digests)]


def _check_blocks(blocks: Sequence[_Block]) -> None:
    """Reads them all. Raises an InputError for the first whose bytes are others."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for (file, start, end, _), same in zip(blocks, pool.map(_same_digest, blocks), strict=True):
            if not same:
                raise InputError(
                    f"{file}: bytes {start} to {end} are not what was written; {remake(file.parent)}"
                )


def _same_digest(block: _Block) -> bool:
    file, start, end, digest = block
    with open(file, "rb") as handle:
        handle.seek(start)
        found = hashlib.sha256()
        while piece := handle.read(min(_READ_BYTES, end - handle.tell())):
            found.update(piece)
    return found.hexdigest() == digest


def remake(path: Path) -> str:
    """What to do about a store that is not as it was written."""
    return f"remove the folder {path} and run bertjax.prepare again"
