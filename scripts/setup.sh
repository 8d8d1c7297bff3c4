#!/usr/bin/env bash
# Makes .venv in the project and installs the project there, editable, with everything it can use.
# Needs Python 3.10 to 3.12, a C compiler and the package registries. Safe to run again: it does nothing when
# pyproject.toml has not changed since the last complete run.
#   scripts/setup.sh                  PYTHON=python3.12 scripts/setup.sh                  EXTRAS=mpi scripts/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
extras=${EXTRAS:-all}

"$python" - <<'PY' || exit 1
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"setup.sh: Python {sys.version.split()[0]} is not supported (3.10 to 3.12 are); "
             "name another one: PYTHON=python3.11 scripts/setup.sh")
PY

stamp=.venv/installed
wanted="$extras $(cksum < pyproject.toml)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c "import DDA, torch" 2>/dev/null; then
    echo "setup.sh: .venv is up to date"
    exit 0
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
# mmcv's setup.py imports pkg_resources, which setuptools 81 dropped. The constraint reaches build environments in old pip
# (PIP_CONSTRAINT) and in new pip (PIP_BUILD_CONSTRAINT).
constraints=$PWD/.venv/build-constraints.txt
echo "setuptools<81" > "$constraints"
export PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints PIP_DISABLE_PIP_VERSION_CHECK=1
echo "setup.sh: installing into .venv (a few minutes the first time; torch alone is some gigabytes)"
.venv/bin/python -m pip install --quiet --editable ".[$extras]"
echo "$wanted" > "$stamp"
echo "setup.sh: done. Use it with: source .venv/bin/activate"
