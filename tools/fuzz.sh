#!/usr/bin/env bash
# Run every fuzzer of a GLIA_FUZZ build for some seconds.      tools/fuzz.sh <build folder> [seconds each]
# Starts from tests/fuzz/corpus/<name>, keeps what it learns in <build>/corpus/<name>, leaves crashing inputs in
# <build>/finds/.  Move those to tests/fuzz/corpus/<name>/ together with the fix: `make test` replays them.
set -euo pipefail
build=${1:?usage: tools/fuzz.sh <build folder> [seconds]}
seconds=${2:-60}
passed=0 failed=0
mkdir -p "$build/finds"
for fuzzer in "$build"/fuzz/fuzz_*; do
    [ -x "$fuzzer" ] || continue
    name=${fuzzer##*/fuzz_}
    mkdir -p "$build/corpus/$name"
    folders=("$build/corpus/$name")
    [ ! -d "tests/fuzz/corpus/$name" ] || folders+=("tests/fuzz/corpus/$name")
    extra=()
    [ ! -f "tests/fuzz/$name.dict" ] || extra+=("-dict=tests/fuzz/$name.dict")
    printf 'fuzz: %s for %s s\n' "$name" "$seconds"
    if "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$build/finds/$name-" "${extra[@]+"${extra[@]}"}" "${folders[@]}" >"$build/fuzz-$name.log" 2>&1; then
        grep -E 'number_of_executed_units|new_units_added' "$build/fuzz-$name.log" || true
        passed=$((passed + 1))
    else
        tail -n 60 "$build/fuzz-$name.log"
        failed=$((failed + 1))
    fi
done
[ $((passed + failed)) -gt 0 ] || { echo "fuzz: no fuzzers (tests/fuzz/fuzz_*.c)"; exit 1; }
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
