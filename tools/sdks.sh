#!/usr/bin/env bash
# Install the clients that the API tests run (OpenAI, Anthropic, LM Studio; Python and JavaScript) into .deps/sdk, pinned
# by version and checksum (tests/api/requirements.txt, tests/api/js/package-lock.json).  Does nothing when they are
# there.  Without npm the JavaScript ones are left out, and their tests say `skip:`.
set -euo pipefail
cd "$(dirname "$0")/.."
deps=${DEPS:-.deps}
sdk=$deps/sdk
mkdir -p "$sdk"
exec 9>"$deps/.lock"
flock 9

want=$(cat tests/api/requirements.txt <(python3 -V) | sha256sum)
if [ "$(cat "$sdk/python.stamp" 2>/dev/null)" != "$want" ]; then
    echo "deps: installing the Python clients for the API tests"
    rm -rf "$sdk/python" "$sdk/python.stamp"
    python3 -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: --require-hashes --no-deps \
        --root-user-action=ignore --target "$sdk/python" -r tests/api/requirements.txt
    echo "$want" >"$sdk/python.stamp"
fi

command -v npm >/dev/null 2>&1 || { echo "deps: no npm: the JavaScript clients are not tested"; exit 0; }
want=$(cat tests/api/js/package-lock.json <(node -v) | sha256sum)
if [ "$(cat "$sdk/js.stamp" 2>/dev/null)" != "$want" ]; then
    echo "deps: installing the JavaScript clients for the API tests"
    rm -rf "$sdk/js" "$sdk/js.stamp"
    mkdir -p "$sdk/js"
    cp tests/api/js/package.json tests/api/js/package-lock.json "$sdk/js/"
    (cd "$sdk/js" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    echo "$want" >"$sdk/js.stamp"
fi
