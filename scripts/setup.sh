#!/bin/sh
# Build .venv from requirements.txt: make setup (sh scripts/setup.sh). Needs CPython 3.11 or 3.12, pip, Linux x86-64.
# Does nothing when .venv already holds this very lock; a stopped set-up goes on where it was.
set -eu
cd "$(dirname "$0")/.."
stop() { printf 'error: %s\n' "$*" >&2; exit 1; }

lock=$(sha256sum requirements.txt | cut -d' ' -f1)
[ "$(cat .venv/.lock 2>/dev/null || true)" = "$lock" ] && exit 0

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    stop "this is $(uname -s)-$(uname -m); the lock holds builds for Linux x86-64 (Windows: use WSL 2)"
right='import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info[:2] not in ((3, 11), (3, 12)))'
python=
for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if "$name" -c "$right" 2>/dev/null; then python=$name; break; fi
done
[ -n "$python" ] || stop "found no CPython 3.11 or 3.12 (looked for ${PYTHON:-python3.11, python3.12, python3}); install one, or name it: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "$python has no venv module; on Debian: apt install python3-venv"

free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
[ "$free" -ge 12 ] || stop "$free GiB free here; the environment takes 8 GiB and its download cache 3 more"
echo "Setting up .venv with $("$python" -V) (once; 8 GiB on disk)."
sed -n '1s/^# //p' requirements.txt
"$python" -c "$right" && [ -x .venv/bin/python ] && .venv/bin/python -c "$right" 2>/dev/null || "$python" -m venv --clear .venv
.venv/bin/uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install -q "$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.in)"
VIRTUAL_ENV=.venv .venv/bin/uv pip sync --require-hashes requirements.txt
echo "$lock" > .venv/.lock
