#!/usr/bin/env bash
# Make this machine ready to build Glia; called by every target of the Makefile.  Asks nothing, says what it does, and
# does nothing when nothing is missing.
#   tools/deps.sh [--with fuzz|lint|bench] [--no-model]
# 1. distribution packages (apt as root or through sudo; elsewhere the names are listed)
# 2. sources and the demo model, by tools/fetch.py: pinned by version and SHA-256, into .deps/ (or $DEPS)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

with=()
fetch_args=()
while [ $# -gt 0 ]; do
    case "$1" in
        --with) with+=("${2:?--with needs a name}"); shift 2 ;;
        --no-model) fetch_args+=(--no-model); shift ;;
        -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown option $1" ;;
    esac
done

# one line per package: what must be there | Debian and Ubuntu | Homebrew (- : comes with the system)
packages=(
    "cc|build-essential|-"
    "ca-certificates|ca-certificates|-"
    "cmake|cmake|cmake"
    "ninja|ninja-build|ninja"
    "pkg-config|pkg-config|pkgconf"
    "python3|python3|python3"
    "pip|python3-pip|-"
    "libmicrohttpd|libmicrohttpd-dev|libmicrohttpd"
    "libcrypto|libssl-dev|openssl@3"
    "libdeflate|libdeflate-dev|libdeflate"
    "zlib|zlib1g-dev|zlib" # the frame reader in C, for the tests
    "libzstd|libzstd-dev|zstd"
    "sqlite3|libsqlite3-dev|sqlite"
    "wslay|libwslay-dev|wslay"
    "openblas|libopenblas-serial-dev|openblas"
    "cmocka|libcmocka-dev|cmocka"
)
# newer compilers are cached when there is one; not needed
for w in "${with[@]+"${with[@]}"}"; do
    case "$w" in
        fuzz) packages+=("clang|clang|llvm" "libclang_rt|libclang-rt-dev|-") ;;
        lint) packages+=("clang-format|clang-format|clang-format" "clang-tidy|clang-tidy|llvm") ;;
        *) die "unknown extra $w (fuzz, lint)" ;;
    esac
done

deb_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Debian 12 has the compiler's run-time library under a versioned name only
deb_name() {
    if [ "$1" = libclang-rt-dev ]; then
        local v
        v=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
        echo "libclang-rt-${v:-14}-dev"
    else
        echo "$1"
    fi
}

install_deb() {
    local missing=() p name
    for p in "${packages[@]}"; do
        name=$(deb_name "$(cut -d'|' -f2 <<<"$p")")
        deb_installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || die "missing packages, and no sudo here; as root: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    say "installing ${missing[*]}"
    local env=(env DEBIAN_FRONTEND=noninteractive) log
    log=$(mktemp)
    # the lists may be there already; refresh them only when the names are not known or the install fails
    apt_install() {
        "${root[@]+"${root[@]}"}" "${env[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1
    }
    if ! apt_install; then
        "${root[@]+"${root[@]}"}" "${env[@]}" apt-get update -q >>"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; die "apt-get update failed"; }
        apt_install || { cat "$log" >&2; rm -f "$log"; die "apt-get install failed: ${missing[*]}"; }
    fi
    rm -f "$log"
}

list_missing() { # other systems: look for the tools themselves, name what is missing, go on when all is there
    local missing=() brew=() p what
    for p in "${packages[@]}"; do
        what=${p%%|*}
        case "$what" in
            libmicrohttpd|libcrypto|libdeflate|zlib|libzstd|sqlite3|cmocka|openblas) pkg-config --exists "$what" 2>/dev/null && continue ;;
            pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
            wslay) pkg-config --exists libwslay 2>/dev/null && continue ;;
            libclang_rt|ca-certificates) continue ;;
            *) command -v "$what" >/dev/null 2>&1 && continue ;;
        esac
        missing+=("$what")
        [ "$(cut -d'|' -f3 <<<"$p")" = - ] || brew+=("$(cut -d'|' -f3 <<<"$p")")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "missing on this system: ${missing[*]}"
    if [ ${#brew[@]} -gt 0 ]; then say "with Homebrew: brew install ${brew[*]}"; fi
    die "install them with your package manager and run this again"
}

if command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    install_deb
else
    list_missing
fi

python3 tools/fetch.py "${fetch_args[@]+"${fetch_args[@]}"}"
