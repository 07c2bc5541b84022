#!/usr/bin/env bash
# Trains on a TPU slice of several hosts: the same command on every host. See docs/launch.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_slice.sh --project=PROJECT --zone=ZONE --name=NAME [FLAG...] --config=FILE [--config.FIELD=VALUE...]
launch/tpu_slice.sh --project=PROJECT --zone=ZONE --name=NAME --tail | --stop

Sends the committed source to every host of a TPU slice, installs it there, starts
`python -m bertjax.main` on all of them in the background and follows the first host's log
(Ctrl-C ends the following, not the run). config.workdir and config.data.store must be the same
files on every host.

  --create=ACCELERATOR  make the slice first, such as v5litepod-16; without it NAME must exist
  --version=RUNTIME     software image for --create, such as v2-alpha-tpuv5-lite
  --setup=COMMAND       run on every host before the installation, such as a copy of the token store
  --tail                follow the first host's log of the run that is going
  --stop                end the run with SIGTERM: it saves its state, the same command continues it
  --dry-run             print the commands, run nothing
  --help                this text
TEXT
}

HOSTS=all
PROCESS_ENV=BERTJAX_COORDINATOR=auto
# shellcheck source=launch/tpu_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_common.sh"
main "$@"
