#!/usr/bin/env bash
# Golden tests and capture costs on a CUDA machine that has neither Debian packages nor a network.
#
#   bench/gpu.sh LLAMA_SOURCE OUT     LLAMA_SOURCE: llama.cpp's source folder; OUT: where results go
#
# Builds llama.cpp with CUDA (architecture in CUDA_ARCH, default 90), libglia and two programs with the compiler alone:
# libmicrohttpd is not needed.  CMOCKA names a folder with cmocka.h and libcmocka.so.0 when the system has none.
set -euo pipefail
src=$1 out=$2
here=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK:-/tmp/glia-gpu}
cmocka=${CMOCKA:-/usr/include}
mkdir -p "$work/o" "$out"
cmake -S "$src" -B "$work/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCH:-90}" -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_SUBPROCESS=OFF \
    -DLLAMA_USE_PREBUILT_UI=OFF >"$out/configure.log" 2>&1 || { tail -20 "$out/configure.log"; exit 1; }
cmake --build "$work/llama" --target llama ggml llama-common -j "$(nproc)" >"$out/build.log" 2>&1 || { tail -20 "$out/build.log"; exit 1; }
cd "$here"
c=(gcc -O2 -std=c17 -D_GNU_SOURCE -Iinclude -Isrc -Itests/unit -isystem "$src/include" -isystem "$src/ggml/include" -isystem "$cmocka")
for f in src/base/*.c src/tap/*.c src/engine/*.c; do "${c[@]}" -c "$f" -o "$work/o/$(echo "$f" | tr / _).o"; done
g++ -O2 -std=c++17 -Iinclude -Isrc -isystem "$src/include" -isystem "$src/ggml/include" -isystem "$src/common" -isystem "$src/src" \
    -isystem "$src/vendor" -c src/engine/chat_bridge.cpp -o "$work/o/bridge.o"
mapfile -t libs < <(find "$work/llama" -name '*.a')
cuda=${CUDA_HOME:-/usr/local/cuda}
nccl=() # ggml uses it where its headers were found
grep -q "GGML_CUDA_NCCL:BOOL=ON" "$work/llama/CMakeCache.txt" && ldconfig -p | grep -q libnccl && nccl=(-lnccl)
link() { # link OBJECT PROGRAM [LIB...]
    local object=$1 program=$2
    shift 2
    g++ "$object" "$work"/o/*.o -Wl,--start-group "${libs[@]}" -Wl,--end-group "$@" -L"$cuda/lib64" -L"$cuda/lib64/stubs" \
        "${nccl[@]}" -lcudart -lcublas -lcuda -fopenmp -lpthread -ldl -lm -o "$program"
}
"${c[@]}" -c bench/bench_tap.c -o "$work/bench_tap.obj" && link "$work/bench_tap.obj" "$work/bench_tap"
if [ -d "$here/.gpu/yyjson" ]; then
    gcc -O2 -w -c "$here/.gpu/yyjson/yyjson.c" -o "$work/yyjson.obj"
    "${c[@]}" -w -I"$here/.gpu/yyjson" -c tests/golden/test_golden.c -o "$work/golden.obj"
    link "$work/golden.obj" "$work/test_golden" "$work/yyjson.obj" "$cmocka"/libcmocka.so.0
    mkdir -p "$work/tiny" && python3 tools/tiny/mktiny.py --all "$work/tiny"
    GLIA_SOURCE_DIR=$here GLIA_TINY_DIR=$work/tiny GLIA_TEST_GPU_LAYERS=-1 GLIA_TEST_TOLERANCE="${GPU_TOLERANCE:-1e-2}" \
        LD_LIBRARY_PATH=$cmocka "$work/test_golden" 2>&1 | tee "$out/golden.txt" | grep -E "worst|FAILED|PASSED|ERROR" || true
fi
[ -z "${GOLDEN_ONLY:-}" ] || exit 0
model=$work/random-8b.gguf
[ -s "$model" ] || python3 bench/make_model.py "$model"
"$work/bench_tap" --model "$model" --gpu-layers -1 --rounds "${ROUNDS:-5}" 2>&1 | tee "$out/bench_tap.txt"
