#!/usr/bin/env bash
# Get two Smalltalks for the tests of clients/smalltalk, from Debian's packages, unpacked into .deps/smalltalk (or
# $DEPS/smalltalk) and installed nowhere:
#   Squeak         squeak-vm, and the image of etoys (section non-free)
#   GNU Smalltalk  gnu-smalltalk, which Debian 11 was the last to have
# Where one cannot be had it says so and ends well: the tests then print "skip:", and the next call tries again.
#   tools/smalltalk.sh [--clean]
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${DEPS:-.deps}/smalltalk
version=4 # of what the stamps below stand for

say() { printf 'smalltalk: %s\n' "$*"; }
skip() { say "skip: $*"; exit 0; }

case "${1:-}" in
    --clean) rm -rf "$dir"; exit 0 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
there() { [ -f "$dir/$1-$version" ]; }
! there squeak || ! there gst || exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || skip "no apt here, so no Smalltalk"
[ "$(dpkg --print-architecture)" = amd64 ] || skip "the packages are pinned for amd64, so no Smalltalk"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keys" ] || skip "no keyring of Debian's archive, so no Smalltalk"
# the mirror that this machine uses already
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)|$(RELEASE)' 'Identifier: Packages' 2>/dev/null |
    sed -n 's#^\(.*/debian/\)|[a-z]*$#\1#p' | head -n 1)
[ -n "$mirror" ] || skip "no mirror of Debian's archive among apt's sources, so no Smalltalk"

mkdir -p "$dir/root"
exec 9>"${DEPS:-.deps}/.lock"
flock 9
full=$(cd "$dir" && pwd)
trap 'rm -rf "$full/apt" "$full/debs"' EXIT

# fetch <suites, "suite components" each> -- <package>…    a package is a name, or name=version=SHA-256
fetch() {
    rm -rf "$full/apt" "$full/debs"
    mkdir -p "$full"/apt/{state/lists/partial,cache/archives/partial} "$full/debs"
    while [ "$1" != -- ]; do
        echo "deb [signed-by=$keys] $mirror $1" >>"$full/apt/sources.list"
        shift
    done
    shift
    local apt=(-q -o "Dir::State=$full/apt/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$full/apt/cache"
        -o "Dir::Etc::sourcelist=$full/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=2)
    local names=() p name version sum
    for p in "$@"; do
        IFS='=' read -r name version sum <<<"$p"
        names+=("$name${version:+=$version}")
    done
    apt-get "${apt[@]}" update >"$full/apt/log" 2>&1 || { tail -n 3 "$full/apt/log"; return 1; }
    (cd "$full/debs" && apt-get "${apt[@]}" download "${names[@]}") >"$full/apt/log" 2>&1 || { tail -n 3 "$full/apt/log"; return 1; }
    for p in "$@"; do
        IFS='=' read -r name version sum <<<"$p"
        [ -z "$sum" ] || echo "$sum  $(echo "$full/debs/${name}"_*.deb)" | sha256sum --check --status ||
            { say "$name is not the package that was pinned"; return 1; }
    done
    for p in "$full"/debs/*.deb; do dpkg-deb -x "$p" "$full/root" || return 1; done
    rm -rf "$full"/root/usr/share/{doc,man,locale} "$full/root/usr/share/etoys/locale"
}

get_squeak() {
    fetch "bookworm main non-free" -- libfreetype6 libpng16-16 libbrotli1 libjpeg62-turbo libpcre3 \
        "squeak-vm=1:4.10.2.2614+20120917~dfsg-1+b1=a48e52c7034af8fddf45401bfc848ce870ddb6fa8b7acf62f2edd51dad05f1e0" \
        "etoys=5.0.2408-1=3a3c2063533fb22499204afbadcd279b8811ae95472c8f5077433d0c287ea3f5"
}

# with an image of its own, which has sockets and SUnit in it
get_gst() {
    fetch "bookworm main" "bullseye main" -- libgmp10 libltdl7 libreadline8 libsigsegv2 libffi7 \
        "gnu-smalltalk=3.2.5-1.3+b2=b39305547cb05754aecd94adf683e92f907cbb9259fd667e851651d69d558f35" \
        "gnu-smalltalk-common=3.2.5-1.3=24a86c61b9de359001729bf83600bb91eba1443dd114bd1eb8ba88167a641db4" \
        "libgst7=3.2.5-1.3+b2=1e2973879aaf4a89555a10c7945b896348715c9c4b5da9cd10433c3ea8873af0" || return 1
    printf '%s\n' "PackageLoader fileInPackage: 'Sockets'!" "PackageLoader fileInPackage: 'SUnit'!" 'ObjectMemory snapshot!' >"$full/image.st"
    tools/smalltalk_env.sh "$full" gst -q -i -I "$full/gst.im" --no-user-files \
        "--kernel-directory=$full/root/usr/share/gnu-smalltalk/kernel" "$full/image.st" >/dev/null || return 1
    rm -f "$full/image.st"
}

for what in squeak gst; do
    there $what && continue
    say "fetching $what"
    if get_$what; then
        touch "$dir/$what-$version"
    else
        say "skip: $what cannot be had; its tests will be skipped"
    fi
done
