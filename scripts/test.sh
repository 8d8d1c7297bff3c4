#!/usr/bin/env bash
# Sets up .venv where needed, checks the style and runs the tests. Arguments go to pytest:
#   scripts/test.sh                   the default tests          scripts/test.sh -m slow -s       whole jobs with real weights
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
source .venv/bin/activate
ruff check .
exec python -m pytest -q "$@"
