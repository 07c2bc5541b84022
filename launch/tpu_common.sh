# shellcheck shell=bash
# Sourced by tpu_vm.sh and tpu_slice.sh, which set HOSTS ("0" or "all") and PROCESS_ENV
# (variables for the run). HOSTS is gcloud's --worker.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

on_workers() { # on_workers WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" --project="$project" --zone="$zone" --worker="$1" --command="$2"
}

parse() {
  project='' zone='' name='' create='' version='' setup='' action='run' dry_run=no main_args=()
  while [ $# -gt 0 ]; do
    case $1 in
      --help) usage; exit 0 ;;
      --project=?*) project=${1#*=} ;;
      --zone=?*) zone=${1#*=} ;;
      --name=?*) name=${1#*=} ;;
      --create=?*) create=${1#*=} ;;
      --version=?*) version=${1#*=} ;;
      --setup=?*) setup=${1#*=} ;;
      --tail) action='tail' ;;
      --stop) action='stop' ;;
      --dry-run) dry_run=yes ;;
      --config=?* | --config.?*=*) main_args+=("$1") ;;
      *) fail "$1: not understood; see launch/$program --help" ;;
    esac
    shift
  done
  [ -n "$project" ] || fail "no project; use --project=PROJECT"
  [ -n "$zone" ] || fail "no zone; use --zone=ZONE"
  [ -n "$name" ] || fail "no TPU name; use --name=NAME"
  if [ $action = run ]; then
    case " ${main_args[*]-} " in
      *" --config="*) ;;
      *) fail "no config; use --config=FILE, such as --config=configs/pretrain_tiny.py" ;;
    esac
    [ -z "$create" ] || [ -n "$version" ] || fail "--create needs the runtime; use --version=RUNTIME"
    [ -z "$version" ] || [ -n "$create" ] || fail "--version is for --create=ACCELERATOR, which is not given"
  else
    [ ${#main_args[@]} -eq 0 ] || fail "--$action takes no --config"
    [ -z "$create$version$setup" ] || fail "--$action takes no --create, --version or --setup"
  fi
  if [ $dry_run = no ]; then
    command -v gcloud >/dev/null || fail "gcloud is not installed; it is part of the Google Cloud SDK"
  fi
}

follow() { # The log of the first worker, until its run ends.
  # shellcheck disable=SC2016 # expanded on the worker
  on_workers 0 'cd bertjax && tail -n +1 --follow=name --retry --pid="$(cat run.pid)" run.log'
}

start() {
  if [ -n "$create" ]; then
    run gcloud compute tpus tpu-vm create "$name" --project="$project" --zone="$zone" \
      --accelerator-type="$create" --version="$version"
  fi
  # What is committed is what runs, so that a result can be traced to a commit.
  if [ -n "$(git -C "$repo" status --porcelain 2>/dev/null)" ]; then
    echo "$program: note: uncommitted changes are not sent" >&2
  fi
  if [ "$dry_run" = no ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
  else
    folder=/tmp
  fi
  run git -C "$repo" archive --format=tar.gz --output="$folder/bertjax.tar.gz" HEAD
  # A second run would share the first one's folder and devices.
  # shellcheck disable=SC2016 # expanded on the worker
  on_workers "$HOSTS" 'if kill -0 "$(cat bertjax/run.pid 2>/dev/null)" 2>/dev/null; then echo "a run is already going here; follow it with --tail or end it with --stop" >&2; exit 2; fi; mkdir -p bertjax'
  run gcloud compute tpus tpu-vm scp "$folder/bertjax.tar.gz" "$name:bertjax.tar.gz" \
    --project="$project" --zone="$zone" --worker="$HOSTS"
  if [ -n "$setup" ]; then
    on_workers "$HOSTS" "$setup"
  fi
  # TPU images may have an older Python than the package needs; uv brings one.
  # shellcheck disable=SC2016 # expanded on the worker
  on_workers "$HOSTS" 'set -e; tar -xzf bertjax.tar.gz -C bertjax; cd bertjax; PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv; [ -d .venv ] || python3 -m uv venv --python 3.11 .venv; python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu]"'
  command="${PROCESS_ENV:+env $PROCESS_ENV }.venv/bin/python -m bertjax.main $(quote "${main_args[@]}")"
  on_workers "$HOSTS" "cd bertjax && { nohup $command >run.log 2>&1 </dev/null & echo \$! >run.pid; }"
  follow
}

stop() { # SIGTERM: the run saves its state and ends; the same command again continues it.
  # shellcheck disable=SC2016 # expanded on the worker
  on_workers "$HOSTS" 'kill -TERM "$(cat bertjax/run.pid)"'
}

main() {
  parse "$@"
  case $action in
    run) start ;;
    tail) follow ;;
    stop) stop ;;
  esac
}
