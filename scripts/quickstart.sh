#!/usr/bin/env bash
# The whole method on handwritten digits, from nothing: no download, no GPU, some minutes on two cores. It trains a classifier and a
# small prior on clean digits, adapts degraded ones under mpiexec, distils one student for degraded and one for adapted digits from
# teachers of three known degradations, and shows what each does on held-out digits under other degradations and levels.
# Safe to run again: finished stages are skipped, a stopped one goes on. Other settings: scripts/pipeline.py --help.
#   scripts/quickstart.sh             scripts/quickstart.sh --set out=elsewhere prior.minutes=10
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
source .venv/bin/activate
exec scripts/pipeline.py scripts/pipelines/digits.yaml "$@"
