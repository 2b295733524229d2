#!/usr/bin/env bash
# A whole cluster on this machine: two API nodes and four workers, fed with random users, shown live and checked.
# Takes the options of `tallyslice up --feed`: --seconds, --rate, --exit, ... (./testrun.sh --help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup --runtime
exec .venv/bin/tallyslice up --feed "$@"
