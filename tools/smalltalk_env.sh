#!/usr/bin/env bash
# Run a Smalltalk that tools/smalltalk.sh unpacked.
#   tools/smalltalk_env.sh <folder> gst <arguments>
#   tools/smalltalk_env.sh <folder> squeak <file.st> [VM options]    files are written to $SQUEAK_USERDIR only
set -euo pipefail
dir=$1 which=$2
shift 2
root=$dir/root
export LD_LIBRARY_PATH=$root/usr/lib:$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu
case "$which" in
    gst) exec "$root/usr/bin/gst" "$@" ;;
    squeak)
        document=$1
        shift
        vm=("$root"/usr/lib/squeak/*/squeakvm)
        [ $# -gt 0 ] || set -- -vm-display-null
        exec "${vm[0]}" -plugins "$(dirname "${vm[0]}")/" -vm-sound-null "$@" "$root/usr/share/etoys/etoys.image" "$document" ;;
    *) echo "unknown: $which (gst, squeak)" >&2; exit 2 ;;
esac
