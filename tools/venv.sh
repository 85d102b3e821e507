#!/bin/sh
# A virtual environment at $1 with the Python $2, on machines without the venv module too.
set -eu
[ -x "$1/bin/pip" ] && exit 0
rm -rf "$1"
"$2" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Parley needs Python 3.11 or newer; $2 is $("$2" -V). Try: make PYTHON=python3.12 …" >&2
    exit 1
}
echo "making $1"
"$2" -m venv "$1" 2>/dev/null && exit 0
# Debian's Python comes without ensurepip: the virtualenv package brings its own.
rm -rf "$1"
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
"$2" -m pip install --quiet --target "$tool" virtualenv
PYTHONPATH="$tool" "$2" -m virtualenv --quiet "$1"
