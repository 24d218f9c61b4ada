#!/bin/sh
# node-init.sh: becomes pid 1 of a lab node (or of the client host) in namespaces that were just made: mounts the node's
# root over the shared root file system, enters it and waits there. Every mount lies in the node's own mount namespace,
# so nothing is left on the host when its processes are gone.
#
# In the environment: NAME, HOST_DIR (upper, work, root, ram, boot_id), LOWER (the root file system), PROGRAMS (a layer on
# it with Node.js), READY, PACKAGE (Ferry itself, read-only), and for nodes LIB (their disk), SHARED and CHECKPOINTS (directories
# that all have), LOGS, WORKER_GID.
set -e
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
read -r pid rest </proc/self/stat
exec 3>"$READY"
root=$HOST_DIR/root
upper=$HOST_DIR/upper

if ! mount -t overlay -o "lowerdir=$PROGRAMS:$LOWER,upperdir=$HOST_DIR/upper,workdir=$HOST_DIR/work" overlay "$root" 2>/dev/null; then
  # The state directory can't hold an upper layer (itself an overlay, as in a container): keep it in memory.
  mount -t tmpfs -o mode=0755 tmpfs "$HOST_DIR/ram"
  mkdir "$HOST_DIR/ram/upper" "$HOST_DIR/ram/work"
  cp -a "$HOST_DIR/upper/." "$HOST_DIR/ram/upper/"
  upper=$HOST_DIR/ram/upper
  mount -t overlay -o "lowerdir=$PROGRAMS:$LOWER,upperdir=$HOST_DIR/ram/upper,workdir=$HOST_DIR/ram/work" overlay "$root"
fi
cd "$root"

mount -t proc -o nosuid,nodev,noexec proc proc
# A node that is started again has a new boot id, as a machine would.
mount --bind "$HOST_DIR/boot_id" proc/sys/kernel/random/boot_id
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=0755,nosuid tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp

mount -t tmpfs -o mode=0755,nosuid,size=1m tmpfs dev
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  set -- $device
  mknod -m 0666 "dev/$1" c "$2" "$3"
done
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mknod -m 0666 dev/net/tun c 10 200
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

mkdir -p opt/ferry run/lock run/ferry-lab
mount --bind "$PACKAGE" opt/ferry
mount -o remount,bind,ro opt/ferry
if [ -n "$LIB" ]; then
  # A plain directory, not the overlay: workloads put overlays of their own there.
  mkdir -p var/lib/ferry var/log/ferry
  mount --bind "$LIB" var/lib/ferry
  mount --bind "$LOGS" var/log/ferry
  mkdir -p srv/shared
  mount --bind "$SHARED" srv/shared
  mkdir -p srv/checkpoints
  mount --bind "$CHECKPOINTS" srv/checkpoints
  # An overlay can't lie under a workload's overlay with its own upper layer: the runtime takes the layers themselves.
  mkdir -p run/ferry-layers/0 run/ferry-layers/1 run/ferry-layers/2
  mount --bind "$upper" run/ferry-layers/0
  mount --bind "$PROGRAMS" run/ferry-layers/1
  mount --bind "$LOWER" run/ferry-layers/2
  # The worker reaches the agent's socket through its group.
  mkdir -m 0750 run/ferry
  chown "0:$WORKER_GID" run/ferry
fi

hostname "$NAME"
mkdir run/old-root
pivot_root . run/old-root
cd /
umount -l /run/old-root
rmdir /run/old-root
unset upper HOST_DIR LOWER PROGRAMS READY LIB SHARED CHECKPOINTS LOGS PACKAGE WORKER_GID NAME
echo "$pid" >&3
exec 3>&-
if [ -x /usr/bin/tini ]; then
  exec /usr/bin/tini -s -- sleep infinity </dev/null >/dev/null 2>&1
fi
exec sh /opt/ferry/deploy/lab/reap.sh </dev/null >/dev/null 2>&1
