#!/usr/bin/env bash
# Golden tests, rows with and without staging, and capture costs on a machine with neither Debian packages nor a network.
#
#   bench/gpu.sh LLAMA_SOURCE OUT     LLAMA_SOURCE: llama.cpp's source folder; OUT: where results go
#
# Builds llama.cpp with CUDA, libglia and three programs with the compiler alone: libmicrohttpd and libcrypto are not needed.
#   STEPS        what to do (default "build sums unit bench golden"); each has LIMIT seconds (default 180)
#   WORK         build folder (default /tmp/glia-gpu); kept, so that a second run on the machine builds only what is new
#   LLAMA_LIBS   folder with llama.cpp's archives: nothing of it is built
#   PACK=1       puts these archives into OUT (pieces of a compressed .tar, 15 MB each) for a later LLAMA_LIBS
#   CUDA_ARCH    default 90.  CPU=1: no CUDA at all (to try this script)
#   CMOCKA       folder with cmocka.h and libcmocka.so.0 when the system has none; YYJSON: folder with yyjson.c and .h;
#   TINY         folder with the tiny test models, else tools/tiny/mktiny.py makes them
#   MODEL        GGUF file to measure on, else bench/make_model.py writes one with SHAPE (default: 8B-shaped, F16)
#   STAGINGS     (default "auto stops off")   ROUNDS (default 5)   GPU_TOLERANCE (default 1.5e-2)
set -euo pipefail
src=$(cd "$1" && pwd) out=$2
here=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK:-/tmp/glia-gpu}
steps=${STEPS:-build sums unit bench golden} limit=${LIMIT:-180}
cmocka=${CMOCKA:-/usr/include} yyjson=${YYJSON:-$here/.deps/src/yyjson}
layers=-1
[ -z "${CPU:-}" ] || layers=0
mkdir -p "$work/o" "$out"
out=$(cd "$out" && pwd)
wants() { case " $steps " in *" $1 "*) return 0 ;; *) return 1 ;; esac }
say() { echo "[$SECONDS s] $*"; }
# a failing step is told, and the next ones still run
step() {
    local name=$1 rc=0
    shift
    say "$name"
    timeout -k 5 "$limit" "$@" >"$out/$name.txt" 2>&1 || rc=$?
    [ $rc = 0 ] || { say "$name ended with status $rc"; tail -15 "$out/$name.txt"; }
}

make_model() {
    model=${MODEL:-$work/random-8b.gguf}
    # shellcheck disable=SC2086
    [ -s "$model" ] || { python3 bench/make_model.py "$model.part" ${SHAPE:-} && mv "$model.part" "$model"; }
}

build_llama() {
    [ -z "${LLAMA_LIBS:-}" ] || return 0
    [ ! -e "$work/llama/ready" ] || return 0
    local cuda=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCH:-90}")
    [ -z "${CPU:-}" ] || cuda=()
    cmake -S "$src" -B "$work/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF "${cuda[@]}" \
        -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF >"$out/configure.log" 2>&1 || { tail -20 "$out/configure.log"; exit 1; }
    cmake --build "$work/llama" --target llama ggml llama-common -j "$(nproc)" >"$out/build.log" 2>&1 ||
        { tail -20 "$out/build.log"; exit 1; }
    touch "$work/llama/ready"
}

pack() {
    local by=(gzip -1)
    ! command -v xz >/dev/null || by=(xz -T0 -1)
    ! command -v zstd >/dev/null || by=(zstd -q -T0 -8)
    (cd "$1" && find . -name '*.a' | tar -cf - -T - | "${by[@]}" | split -b 15000000 -d - "$out/llama-libs.tar.${by[0]}.")
}

build_glia() {
    local c=(gcc -O2 -std=c17 -D_GNU_SOURCE -Iinclude -Isrc -Itests/unit -isystem "$src/include" -isystem "$src/ggml/include"
             -isystem "$src/ggml/src" -isystem "$cmocka" -isystem "$yyjson")
    local f jobs=0
    for f in src/base/*.c src/tap/*.c src/engine/*.c src/engine/*/*.c bench/gpu/no_atlas_cache.c; do
        [ "$f" != src/engine/atlas_cache.c ] || continue
        "${c[@]}" -c "$f" -o "$work/o/$(echo "$f" | tr / _).o" &
        jobs=$((jobs + 1))
        [ $((jobs % $(nproc))) != 0 ] || wait
    done
    g++ -O2 -std=c++17 -Iinclude -Isrc -isystem "$src/include" -isystem "$src/ggml/include" -isystem "$src/common" \
        -isystem "$src/src" -isystem "$src/vendor" -c src/engine/chat_bridge.cpp -o "$work/o/bridge.o"
    gcc -O2 -w -c "$yyjson/yyjson.c" -o "$work/yyjson.obj"
    for f in bench/bench_tap tests/golden/test_golden tests/unit/test_staging tests/unit/support; do
        "${c[@]}" -w -c "$f.c" -o "$work/$(basename $f).obj"
    done
    wait
}

link_programs() {
    local libs cuda=() p home=${CUDA_HOME:-/usr/local/cuda}
    mapfile -t libs < <(find "${LLAMA_LIBS:-$work/llama}" -name '*.a')
    [ -n "${CPU:-}" ] || cuda=(-L"$home/lib64" -L"$home/lib64/stubs" -lcudart -lcublas -lcuda)
    local so
    so=$(find "$cmocka" /usr/lib/x86_64-linux-gnu -maxdepth 1 -name 'libcmocka.so*' 2>/dev/null | head -1 || true)
    for p in bench_tap test_golden test_staging; do
        local own=()
        [ $p = bench_tap ] || own+=("$so")
        [ $p != test_golden ] || own+=("$work/yyjson.obj")
        [ $p != test_staging ] || own+=("$work/support.obj")
        g++ "$work/$p.obj" "$work"/o/*.o "${own[@]}" -Wl,--start-group "${libs[@]}" -Wl,--end-group "${cuda[@]}" \
            -fopenmp -lpthread -ldl -lm -o "$work/$p"
    done
}

cd "$here"
export LD_LIBRARY_PATH=$cmocka:${LD_LIBRARY_PATH:-} GLIA_SOURCE_DIR=$here
tiny=${TINY:-$work/tiny}
[ -d "$tiny" ] || { mkdir -p "$tiny" && python3 tools/tiny/mktiny.py --all "$tiny"; }
export GLIA_TINY_DIR=$tiny
if wants build; then
    say "building"
    make_model &
    build_glia &
    [ -n "${CPU:-}" ] || python3 bench/gpu/bus.py >"$out/bus.txt" 2>&1 &
    build_llama
    say "llama.cpp is built"
    wait
    link_programs
    say "programs are linked"
    ! [ -s "$out/bus.txt" ] || tail -1 "$out/bus.txt"
    [ -z "${PACK:-}" ] || pack "${LLAMA_LIBS:-$work/llama}"
fi
make_model
bench() { echo "$work/bench_tap" --model "$model" --gpu-layers $layers --no-attention; }
if wants sums; then # the same rows, whichever way they leave: a sum over all bytes of each set of hooks
    for s in ${STAGINGS:-auto stops off}; do
        # shellcheck disable=SC2046
        step "sums-$s" $(bench) --staging "$s" --decode 16 --sums
        grep ^sum "$out/sums-$s.txt" >"$out/sums-$s.only" || true
    done
    for s in ${STAGINGS:-auto stops off}; do
        cmp -s "$out/sums-$s.only" "$out/sums-off.only" && [ -s "$out/sums-$s.only" ] && say "staging $s: the same rows as off" ||
            say "staging $s: OTHER ROWS than off"
    done
fi
if wants unit; then
    GLIA_TEST_GPU_LAYERS=$layers step unit "$work/test_staging"
    grep -E "OK|PASSED|FAILED|ERROR" "$out/unit.txt" || true
fi
if wants bench; then
    for s in ${STAGINGS:-auto stops off}; do
        # shellcheck disable=SC2046
        step "bench-$s" $(bench) --staging "$s" --rounds "${ROUNDS:-5}"
        sed "s/^/$s: /" "$out/bench-$s.txt"
    done
fi
if wants golden; then
    GLIA_TEST_GPU_LAYERS=$layers GLIA_TEST_TOLERANCE="${GPU_TOLERANCE:-1.5e-2}" step golden "$work/test_golden"
    grep -E "PASSED|FAILED|ERROR" "$out/golden.txt" | head -20 || true
fi
wait
say "done"
