"""Which steps of a checkpoint folder stay, which are believed, and what outlives a power cut."""

import os
import shutil

import pytest
from checkpoint_fixture import files_of, flip_bit, make_state, opened, save_steps, target_of

from bertjax import checkpoint_manifest
from bertjax.checkpoint import load_params
from bertjax.checkpoint_manifest import DamagedError


def test_keeps_the_last_and_the_multiples(tmp_path):
    save_steps(tmp_path, 5, 10, 15, 25, 35, 45, keep_last=2, keep_every=10)
    assert sorted(os.listdir(tmp_path)) == ["10", "35", "45", "digests"]
    assert sorted(os.listdir(tmp_path / "digests")) == ["10.json", "35.json", "45.json"]
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [10, 35, 45]
    assert load_params(str(tmp_path), 10)[1] == {"loss": 5.0}


def test_a_damaged_newer_step_does_not_push_out_the_good_ones(tmp_path):
    save_steps(tmp_path, 1, 5)
    flip_bit(tmp_path / "5" / "_METADATA")
    with opened(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 1
        checkpoints.save(3, make_state(3), {}, wait=True)
    with opened(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 3


def test_a_damaged_step_is_not_one_of_the_last_that_stay(tmp_path):
    """Of three to keep, step 5 is none: another one would go for it."""
    save_steps(tmp_path, 1, 2, 5)
    flip_bit(tmp_path / "5" / "_METADATA")
    with opened(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 2
        checkpoints.save(3, make_state(3), {}, wait=True)
    assert (tmp_path / "2").is_dir()
    flip_bit(tmp_path / "3" / "_METADATA")
    assert load_params(str(tmp_path))[2] == 2


def test_a_step_just_saved_stays_below_steps_that_were_there(tmp_path):
    """Steps of a run that this one did not restore do not count it out."""
    save_steps(tmp_path, 5, 6)
    with opened(tmp_path, keep_last=1) as checkpoints:
        checkpoints.save(3, make_state(3), {"mine": True}, wait=True)
        assert checkpoints.steps() == [3, 6]
    assert load_params(str(tmp_path), 3)[1:] == ({"mine": True}, 3)


def test_a_step_that_is_a_copy_of_another_is_not_taken_for_its_own_number(tmp_path, capsys):
    save_steps(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    shutil.copy(tmp_path / "digests/1.json", tmp_path / "digests/3.json")
    with pytest.raises(DamagedError, match=r"digests/3\.json: "):
        checkpoint_manifest.verify(str(tmp_path), 3)
    assert load_params(str(tmp_path))[1:] == ({"loss": 1.0}, 2)
    assert "step 3 is damaged" in capsys.readouterr().err


@pytest.fixture
def disk(monkeypatch):
    """What reaches the disk, and when: ("sync", path), ("name", new path), ("remove", path)."""
    events = []

    def recorded(module, name, describe):
        original = getattr(module, name)

        def call(*args, **kwargs):
            described = describe(*args)
            result = original(*args, **kwargs)
            events.append(described)
            return result

        monkeypatch.setattr(module, name, call)

    recorded(os, "fsync", lambda descriptor: ("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
    recorded(os, "rename", lambda old, new: ("name", str(new)))
    recorded(os, "replace", lambda old, new: ("name", str(new)))
    recorded(shutil, "rmtree", lambda path, *rest: ("remove", str(path)))
    return events


def test_a_power_cut_at_any_moment_leaves_a_whole_step(tmp_path, disk):
    """All of step 2 is on disk before step 1 goes: its files, and then the names that make it whole."""
    folder = os.path.realpath(tmp_path)
    with opened(folder, keep_last=1) as checkpoints:
        checkpoints.save(1, make_state(1), {}, wait=True)
        disk.clear()
        checkpoints.save(2, make_state(2), {}, wait=True)
    order = [
        ("sync", f"{folder}/digests/2.json.tmp"),
        ("name", f"{folder}/digests/2.json"),
        ("sync", f"{folder}/digests"),
        ("name", f"{folder}/2"),
        ("sync", folder),
        ("remove", f"{folder}/1"),
    ]
    places = [disk.index(event) for event in order]
    assert places == sorted(places)
    staging, named = f"{folder}/saving-2", disk.index(("name", f"{folder}/2"))
    paths = [
        staging,
        *(os.path.join(staging, os.path.relpath(p, f"{folder}/2")) for p in files_of(tmp_path, 2)),
    ]
    parents = {os.path.dirname(path) for path in paths[1:]}
    assert len(paths) > 8
    assert {path for path in {*paths, *parents} if ("sync", path) not in disk[:named]} == set()


def test_what_a_killed_save_left_is_removed(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "saving-2").mkdir()
    (tmp_path / "saving-2/part").write_text("half of it")
    shutil.copy(tmp_path / "digests/1.json", tmp_path / "digests/2.json")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
    assert sorted(os.listdir(tmp_path)) == ["1", "digests"]
    assert os.listdir(tmp_path / "digests") == ["1.json"]


def test_a_damaged_step_that_was_saved_again_is_one_of_the_last(tmp_path):
    save_steps(tmp_path, 1, 2)
    flip_bit(tmp_path / "2/_METADATA")
    with opened(tmp_path, keep_last=2) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 1
        for step in (2, 3):
            checkpoints.save(step, make_state(step), {}, wait=True)
        assert checkpoints.steps() == [2, 3]


def test_a_manifest_that_was_edited_is_not_believed(tmp_path):
    """Its facts are the run's own, which no file's checksum covers."""
    save_steps(tmp_path, 1)
    path = tmp_path / "digests/1.json"
    assert path.read_text().count("0.5") == 1
    path.write_text(path.read_text().replace("0.5", "0.1"))
    with pytest.raises(DamagedError, match=r"digests/1\.json: its content changed"):
        checkpoint_manifest.read_manifest(str(tmp_path), 1)


def test_steps_are_folders_with_a_number_for_a_name(tmp_path):
    for name in ("12", "3", "saving-4", "digests", "\u0663", "5.json"):
        (tmp_path / name).mkdir()
    assert checkpoint_manifest.steps_in(str(tmp_path)) == [3, 12]
