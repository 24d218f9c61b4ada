#!/bin/sh
# switch-init.sh READY REAP: pid 1 of the lab's switch (network, mount, PID and UTS namespaces over the host's own
# files). Tells READY its pid as the host sees it, then reaps.
set -e
# The host's /proc is still mounted, so it shows this shell under its pid on the host.
read -r pid rest </proc/self/stat
mount -t proc proc /proc
hostname ferry-switch
echo "$pid" >"$1.new"
mv "$1.new" "$1"
exec sh "$2" </dev/null >/dev/null 2>&1
