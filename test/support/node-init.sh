#!/bin/sh
# node-init.sh DIR ROOTFS NODE PACKAGE: pid 1 of a throw-away node, started in its own mount, PID and network namespaces.
set -e
dir=$1 rootfs=$2 node=$3 package=$4
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --rbind /dev dev
mkdir -p var/lib/ferry opt/node opt/ferry run/ferry run/ferry-layers/0 run/ferry-layers/1 run/old
mount --bind "$dir/state" var/lib/ferry
mount --bind "$dir/upper" run/ferry-layers/0
mount --bind "$rootfs" run/ferry-layers/1
touch opt/node/node
mount --bind "$node" opt/node/node
mount --bind "$package" opt/ferry
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
exec sh -c 'while :; do sleep 3600 & wait $!; done' </dev/null >/dev/null 2>&1
