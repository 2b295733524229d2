#!/usr/bin/env bash
# The whole test suite, or what pytest's arguments choose: ./test.sh tests/unit -k slices
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/setup
exec .venv/bin/pytest "$@"
