#!/usr/bin/env bash
# What a user of the package meets: builds the wheel, installs it with its core dependencies into an environment
# that has nothing else, and runs the commands in an empty folder; then asks for recipes from an editable install
# and from a checkout. PYTHON=python3.12 picks the interpreter.
#   tests/wheel/smoke.sh [FOLDER]   FOLDER keeps the environment for the next time; else it goes at the end
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${1:-$work/env}
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=

fail() {
  echo "wheel test: $1" >&2
  [ ! -s "$work/output" ] || tail -n 20 "$work/output" >&2
  exit 1
}

# expect CODE TEXT COMMAND...: the command ends with the code, and what it prints has the text in it.
expect() {
  local code=0 wanted=$1 text=$2
  shift 2
  echo "\$ $*"
  "$@" >"$work/output" 2>&1 </dev/null || code=$?
  [ "$code" = "$wanted" ] || fail "$*: exit code $code, not $wanted"
  grep -qF -- "$text" "$work/output" || fail "$*: printed no '$text'"
}

# Of a copy, since a build leaves files behind that the next one would take up.
mkdir "$work/source"
cp -r "$repo"/{bertjax,configs,pyproject.toml,setup.py,README.md,LICENSE} "$work/source"
"${PYTHON:-python3}" -m venv "$env"
"$env/bin/python" -m pip wheel -q --no-deps --wheel-dir="$work" "$work/source"
# Only the modules that run are compiled, as they are imported.
"$env/bin/python" -m pip install -q --no-compile "$work"/bertjax-*.whl
"$env/bin/python" -m pip install -q --no-compile --no-deps --force-reinstall "$work"/bertjax-*.whl  # of a kept one
"$env/bin/python" -m pip check

begin=$SECONDS
mkdir "$work/empty"
cd "$work/empty"
PATH=$env/bin:$PATH
for i in $(seq 300); do
  echo "word$((i % 7)) is on line $((i % 11)) ."
  echo "the other word$((i % 5)) is not there ."
  echo
done >text.txt

expect 0 "  prepare   " bertjax --help
expect 0 "$(sed -n 's/^__version__ = "\(.*\)"$/bertjax \1/p' "$repo/bertjax/__init__.py")" bertjax --version
expect 2 "bertjax: error: trian: no such command" bertjax trian
expect 2 "bertjax main: error: pretrain_tyni: neither a file nor a shipped recipe; the nearest of those is pretrain_tiny" \
  bertjax main --config=pretrain_tyni
expect 0 "recipes, in $("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bertjax/configs:" \
  bertjax main --help
expect 2 'mwparserfromhell is not installed; run: pip install "bertjax[wikipedia]"' \
  bertjax prepare --input=text.txt --format=wikipedia --vocab_size=100 --out=absent

expect 0 "documents   300" \
  bertjax prepare --input=text.txt --format=sentences --vocab_size=100 --heldout=0.1 --out=store
toy=("--config.model.vocab_size=$(wc -l <store/vocab.txt)" --config.model.hidden_size=32 --config.model.num_hidden_layers=1
  --config.model.intermediate_size 64 --config.train.batch_rows=8 --config.train.accumulation=1
  --config.train.log_every=1 --config.phase2.steps 0 --config.eval.batch_rows=8 --config.eval.max_rows=16)
expect 0 "step 4/4" \
  bertjax main --config=pretrain_tiny --config.data.store=store --config.workdir=run "${toy[@]}" --config.train.steps=4
# The other name of the command, and the other name of the recipe.
expect 2 "bertjax.main: error: --config.train.step: no such field" \
  python -m bertjax.main --config configs/pretrain_tiny.py --config.train.step 6
expect 0 "%" bertjax predict fill-mask --model=run "word1 is [MASK] line 3 ."
expect 2 'h5py is not installed; run: pip install "bertjax[hdf5]"' \
  bertjax predict embed --model=run --out=states.h5 "word1"
expect 0 "is in exported" bertjax convert --from=run --to=exported
expect 0 "run/report.png" bertjax report --workdir=run
for file in store/store.json run/metrics.jsonl run/config.json run/report.png run/vocab.txt \
  exported/config.json exported/model.safetensors exported/vocab.txt; do
  [ -s "$file" ] || fail "$file: missing or empty"
done
expect 0 "%" bertjax predict fill-mask --model=exported "word1 is [MASK] line 3 ."
load='from bertjax.config.files import load; print(load("gpt_swag").task)' # a recipe that loads another one
expect 0 choose python -c "$load"

"$env/bin/python" -m pip uninstall -q -y bertjax
folder=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bertjax
[ ! -e "$folder" ] || fail "$folder: is left by an uninstall, and hides an editable install: $(find "$folder" | head)"

# The recipes are found too where the source stands, installed with -e or not at all.
"$env/bin/python" -m pip install -q --no-deps -e "$work/source"
expect 0 "recipes, in $work/source/configs:" bertjax main --help
expect 0 choose python -c "$load"
"$env/bin/python" -m pip uninstall -q -y bertjax
expect 0 "recipes, in $work/source/configs:" env PYTHONPATH="$work/source" python -m bertjax.main --help
expect 0 choose env PYTHONPATH="$work/source" python -c "$load"
echo "wheel test: passed, commands took $((SECONDS - begin)) s"
