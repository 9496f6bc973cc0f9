#!/usr/bin/env bash
# The GIMP plug-in in a real GIMP 3, in a Debian 13 of its own: exit 0 only if all that the table says holds.
#
#   scripts/gimp_check.sh [ROOT]     as root, on Linux; needs debootstrap
#
# ROOT (default $XDG_CACHE_HOME/ugatit-batch/gimp, 1.2 GB) is made at the first call, in a few minutes, and used
# again after that. PYTHON (default .venv/bin/python) has ugatit-batch and pytest's packages; UGATIT_BATCH is another
# command to check. Pictures, screenshots and logs stay in ROOT/check.
set -euo pipefail

root=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/ugatit-batch/gimp}")
scripts=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$scripts/../.venv/bin/python}
read -ra program <<<"${UGATIT_BATCH:-$python -m ugatit_batch}"
check=$root/check

if [ "$(id -u)" != 0 ]; then
    echo "gimp_check: a root folder of Debian can only be made and entered as root" >&2
    exit 4
fi

if [ ! -e "$root/ready" ]; then
    command -v debootstrap >/dev/null || { echo "gimp_check: apt-get install debootstrap, first" >&2; exit 4; }
    [ ! -e "$root" ] || { echo "gimp_check: $root is there, and not of this program" >&2; exit 2; }
    made=$root.making
    umount "$made/proc" 2>/dev/null || true
    rm -rf "$made"
    mkdir -p "$made"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/*$' || true)
    echo "making a Debian 13 with GIMP in $root; $root.log tells how it goes"
    debootstrap --variant=minbase trixie "$made" "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1
    chroot "$made" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gimp gir1.2-gimp-3.0 gir1.2-gtk-3.0 python3 python3-gi xvfb xauth xdotool && apt-get clean' >>"$root.log" 2>&1
    touch "$made/ready"
    mv "$made" "$root"
fi

rm -rf "$check" "$root/root/.config/GIMP"
mkdir -p "$check/state" "$root/root/.config/GIMP/3.0"
# The plug-in knows the server's folder by the path it has out here: inside, that path leads to the same folder.
mkdir -p "$root$root"
ln -sfn /check "$root$check"
export UGATIT_BATCH_STATE_DIR=$check/state OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mounted=
serving=
finish() {
    touch "$check/stop"
    [ -z "$serving" ] || { kill -- "-$serving" 2>/dev/null; wait "$serving" 2>/dev/null; } || true
    [ -z "$mounted" ] || umount "$root/proc"
}
trap finish EXIT
if [ ! -e "$root/proc/self" ]; then
    mount -t proc proc "$root/proc"
    mounted=yes
fi

"$python" "$scripts/gimp_check/pictures.py" make "$check"
"${program[@]}" plugin install gimp --target "$root/root/.config/GIMP/3.0"
cp "$scripts"/gimp_check/{console,window}.py "$check"

# One of the checks kills the server; it is there again soon after.
set -m
(while [ ! -e "$check/stop" ]; do "${program[@]}" serve || true; done) >"$check/server.log" 2>&1 &
serving=$!
set +m
for _ in $(seq 600); do [ -e "$check/state/server.json" ] && break; sleep 0.1; done

run_gimp() {
    chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 UGATIT_CHECK=/check timeout 400 "$@"
}
run_gimp gimp-console-3.0 -i -d -f --batch-interpreter=python-fu-eval \
    -b "exec(open('/check/console.py').read())" --quit >"$check/console.log" 2>&1 || true
run_gimp xvfb-run -a -s "-screen 0 1280x800x24" gimp-3.0 -d -f -n --batch-interpreter=python-fu-eval \
    -b "exec(open('/check/window.py').read())" --quit >"$check/window.log" 2>&1 || true

"$python" "$scripts/gimp_check/pictures.py" compare "$check" "${program[@]}"
