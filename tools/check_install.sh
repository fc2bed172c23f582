#!/usr/bin/env bash
# Install a build into an empty folder and use it as a stranger would: run the program, read the man page's place,
# compile and run a C program through pkg-config.      tools/check_install.sh <build folder>
set -euo pipefail
build=${1:?usage: tools/check_install.sh <build folder>}
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT

cmake --install "$build" --prefix "$prefix" >"$prefix/install.log" || { cat "$prefix/install.log"; exit 1; }
test -f "$prefix/share/man/man1/glia.1" || { echo "no man page"; exit 1; }
test -f "$prefix/include/glia.h" || { echo "no header"; exit 1; }
"$prefix/bin/glia" --version || "$prefix/bin/glia" version

cat >"$prefix/stranger.c" <<'C'
#include <glia.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    glia_model_params p;
    glia_model_params_init(&p);
    p.path = "/nonexistent.gguf";
    glia_model *m = NULL;
    glia_err err;
    glia_status st = glia_model_open(&m, &p, &err);
    printf("libglia %s, llama.cpp %s: %s\n", glia_version(), glia_llama_version(), err.message);
    return st != GLIA_OK && !m && !strcmp(glia_version(), GLIA_VERSION) ? 0 : 1;
}
C
pc=$(find "$prefix" -name glia.pc)
export PKG_CONFIG_PATH="${pc%/*}"
# glia.pc names the prefix given at configure time; look where it was installed now
flags=$(pkg-config --define-variable=prefix="$prefix" --cflags --libs glia)
# shellcheck disable=SC2086
${CC:-cc} -std=c17 -o "$prefix/stranger" "$prefix/stranger.c" $flags
"$prefix/stranger"
echo "install: ok"
