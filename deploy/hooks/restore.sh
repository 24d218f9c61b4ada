#!/bin/sh
# restore.sh BEGIN INVENTORY ROOT OVERLAY_OPTIONS NETNS CGROUP_PROCS... -- CRIU ARGS...: runs in a mount namespace of its own (it
# ends with criu, so no mount is ever left on the node). Mounts the workload's root, opens its network namespace as
# descriptor 9 and runs criu in the workload's cgroups.
# BEGIN: -, begin at once. Or a FIFO: started ahead, when nobody waits for it. criu then gets as far as it can without
# images: INVENTORY, the first image that it opens, is a FIFO, too. A line from BEGIN says that the images are there.
set -e
begin=$1 inventory=$2 root=$3 options=$4 netns=$5
shift 5
run() {
  while [ "$1" != -- ]; do
    echo 0 >"$1"
    shift
  done
  shift
  exec "$@"
}
exec 9<"$netns"
if [ "$begin" != - ]; then
  run "$@" &
  criu=$!
  # Opens when criu has opened it. The name is free then for the image itself.
  exec 8>"$inventory"
  rm -f "$inventory"
  IFS= read -r word <"$begin"
fi
mount -t overlay overlay -o "$options" "$root"
if [ "$begin" != - ] && [ -e "/proc/$criu/exe" ]; then
  cat "$inventory" >&8
  exec 8>&-
  wait "$criu"
  exit
fi
# At once, or in place of one that was killed while it stood by.
[ "$begin" = - ] || exec 8>&-
run "$@"
