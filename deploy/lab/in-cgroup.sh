#!/bin/sh
# in-cgroup.sh DIR CMD...: runs CMD as a member of the cgroup DIR from its first instruction, so that whatever it
# starts can be found and killed by cgroup, whoever its parent is by then.
set -e
dir=$1
shift
mkdir -p "$dir"
echo 0 >"$dir/cgroup.procs"
exec "$@"
