#!/usr/bin/env bash
# Everything of Glia that is measured or checked on a GPU, on a machine with a compiler and CUDA but neither packages nor a network.
#
#   bench/gpu.sh PACK OUT     PACK: what bench/gpu/pack.sh made; OUT: where results go
#
# Builds llama.cpp with CUDA, llama-server from the same source, glia, and programs over libglia, with cmake and the compiler alone.
# Steps, in this order (STEPS, default "build check bench serve"):
#   build   all programs, two random models
#   check   golden tests, unit tests, rows against the CPU's and sums of rows with and without staging: all layers on one GPU,
#           half of them, and all over two GPUs where there are two.  They run side by side; nothing is timed
#   bench   what being ready for hooks costs, and what capturing costs (bench_tap), on the first GPU
#   serve   bench/bench.py: Glia against llama-server, on the first GPU
#   harvest (not unless asked) bench/bench_harvest.py: harvests to WORK's disk against plain prefill, on the first GPU and on the
#           processor alone with a 135M-shaped model
# OUT/log.txt gets all that is printed, OUT/serving.md the tables of the last step, OUT/logs.tar.gz what each
# program said.
#   WORK         build folder (default /tmp/glia-gpu); kept, so that a second run on the machine builds only what is new
#   LLAMA_LIBS   folder with llama.cpp's archives, LLAMA_SERVER: the program; nothing of it is built
#   CUDA_ARCH    default 90.  CPU=1: no CUDA at all (to try this script)
#   SHAPE, SERVE_SHAPE   options for bench/make_model.py (default: 8B-shaped, and 3B-shaped with a real tokenizer; F16)
#   ROUNDS (default 9), PREFILL_ROUNDS (31)   GPU_TOLERANCE (1.5e-2, golden)   ROWS_TOLERANCE (3e-2)   SERVE_ARGS for bench.py
#   LIMIT        seconds for each program (default 240)
set -euo pipefail
pack=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=${WORK:-/tmp/glia-gpu}
steps=${STEPS:-build check bench serve} limit=${LIMIT:-240}
src=$work/llama.cpp sys=$work/sys
serve_shape=${SERVE_SHAPE:---layers 28 --embd 3072 --heads 24 --kv 8 --ff 8192 --tokenizer $pack/vocab.gguf}
mkdir -p "$work/o" "$work/log"
wants() { case " $steps " in *" $1 "*) return 0 ;; *) return 1 ;; esac }
say() { echo "[$SECONDS s] $*"; }
# name, then a program; what it says goes to a file.  A failing program is told, and the next ones still run
step() {
    local name=$1 rc=0 t=$SECONDS
    shift
    timeout -k 5 "$limit" "$@" >"$work/log/$name" 2>&1 || rc=$?
    [ $rc = 0 ] && say "$name: done in $((SECONDS - t)) s" && return
    say "$name: ended with status $rc after $((SECONDS - t)) s"
    tail -25 "$work/log/$name" | sed "s/^/$name| /"
}

make_model() { # file, options
    local file=$1
    shift
    [ -s "$file" ] || { python3 bench/make_model.py "$file.part" "$@" && mv "$file.part" "$file"; }
}

build_llama() {
    [ ! -e "$work/llama/ready" ] || return 0
    local cuda=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCH:-90}")
    [ -z "${CPU:-}" ] || cuda=()
    cmake -S "$src" -B "$work/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF "${cuda[@]}" \
        -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON \
        -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_SUBPROCESS=OFF -DLLAMA_ALL_WARNINGS=OFF -DGGML_CCACHE=OFF -DLLAMA_BUILD_NUMBER=0 \
        -DLLAMA_BUILD_COMMIT="$(cut -d. -f1-2 "$src/.glia-version" 2>/dev/null | cut -c1-40 || echo unknown)" \
        >"$work/log/configure" 2>&1 || { tail -20 "$work/log/configure"; exit 1; }
    cmake --build "$work/llama" --target llama ggml llama-common llama-server -j "$(nproc)" >"$work/log/llama" 2>&1 ||
        { grep -E "error|FAILED" "$work/log/llama" | head -20; exit 1; }
    touch "$work/llama/ready"
}

includes=(-Iinclude -Isrc -Itests/unit -isystem "$src/include" -isystem "$src/ggml/include" -isystem "$src/ggml/src"
          -isystem "$sys/include" -isystem "$sys/yyjson")
compile() { # object, source: one compiler's work, told apart by the name of the source
    case $2 in
    *.cpp) g++ -O2 -DNDEBUG -std=c++17 "${includes[@]}" -isystem "$src/common" -isystem "$src/src" -isystem "$src/vendor" -c "$2" -o "$1" ;;
    *) gcc -O2 -DNDEBUG -std=c17 -D_GNU_SOURCE= "${includes[@]}" -w -c "$2" -o "$1" ;;
    esac
}
compile_all() {
    local f n=0 o
    for f in $(find src tests/unit -name '*.c' ! -path 'tests/unit/test_*') src/engine/chat_bridge.cpp "$sys/yyjson/yyjson.c" \
        bench/bench_tap.c bench/gpu/rows.c tests/golden/test_golden.c tests/unit/test_staging.c tests/unit/test_ends.c; do
        [ -e "$f" ] || continue
        o=$work/o/$(basename "$(dirname "$f")")_$(basename "$f").o
        [ "$o" -nt "$f" ] && [ "$o" -nt include/glia.h ] && continue # headers of src are not looked at: use a new WORK for those
        compile "$o" "$f" &
        n=$((n + 1))
        [ $((n % $(nproc))) != 0 ] || wait
    done
    wait
}

link_one() { # program, its own object, other objects
    local libs cuda=() home=${CUDA_HOME:-/usr/local/cuda} to=$work/bin/$1 own=$work/o/$2
    shift 2
    mapfile -t libs < <(find "${LLAMA_LIBS:-$work/llama}" -name '*.a' ! -path '*/tools/*')
    [ -n "${CPU:-}" ] || cuda=(-L"$home/lib64" -L"$home/lib64/stubs" -lcudart -lcublas -lcuda)
    g++ "$own" "$@" "${libglia[@]}" -Wl,--start-group "${libs[@]}" -Wl,--end-group "${cuda[@]}" \
        -L"$sys/lib" -Wl,--disable-new-dtags,-rpath,"$sys/lib" -lcrypto -fopenmp -lpthread -ldl -lm -o "$to"
}
link_all() {
    mkdir -p "$work/bin"
    local libglia app tests="$work/o/unit_support.c.o $work/o/unit_reference.c.o" a="-lmicrohttpd -ldeflate -lzstd -lsqlite3 -lopenblas -lwslay"
    mapfile -t libglia < <(ls "$work"/o/{base,tap,engine,grammar}_*.o)
    mapfile -t app < <(ls "$work"/o/{analysis,lab,store,models,harvest,http,api,cli,yyjson}_*.o | grep -v cli_main.c)
    link_one bench_tap bench_bench_tap.c.o
    link_one rows gpu_rows.c.o
    # shellcheck disable=SC2086
    {
        link_one test_golden golden_test_golden.c.o "$work/o/yyjson_yyjson.c.o" $sys/lib/libcmocka.so
        for t in test_staging test_ends; do
            [ ! -e "$work/o/unit_$t.c.o" ] || link_one $t unit_$t.c.o $tests $sys/lib/libcmocka.so
        done
        link_one glia cli_main.c.o "${app[@]}" $a
    }
    ln -sf "${LLAMA_SERVER:-$work/llama/bin/llama-server}" "$work/bin/llama-server"
}

main() {
    cd "$here"
    [ -d "$src" ] || tar -C "$work" -xzf "$pack/llama.tar.gz"
    [ -d "$sys" ] || tar -C "$work" -xzf "$pack/sys.tar.gz"
    export GLIA_SOURCE_DIR=$here GLIA_TINY_DIR=$work/tiny XDG_CACHE_HOME=$work/cache
    model=$work/random.gguf serve_model=$work/serve.gguf
    n_gpus=0
    [ -n "${CPU:-}" ] || n_gpus=$(nvidia-smi --list-gpus | wc -l)
    all=-1 threads=$(($(nproc) < 8 ? $(nproc) : 8))
    [ -z "${CPU:-}" ] || all=0

    if wants build; then
        say "building on $(nproc) cores, $n_gpus GPUs"
        [ -n "${CPU:-}" ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
        # shellcheck disable=SC2086
        { make_model "$model" ${SHAPE:-}; make_model "$serve_model" $serve_shape; } &
        compile_all &
        [ -d "$GLIA_TINY_DIR" ] || { mkdir -p "$GLIA_TINY_DIR" && python3 tools/tiny/mktiny.py --all "$GLIA_TINY_DIR" & }
        [ -n "${CPU:-}" ] || { python3 bench/gpu/bus.py || true; }
        [ -n "${LLAMA_LIBS:-}" ] || build_llama
        say "llama.cpp is built"
        wait
        say "sources are compiled, models are made"
        link_all
        say "programs are linked: $("$work/bin/glia" --version)"
    fi

    if wants check; then
        say "checking"
        export OMP_WAIT_POLICY=passive # many programs at once
        # name, GPUs, layers of the tiny models (three and the output), of the 8B-shaped one, of the 3B-shaped one
        place() {
            export CUDA_VISIBLE_DEVICES=$2
            (GLIA_TEST_GPU_LAYERS=$3 GLIA_TEST_TOLERANCE=${GPU_TOLERANCE:-1.5e-2} step "golden-$1" "$work/bin/test_golden") &
            (step "rows-$1" "$work/bin/rows" --model "$serve_model" --layers "$5" --reference 0 --threads $threads \
                --tolerance "${ROWS_TOLERANCE:-3e-2}") &
            (for s in auto off; do
                step "sums-$1-$s" "$work/bin/bench_tap" --model "$model" --gpu-layers "$4" --threads $threads --no-attention \
                    --staging $s --decode 16 --sums
            done) &
        }
        place one 0 $all $all $all
        if [ "$n_gpus" -gt 0 ]; then place half $((n_gpus > 1)) 2 16 14; fi
        if [ "$n_gpus" -gt 1 ]; then place two 0,1 $all $all $all; fi
        (export CUDA_VISIBLE_DEVICES=0; for t in test_staging test_ends; do
            [ ! -x "$work/bin/$t" ] || GLIA_TEST_GPU_LAYERS=$all step $t "$work/bin/$t"; done) &
        wait
        for f in "$work"/log/golden-* "$work"/log/test_*; do
            grep -E "^\[  (PASSED|FAILED)|near ties|near tie of|error .* allowed" "$f" | sed "s,^,$(basename "$f"): ," || true
            awk '/worst error/ {sub(/.*worst error /, ""); print $1 + 0}' "$f" | sort -g |
                awk -v f="$(basename "$f")" '{v[NR] = $1} END {if (NR) print f ": worst error of a run " v[int((NR + 1) / 2)] " in the median, " v[NR] " at most"}'
        done
        for f in "$work"/log/rows-*; do tail -1 "$f" | sed "s,^,$(basename "$f"): ,"; done
        for f in "$work"/log/sums-*-auto; do
            a=$(grep ^sum "$f" || true) b=$(grep ^sum "${f%auto}off" || true) c=$(grep ^sum "$work/log/sums-one-auto" || true)
            [ -n "$a" ] && [ "$a" = "$b" ] && say "$(basename "$f"): the same rows as without staging" || say "$(basename "$f"): OTHER ROWS than without staging"
            [ "$a" = "$c" ] && say "$(basename "$f"): the same rows as on one GPU" || say "$(basename "$f"): other numbers than on one GPU"
        done
    fi

    if wants bench; then
        export CUDA_VISIBLE_DEVICES=0
        unset OMP_WAIT_POLICY
        say "measuring what capturing costs"
        tap() { # name, options
            local name=$1
            shift
            step "$name" "$work/bin/bench_tap" --model "$model" --gpu-layers $all --threads $threads "$@"
            sed "s/^/$name: /" "$work/log/$name"
        }
        fast=${PREFILL_ROUNDS:-31} slow=${ROUNDS:-9}
        tap noise-prefill --nothing --work prefill --rounds "$fast"
        tap noise-decode --nothing --work decode --rounds "$slow"
        tap prefill --no-attention --against-no-hooks --work prefill --rounds "$fast"
        tap decode --no-attention --against-no-hooks --work decode --rounds "$slow"
        tap decode-8 --nothing --against-no-hooks --work decode --streams 8 --rounds "$slow"
    fi

    if wants serve; then
        export CUDA_VISIBLE_DEVICES=0
        unset OMP_WAIT_POLICY
        say "measuring against llama-server"
        # shellcheck disable=SC2086
        limit=${SERVE_LIMIT:-540} step serve python3 bench/bench.py --build "$work/bin" --tools "$work/bin" --model "$serve_model" \
            --gpu-layers $all --threads $threads --streams 1,4,8,16 --only servers,serving --out "$out/serving.md" ${SERVE_ARGS:-}
        grep "^bench:" "$work/log/serve" || true
    fi

    if wants harvest; then
        export CUDA_VISIBLE_DEVICES=0 TMPDIR=$work
        unset OMP_WAIT_POLICY
        say "measuring harvests"
        make_model "$work/small.gguf" --layers 30 --embd 576 --heads 9 --kv 3 --ff 1536 --tokenizer "$pack/vocab.gguf"
        harvest() { # name, options
            local name=$1
            shift
            step "$name" python3 bench/bench_harvest.py --glia "$work/bin/glia" "$@"
            sed "s/^/$name: /" "$work/log/$name"
        }
        dd if=/dev/zero of="$work/disk" bs=4M count=512 conv=fsync 2>&1 | tail -1
        rm -f "$work/disk"
        gpu=(--model "$serve_model" --threads $threads --rounds 3)
        harvest gpu-one-layer "${gpu[@]}" --tokens 131072 --points resid_pre@14 --serve "--gpu-layers $all"
        harvest gpu-all-f16 "${gpu[@]}" --tokens 16384 --dtype float16 --serve "--gpu-layers $all"
        harvest gpu-all-f32 "${gpu[@]}" --tokens 16384 --serve "--gpu-layers $all"
        export CUDA_VISIBLE_DEVICES= # else CUDA takes large products of the processor's layers
        harvest cpu --model "$work/small.gguf" --rounds 3 --tokens 32768
    fi
    tar -C "$work" -czf "$out/logs.tar.gz" log
    say "done"
}
main 2>&1 | tee -a "$out/log.txt" # no process substitution: `wait` would wait for it, too
