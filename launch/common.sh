# shellcheck shell=bash
# Sourced by the launch scripts.

program=$(basename "$0")
# shellcheck disable=SC2034 # used by the scripts
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=no

fail() {
  echo "$program: error: $1" >&2
  exit 2
}

# The arguments as a line that a shell reads back as the same arguments.
quote() {
  local arg line=
  for arg in "$@"; do
    if [[ ! $arg =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      arg="'$(printf '%s' "$arg" | sed "s/'/'\\\\''/g")'"
    fi
    line+=" $arg"
  done
  printf '%s' "${line# }"
}

# Runs a command, or only prints it under --dry-run.
run() {
  if [ "$dry_run" = yes ]; then
    quote "$@"
    echo
  else
    "$@"
  fi
}
