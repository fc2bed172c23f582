#!/bin/sh
# run.sh - make tests/golden anew: virtual environment in .deps/venv-reference, then make_goldens.py, check.py.
# Needs Python 3.11 or newer, about 6 GB of disk and llama.cpp's source in .deps/src/llama.cpp.
# Arguments go to make_goldens.py, e.g. --out DIR --llama-cpp DIR.  PYTHON chooses the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../.deps/venv-reference
stamp=$venv/requirements.txt

if ! cmp -s "$here/requirements.txt" "$stamp"; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$stamp"
fi

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
nice "$venv/bin/python" "$here/make_goldens.py" "$@"
case " $* " in
*" --out"*) ;;                      # check.py looks at tests/golden
*) "$venv/bin/python" "$here/check.py" ;;
esac
