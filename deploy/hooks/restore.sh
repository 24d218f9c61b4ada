#!/bin/sh
# restore.sh ROOT OVERLAY_OPTIONS NETNS CGROUP_PROCS... -- CRIU ARGS...: runs in a mount namespace of its own (it ends with
# criu, so no mount is ever left on the node). Mounts the workload's root, enters the workload's cgroups, opens its network
# namespace as descriptor 9 and becomes criu.
set -e
root=$1 options=$2 netns=$3
shift 3
mount -t overlay overlay -o "$options" "$root"
while [ "$1" != -- ]; do
  echo 0 >"$1"
  shift
done
shift
exec 9<"$netns"
exec "$@"
