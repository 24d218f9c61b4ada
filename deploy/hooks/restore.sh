#!/bin/sh
# restore.sh BEGIN ROOT OVERLAY_OPTIONS NETNS CGROUP_PROCS... -- CRIU ARGS...: runs in a mount namespace of its own (it ends with
# criu, so no mount is ever left on the node). Mounts the workload's root, enters the workload's cgroups, opens its network
# namespace as descriptor 9 and becomes criu.
# BEGIN is a FIFO: started ahead, it waits there for a line (-: begin at once).
set -e
begin=$1 root=$2 options=$3 netns=$4
shift 4
[ "$begin" = - ] || IFS= read -r word <"$begin"
mount -t overlay overlay -o "$options" "$root"
while [ "$1" != -- ]; do
  echo 0 >"$1"
  shift
done
shift
exec 9<"$netns"
exec "$@"
