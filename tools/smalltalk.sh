#!/usr/bin/env bash
# Get two Smalltalks for the tests of clients/smalltalk, from Debian's packages, unpacked into .deps/smalltalk (or
# $DEPS/smalltalk) and installed nowhere:
#   Squeak         squeak-vm, and the image of etoys (section non-free)
#   GNU Smalltalk  gnu-smalltalk, which Debian 11 was the last to have
# Where they cannot be had it says so and ends well: the tests then print "skip:".
#   tools/smalltalk.sh [--clean]
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${DEPS:-.deps}/smalltalk
stamp=$dir/ready-3

say() { printf 'smalltalk: %s\n' "$*"; }
skip() { say "skip: $*; the Smalltalk tests will be skipped"; rm -rf "$dir/apt" "$dir/debs"; exit 0; }

case "${1:-}" in
    --clean) rm -rf "$dir"; exit 0 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ ! -f "$stamp" ] || exit 0
mkdir -p "${DEPS:-.deps}"
exec 9>"${DEPS:-.deps}/.lock"
flock 9
[ ! -f "$stamp" ] || exit 0

# what is pinned (name, version, SHA-256 of the package), and the libraries that they need, as Debian 12 has them
pinned=(
    "squeak-vm 1:4.10.2.2614+20120917~dfsg-1+b1 a48e52c7034af8fddf45401bfc848ce870ddb6fa8b7acf62f2edd51dad05f1e0"
    "etoys 5.0.2408-1 3a3c2063533fb22499204afbadcd279b8811ae95472c8f5077433d0c287ea3f5"
    "gnu-smalltalk 3.2.5-1.3+b2 b39305547cb05754aecd94adf683e92f907cbb9259fd667e851651d69d558f35"
    "gnu-smalltalk-common 3.2.5-1.3 24a86c61b9de359001729bf83600bb91eba1443dd114bd1eb8ba88167a641db4"
    "libgst7 3.2.5-1.3+b2 1e2973879aaf4a89555a10c7945b896348715c9c4b5da9cd10433c3ea8873af0"
)
libraries=(libfreetype6 libpng16-16 libbrotli1 libjpeg62-turbo libpcre3 libffi7 libgmp10 libltdl7 libreadline8 libsigsegv2)

command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || skip "no apt here"
[ "$(dpkg --print-architecture)" = amd64 ] || skip "the packages are pinned for amd64"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keys" ] || skip "no keyring of Debian's archive"
# the mirror that this machine uses already
mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)|$(RELEASE)' 'Identifier: Packages' 2>/dev/null |
    sed -n 's#^\(.*/debian/\)|[a-z]*$#\1#p' | head -n 1)
[ -n "$mirror" ] || skip "no mirror of Debian's archive among apt's sources"

say "fetching Squeak and GNU Smalltalk (16 MB)"
rm -rf "$dir"
mkdir -p "$dir"/apt/{state/lists/partial,cache/archives/partial} "$dir/debs" "$dir/root"
root=$(cd "$dir" && pwd)
cat >"$dir/apt/sources.list" <<SOURCES
deb [signed-by=$keys] $mirror bookworm main non-free
deb [signed-by=$keys] $mirror bullseye main
SOURCES
apt=(-q -o "Dir::State=$root/apt/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$root/apt/cache"
    -o "Dir::Etc::sourcelist=$root/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=2)
apt-get "${apt[@]}" update >"$root/apt/log" 2>&1 || { tail -n 5 "$root/apt/log"; skip "apt-get update failed"; }
names=("${libraries[@]}")
for p in "${pinned[@]}"; do
    read -r name version _ <<<"$p"
    names+=("$name=$version")
done
(cd "$root/debs" && apt-get "${apt[@]}" download "${names[@]}") >"$root/apt/log" 2>&1 || { tail -n 5 "$root/apt/log"; skip "a package cannot be had"; }
for p in "${pinned[@]}"; do
    read -r name _ sum <<<"$p"
    echo "$sum  $(echo "$root/debs/${name}"_*.deb)" | sha256sum --check --status || skip "$name is not the package that was pinned"
done
for f in "$root"/debs/*.deb; do dpkg-deb -x "$f" "$root/root"; done
rm -rf "$root/apt" "$root/debs" "$root"/root/usr/share/{doc,man,locale} "$root/root/usr/share/etoys/locale"

# GNU Smalltalk: an image of its own, with sockets and SUnit in it
tools/smalltalk_env.sh "$root" gst --version >/dev/null || skip "gst does not start here"
printf '%s\n' "PackageLoader fileInPackage: 'Sockets'!" "PackageLoader fileInPackage: 'SUnit'!" 'ObjectMemory snapshot!' >"$root/image.st"
tools/smalltalk_env.sh "$root" gst -q -i -I "$root/gst.im" --no-user-files \
    "--kernel-directory=$root/root/usr/share/gnu-smalltalk/kernel" "$root/image.st" >/dev/null
rm -f "$root/image.st"
touch "$stamp"
say "Squeak and GNU Smalltalk are in $dir"
