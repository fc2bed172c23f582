#!/usr/bin/env bash
# What bench/gpu.sh needs on a machine with neither packages nor a network, packed on one that has them.
#
#   bench/gpu/pack.sh LLAMA_SOURCE OUT [GGUF]     writes into OUT
#     llama.tar.gz   llama.cpp's source without other backends, models, documents and tests
#     sys.tar.gz     headers and shared libraries that glia links besides llama.cpp, and all that these need but libc's own;
#                    cmocka; yyjson's source
#     vocab.gguf     the tokenizer of GGUF, for bench/make_model.py (without GGUF: not made)
#
# The other machine is x86-64 with a libc not older than this one's.  YYJSON: folder with yyjson.c (.deps/src/yyjson).
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
src=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd) gguf=${3:-} yyjson=${YYJSON:-$here/.deps/src/yyjson}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

(cd "$src" && tar -cf - --transform 's,^\.,llama.cpp,' \
    --exclude=./models --exclude=./docs --exclude=./media --exclude=./tests --exclude=./examples --exclude=./pocs \
    --exclude=./benches --exclude=./gguf-py --exclude=./conversion --exclude=./.git --exclude=./ci --exclude=./skills \
    --exclude='./ggml/src/ggml-[!cb]*/*' --exclude='./ggml/src/ggml-cann' \
    --exclude='./tools/ui/[!Csu]*' --exclude='./tools/ui/s[!o]*' . | gzip -9 >"$out/llama.tar.gz")

mkdir -p "$tmp/sys/include" "$tmp/sys/lib" "$tmp/sys/yyjson"
cp "$yyjson/yyjson.c" "$yyjson/yyjson.h" "$tmp/sys/yyjson/"
for d in /usr/include /usr/include/x86_64-linux-gnu $(pkg-config --cflags-only-I openblas | sed 's/-I//g'); do
    for h in microhttpd.h libdeflate.h zstd.h zstd_errors.h sqlite3.h cmocka.h cblas.h openblas_config.h wslay openssl; do
        [ ! -e "$d/$h" ] || cp -rL "$d/$h" "$tmp/sys/include/"
    done
done
for l in microhttpd crypto deflate zstd sqlite3 openblas wslay cmocka; do # the file behind the name that a linker looks for
    cp "$(readlink -f "$(gcc -print-file-name=lib$l.so)")" "$tmp/sys/lib/lib$l.so"
done
for f in "$tmp"/sys/lib/*.so; do # what each needs, under the name it asks for
    ln -s "$(basename "$f")" "$tmp/sys/lib/$(objdump -p "$f" | awk '$1 == "SONAME" {print $2}')" 2>/dev/null || true
    ldd "$f" | awk '$3 ~ /^\// {print $1, $3}' >>"$tmp/needed"
done
sort -u "$tmp/needed" | grep -vE '^(libc|libm|libgcc_s|libstdc\+\+|libgomp|libpthread|libdl)\.so' | while read -r name path; do
    [ -e "$tmp/sys/lib/$name" ] || cp "$(readlink -f "$path")" "$tmp/sys/lib/$name"
done
strip --strip-unneeded "$tmp"/sys/lib/*.so* 2>/dev/null || true
tar -C "$tmp" -cf - sys | gzip -9 >"$out/sys.tar.gz"
[ -z "$gguf" ] || python3 "$here/bench/make_model.py" "$out/vocab.gguf" --tokenizer "$gguf" --no-weights
ls -l "$out"
