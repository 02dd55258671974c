#!/bin/sh
# Build .venv from the locks: make setup (sh scripts/setup.sh); make setup-dev (sh scripts/setup.sh dev) adds what tests,
# loggers and benchmarks want; make setup-vllm (sh scripts/setup.sh vllm) builds .venv-vllm beside it. Needs CPython 3.11 or 3.12, pip, Linux x86-64. Does nothing when .venv already holds these
# very locks; a stopped set-up resumes.
set -eu
cd "$(dirname "$0")/.."
stop() { printf 'error: %s\n' "$*" >&2; exit 1; }

locks=requirements.txt
[ "${1:-}" != dev ] || locks="requirements.txt requirements-dev.txt"
wanted=$(cat $locks | sha256sum | cut -d' ' -f1)
[ "${1:-}" = vllm ] || case " $(cat .venv/.locks 2>/dev/null || true) " in *" $wanted "*) exit 0 ;; esac

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    stop "this is $(uname -s)-$(uname -m); the locks hold builds for Linux x86-64 (Windows: use WSL 2)"
right='import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info[:2] not in ((3, 11), (3, 12)))'
python=
for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if "$name" -c "$right" 2>/dev/null; then python=$name; break; fi
done
[ -n "$python" ] || stop "found no CPython 3.11 or 3.12 (looked for ${PYTHON:-python3.11, python3.12, python3}); install one, or name it: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || stop "$python has no venv module; on Debian: apt install python3-venv"

# A sync through a link would change somebody else's environment.
[ ! -L .venv ] || stop ".venv is a link to $(readlink .venv) and holds other packages than the locks; run make setup there"

if [ ! -e .venv/.locks ]; then
    free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
    [ "$free" -ge 12 ] || stop "$free GiB free here; the environment takes 8 GiB and its download cache 3 more"
    echo "Setting up .venv with $("$python" -V) (once; 6 GiB on disk)."
fi
if [ "${1:-}" = vllm ]; then
    wanted=$(sha256sum requirements-vllm.txt | cut -d' ' -f1)
    [ "$(cat .venv-vllm/.locks 2>/dev/null || true)" != "$wanted" ] || exit 0
    echo "Setting up .venv-vllm (once; a 4 GB download, 8 GiB on disk)."
    [ -x .venv/bin/uv ] || sh scripts/setup.sh
    .venv/bin/uv venv -q --clear --python "$python" .venv-vllm
    { VIRTUAL_ENV=.venv-vllm .venv/bin/uv pip install -r requirements-vllm.txt && echo "$wanted" > .venv-vllm/.locks; } 2>&1 |
        sed -u '/^ [+~-] /d'
    [ -e .venv-vllm/.locks ] || stop "vLLM could not be installed; see above"
    .venv-vllm/bin/python -c "import vllm; print('vLLM', vllm.__version__)"
    exit 0
fi
for lock in $locks; do sed -n '1s/^# //p' "$lock"; done
"$python" -c "$right" && [ -x .venv/bin/python ] && .venv/bin/python -c "$right" 2>/dev/null || "$python" -m venv --clear .venv
.venv/bin/uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install -q "$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.in)"
# Sync, not install: a package that left the locks leaves .venv too. Downloads are shown, not the 200 names installed.
{ VIRTUAL_ENV=.venv .venv/bin/uv pip sync --require-hashes $locks && touch .venv/.synced; } 2>&1 | sed -u '/^ [+~-] /d'
[ -e .venv/.synced ] || stop "the packages could not be installed; see above, then run the same command again"
rm .venv/.synced
echo "$(sha256sum requirements.txt | cut -d' ' -f1) $wanted" > .venv/.locks
