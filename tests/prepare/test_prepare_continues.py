import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prepare_fixture import ROOT, arguments, content, make_documents, run, write

from bertjax.data.pretraining import store
from bertjax.data.pretraining.store import open_store
from bertjax.errors import InputError
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build

# Small blocks and a save after each, so that there is a middle to be stopped in.
RUN = """
import sys
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build
build.BLOCK_BYTES, build.SAVE_SECONDS = int(sys.argv[1]), 0
from bertjax.errors import run_command
sys.argv[1:] = sys.argv[2:]
run_command(prepare.main)
"""


def start(block_bytes, args):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(block_bytes), *args],
        env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_blocks(process, out, blocks):
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if (out / "progress.json").exists():
            done = json.loads((out / "progress.json").read_text())["counts"]["blocks"]
            if done >= blocks:
                return done
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("no progress")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_continued_equals_uninterrupted(tmp_path, processes):
    path = write(tmp_path / "a.txt", make_documents(600))
    args = arguments(path, tmp_path / "killed", f"--processes={processes}")
    for blocks in (3, 12):
        process = start(2000, args)
        wait_for_blocks(process, tmp_path / "killed", blocks)
        process.kill()
        process.communicate()
        with pytest.raises(InputError, match="not finished"):
            open_store(tmp_path / "killed")
    process = start(2000, args)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert int(re.search(r"continuing behind block (\d+)", errors)[1]) >= 12
    process = start(2000, arguments(path, tmp_path / "whole", "--processes=1"))
    assert process.wait() == 0, process.communicate()
    process.communicate()
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(tmp_path, number):
    path = write(tmp_path / "a.txt", make_documents(4000))
    args = arguments(path, tmp_path / "out", "--processes=2")
    process = start(2000, args)
    done = wait_for_blocks(process, tmp_path / "out", 3)
    os.killpg(process.pid, number)  # as Ctrl-C and batch systems do: workers too
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    last = errors.strip().splitlines()[-1]
    assert re.search(r"interrupted: \d+ blocks are saved in .*; run the same command again", last), errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "out/progress.json").read_text())["counts"]["blocks"] >= done


def test_killed_worker_is_one_line(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(4000))
    process = start(2000, arguments(path, tmp_path / "out", "--processes=2"))
    wait_for_blocks(process, tmp_path / "out", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "error: a worker process was killed" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_no_worker_outlives_a_killed_parent(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(4000))
    process = start(2000, arguments(path, tmp_path / "out", "--processes=2"))
    wait_for_blocks(process, tmp_path / "out", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 200
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(build, "SAVE_SECONDS", 0)
    path = write(tmp_path / "a.txt", make_documents(300))
    run(path, tmp_path / "whole")
    plain, calls = store._AppendedFile.append, []

    def full(self, array):
        calls.append(array)
        if len(calls) == 20:
            self.handle.write(b"a part only")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, array)

    monkeypatch.setattr(store._AppendedFile, "append", full)
    with pytest.raises(InputError, match="no space left on device; nothing that was saved is lost"):
        run(path, tmp_path / "full")
    monkeypatch.setattr(store._AppendedFile, "append", plain)
    assert json.loads((tmp_path / "full/progress.json").read_text())["counts"]["blocks"] > 3
    run(path, tmp_path / "full")
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_a_finished_store_stays(tmp_path, capsys):
    path = write(tmp_path / "a.txt", make_documents(50))
    out = tmp_path / "out"
    run(path, out)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    run(path, out, processes=2)
    assert "is complete" in capsys.readouterr().out
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    with pytest.raises(InputError, match=r"--heldout was 0\.01, is 0\.5; use the former ones"):
        run(path, out, "--heldout=0.5")
    manifest = (out / "store.json").read_text()
    (out / "store.json").write_text(manifest.replace('"heldout": 0.01', '"heldout": 0.05'))
    with pytest.raises(InputError, match=r"store\.json: is not what was written; remove the folder"):
        run(path, out)  # not: made with another --heldout
    (out / "store.json").write_text(manifest)
    with open(out / "tokens.bin", "r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(InputError, match=r"tokens\.bin: bytes 0 to \d+ are not what was written"):
        run(path, out)


def test_a_half_made_store_goes_on_only_with_the_same_input(tmp_path):
    path = write(tmp_path / "a.txt", [["One sentence."]] * 30)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="30 of 30 documents have a single sentence"):
        run(path, out)
    with pytest.raises(InputError, match="--vocab_size was 150, is 160"):
        run(path, out, "--vocab_size=160")
    path.write_text(path.read_text() + "\nMore.\n")
    with pytest.raises(InputError, match=r"a\.txt: bytes was \d+, is \d+.*remove the folder"):
        run(path, out)


def test_a_half_made_store_that_was_changed_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", [["One sentence."]] * 30)
    out, flag = tmp_path / "out", "--allow_single_sentence_documents"
    with pytest.raises(InputError, match="30 of 30"):
        run(path, out)
    tokens = (out / "tokens.bin").read_bytes()
    (out / "tokens.bin").write_bytes(bytes([tokens[0] ^ 1]) + tokens[1:])
    with pytest.raises(InputError, match=rf"tokens\.bin: bytes 0 to {len(tokens)} are not what was written"):
        run(path, out, flag)
    (out / "tokens.bin").write_bytes(tokens)
    vocabulary = (out / "vocab.txt").read_text()
    (out / "vocab.txt").write_text(vocabulary.replace("sentence", "sentance"))
    with pytest.raises(InputError, match="its vocabulary has changed since the store was begun; remove the"):
        run(path, out, flag)
    (out / "vocab.txt").write_text(vocabulary)
    run(path, out, flag)


def test_a_start_that_kept_no_text_binds_nobody(tmp_path):
    good = write(tmp_path / "good.txt", make_documents(50))
    run(good, tmp_path / "first")
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_bytes(b"caf\xe9\n" + good.read_bytes())
    with pytest.raises(InputError, match=r"a\.txt:1: byte 0xe9 is not UTF-8"):
        prepare.main([f"--input={path}", "--format=sentences", f"--vocab={tmp_path / 'first/vocab.txt'}",
                      f"--out={out}", "--processes=1"])  # fmt: skip
    assert (out / "vocab.txt").exists()
    path.write_bytes(good.read_bytes())
    with pytest.raises(InputError, match="--vocab_size=8: too small"):
        run(path, out, "--vocab_size=8")
    for folder in (out, tmp_path / "new"):
        run(path, folder, "--tokenizer=unigram", "--vocab_size=40")
    assert content(out) == content(tmp_path / "new")
