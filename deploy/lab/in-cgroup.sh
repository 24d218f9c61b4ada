#!/bin/sh
# in-cgroup.sh DIR CMD...: runs CMD as a member of the cgroup DIR from its first instruction, so that whatever it
# starts can be found and killed by cgroup, whoever its parent is by then. The folder above must be there: when the lab
# was taken down meanwhile it is not, and nothing is started.
set -e
dir=$1
shift
[ -d "$dir" ] || mkdir "$dir" || [ -d "$dir" ]
echo 0 >"$dir/cgroup.procs"
exec "$@"
