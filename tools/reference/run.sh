#!/bin/sh
# run.sh - make tests/golden anew: virtual environment in .deps/venv-reference, then make_goldens.py, check.py.
# Needs Python 3.11 or newer, about 6 GB of disk and llama.cpp's source in .deps/src/llama.cpp.
#   run.sh [FAMILY ...] [--out DIR]        goldens of all or of some families
#   run.sh --recipes [FAMILY ...]          first measure the converter anew: tools/tiny/recipes, with a seed search
#   run.sh --mlx                           the second reference, mlx-lm, in a virtual environment of its own (350 MB)
# PYTHON chooses the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# enter NAME REQUIREMENTS: the virtual environment .deps/NAME with these packages
enter() {
    venv=$here/../../.deps/$1
    if ! cmp -s "$here/$2" "$venv/requirements.txt"; then
        "${PYTHON:-python3}" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/$2"
        cp "$here/$2" "$venv/requirements.txt"
    fi
}

export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --mlx ]; then
    enter venv-mlx requirements-mlx.txt
    OMP_NUM_THREADS=1 nice "$venv/bin/python" "$here/make_mlx.py"
    exec "$venv/bin/python" "$here/check.py"
fi
enter venv-reference requirements.txt
if [ "${1:-}" = --recipes ]; then
    shift
    nice "$venv/bin/python" "$here/make_recipes.py" "$@"
fi
nice "$venv/bin/python" "$here/make_goldens.py" "$@"
case " $* " in
*" --out"*) ;;                      # check.py looks at tests/golden
*) "$venv/bin/python" "$here/check.py" ;;
esac
