#!/bin/bash
# launch.sh ROOT OVERLAY_OPTIONS VOLUME -- CGROUP_PROCS... -- PATH DIR PATH DIR... -- ARGUMENTS OF enter.pl...
# PATH inside the workload shows DIR of the node. FERRY_HIDE_PROC: for hide-proc.pl.
# Started in the workload's network namespace and in a mount namespace of its own, with "fork makes pid 1 of a new PID
# namespace" set (unshare --pid). Enters the cgroups first, so that everything from here on is counted and can be killed.
# Standard output talks to the agent: "pid N", "ready" (the program's exec is next), "exit CODE" (it ended within the time
# that the agent watches; then the agent kills this script, and the workload belongs to the node's init).
hooks=${BASH_SOURCE[0]%/*}
main() {
  set -euo pipefail
  cd /
  local root=$1 options=$2 volume=$3
  shift 4
  while [[ $1 != -- ]]; do
    echo 0 >"$1"
    shift
  done
  shift
  local mounts=()
  while [[ $1 != -- ]]; do
    mounts+=("$1" "$2")
    shift 2
  done
  shift
  inside "$root" "$options" "$volume" "$@" &
  local child=$!
  echo "pid $child"
  local code=0
  wait "$child" || code=$?
  echo "exit $code"
}

# Binds each of `mounts`. No part of a path may be a symbolic link: outside of the new root it would lead anywhere.
mount_volumes() {
  local at path part
  local -a parts
  for ((at = 0; at < ${#mounts[@]}; at += 2)); do
    IFS=/ read -ra parts <<<"${mounts[at]#/}"
    path=.
    for part in "${parts[@]}"; do
      path=$path/$part
      if [[ -L $path ]]; then
        echo "volume at ${mounts[at]}: ${path#.} is a symbolic link; name the path that it leads to" >&2
        return 1
      fi
      if [[ ! -d $path ]] && ! mkdir "$path"; then
        echo "volume at ${mounts[at]}: ${path#.} is not a directory" >&2
        return 1
      fi
    done
    mount --bind "${mounts[at + 1]}" "$path"
  done
}

# pid 1 of the workload, up to its exec.
inside() {
  local root=$1 options=$2 volume=$3 name
  shift 3
  mount -t overlay overlay -o "$options" "$root"
  cd "$root"
  mkdir -p proc dev tmp run data
  mount -t proc -o nosuid,nodev,noexec proc proc
  for name in sys sysrq-trigger irq bus; do
    [[ -e proc/$name ]] || continue
    mount --bind "proc/$name" "proc/$name"
    mount -o remount,bind,ro,nosuid,nodev,noexec "proc/$name"
  done
  # shellcheck disable=SC2086 # several words
  perl "$hooks/hide-proc.pl" "$root" $FERRY_HIDE_PROC
  # One tmpfs for all: criu packs and unpacks each with a tar of its own, inside the blackout.
  mount -t tmpfs -o nosuid,mode=755 tmpfs run
  mkdir run/.ferry run/.ferry/dev run/.ferry/tmp run/.ferry/node
  mount --bind run/.ferry/dev dev
  mount --bind run/.ferry/tmp tmp
  mount -o remount,bind,nosuid,nodev tmp
  chmod 1777 run/.ferry/tmp
  mknod -m 666 dev/null c 1 3
  mknod -m 666 dev/zero c 1 5
  mknod -m 666 dev/full c 1 7
  mknod -m 666 dev/random c 1 8
  mknod -m 666 dev/urandom c 1 9
  mknod -m 666 dev/tty c 5 0
  ln -s /proc/self/fd dev/fd
  ln -s fd/0 dev/stdin
  ln -s fd/1 dev/stdout
  ln -s fd/2 dev/stderr
  ln -s pts/ptmx dev/ptmx
  mkdir dev/shm dev/pts
  mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
  chmod 1777 dev/shm
  hostname "${volume##*/}"
  mkdir run/ferry-log run/lock
  chmod 1777 run/lock
  mount --bind "$volume/data" data
  mount --bind "$volume/log" run/ferry-log
  mount_volumes
  # From here on a name leads to the workload's own files: one program of the node's does all that is left.
  exec perl "$hooks/enter.pl" "$@"
}
main "$@"
