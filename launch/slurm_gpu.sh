#!/usr/bin/env bash
# Trains on the GPUs of one or several SLURM nodes. See docs/launch.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/slurm_gpu.sh --nodes=N --gpus=G [FLAG...] --config=FILE [--config.FIELD=VALUE...]

Submits one job with sbatch: `python -m bertjax.main` on N nodes with G GPUs each, one process per GPU.
config.workdir, config.data.store and this folder must be the same files on every node.

  --nodes=N           nodes
  --gpus=G            GPUs on each node
  --per=gpu|node      one process per GPU (default), or one per node that drives all its GPUs
  --python=FILE       the interpreter (default: .venv/bin/python in this repository)
  --sbatch=OPTION     one more option for sbatch, such as --sbatch=--partition=NAME; may be repeated
  --dry-run           print the command, run nothing
  --help              this text

Two minutes before the time limit the run gets SIGTERM and saves its state; the same command continues it.
TEXT
}

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
nodes='' gpus='' per=gpu python=$repo/.venv/bin/python sbatch_args=() main_args=()
while [ $# -gt 0 ]; do
  case $1 in
    --help) usage; exit 0 ;;
    --nodes=?*) nodes=${1#*=} ;;
    --gpus=?*) gpus=${1#*=} ;;
    --per=gpu | --per=node) per=${1#*=} ;;
    --per=*) fail "$1: must be --per=gpu or --per=node" ;;
    --python=?*) python=${1#*=} ;;
    --sbatch=-?*) sbatch_args+=("${1#*=}") ;;
    --dry-run) dry_run=yes ;;
    --config=?* | --config.?*=*) main_args+=("$1") ;;
    *) fail "$1: not understood; see launch/slurm_gpu.sh --help" ;;
  esac
  shift
done
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes=$nodes: give the number of nodes, such as --nodes=2"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "--gpus=$gpus: give the number of GPUs on each node, such as --gpus=8"
case " ${main_args[*]-} " in
  *" --config="*) ;;
  *) fail "no config; use --config=FILE, such as --config=configs/pretrain_tiny.py" ;;
esac
if [ "$dry_run" = no ]; then
  [ -x "$python" ] || fail "$python: no such interpreter; use --python=FILE"
  command -v sbatch >/dev/null || fail "sbatch is not installed; run this on a SLURM login node"
fi

# jax.distributed takes the coordinator, the process count and the process number from srun's variables.
# It gives each process the one GPU of its local number, unless JAX_LOCAL_DEVICE_IDS says otherwise; every
# process must therefore see all the GPUs of its node, which is why none is bound to a task.
if [ "$per" = gpu ]; then
  tasks=$gpus devices=''
else
  tasks=1 devices="JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1))) "
fi
step="${devices}srun --kill-on-bad-exit=1 --gpu-bind=none $(quote "$python" -m bertjax.main "${main_args[@]}")"
run sbatch --job-name=bertjax "--nodes=$nodes" "--ntasks-per-node=$tasks" "--gpus-per-node=$gpus" \
  "--chdir=$repo" --output=bertjax-%j.log --signal=TERM@120 \
  ${sbatch_args[@]+"${sbatch_args[@]}"} "--wrap=$step"
