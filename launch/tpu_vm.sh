#!/usr/bin/env bash
# Trains on one TPU VM. See docs/launch.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh --project=PROJECT --zone=ZONE --name=NAME [FLAG...] --config=FILE [--config.FIELD=VALUE...]
launch/tpu_vm.sh --project=PROJECT --zone=ZONE --name=NAME --tail | --stop

Sends the committed source to a TPU VM, installs it there, starts `python -m bertjax.main` in the
background and follows its log (Ctrl-C ends the following, not the run).

  --create=ACCELERATOR  make the TPU first, such as v5litepod-8; without it NAME must exist
  --version=RUNTIME     software image for --create, such as v2-alpha-tpuv5-lite
  --setup=COMMAND       run on the TPU VM before the installation, such as a copy of the token store
  --tail                follow the log of the run that is going
  --stop                end the run with SIGTERM: it saves its state, the same command continues it
  --dry-run             print the commands, run nothing
  --help                this text
TEXT
}

HOSTS=0
PROCESS_ENV=''
# shellcheck source=launch/tpu_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_common.sh"
main "$@"
