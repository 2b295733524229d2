#!/usr/bin/env bash
# The whole test suite, or what pytest's arguments choose: ./test.sh tests/unit -k slices
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup
# All of it in two processes: most tests wait for nodes most of the time. Files stay whole, since the tests of many
# share a cluster.
(( $# )) || set -- --numprocesses 2 --dist loadfile
exec .venv/bin/pytest "$@"
