#!/usr/bin/env bash
# tools/lint.sh tidy <build folder>   clang-tidy over src/ with the flags of that build; exit status 1 on findings
# tools/lint.sh format                clang-format, in place, over our C and C++
# tools/lint.sh check-format          say which files clang-format would change
set -euo pipefail
cd "$(dirname "$0")/.."
sources() { find include src tests bench cmake -type f \( -name '*.c' -o -name '*.h' -o -name '*.cpp' \) 2>/dev/null | sort; }
case "${1:-}" in
    tidy)
        build=${2:?build folder}
        find src -type f \( -name '*.c' -o -name '*.cpp' \) | sort |
            xargs -P "${JOBS:-2}" -n 1 clang-tidy -p "$build" --quiet --warnings-as-errors='*' ;;
    format) sources | xargs clang-format -i ;;
    check-format) sources | xargs clang-format --dry-run ;;
    *) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
