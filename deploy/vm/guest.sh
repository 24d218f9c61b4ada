#!/bin/sh
# guest.sh: what the guest does once /dev and /opt are there (qemu.ts has the line before): mounts the rest, runs tests of the
# checkout in /opt/ferry, says on the second serial port how they ended, and goes out. The root is read-only; all that is
# written lies in memory. It is a child of pid 1 (tini).
#
#   guest.sh ROOTFS TEST...
set -u
umask 022
PATH=/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
LC_ALL=C.UTF-8
FERRY_CACHE=/opt/cache
# Waits are longer on an emulated processor.
FERRY_PATIENCE=5
FERRY_TEST_MIB=12
export PATH HOME LC_ALL FERRY_CACHE FERRY_PATIENCE FERRY_TEST_MIB

rootfs=$1
shift
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ln -s /proc/self/fd /dev/fd
for folder in /run /root /var/log; do mount -t tmpfs -o mode=0755 tmpfs $folder; done
for folder in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -o ro /dev/nvme0n2 /usr/lib/modules
echo /usr/lib/modules/modprobe >/proc/sys/kernel/modprobe
# What nodes are made from, where set-up has it on other machines.
mkdir "$FERRY_CACHE/$rootfs"
mount --bind / "$FERRY_CACHE/$rootfs"
hostname guest
ip link set lo up

stty -F /dev/ttyS1 raw -echo
cd /opt/ferry
{
  echo "ferry-vm: guest is up, $(uname -r), after $(cut -d' ' -f1 /proc/uptime) s"
  FERRY_VM=1 node test/run.mjs --test-reporter=tap "$@" </dev/null
  echo "ferry-vm: ended with exit code $?"
} 2>&1 | cat >/dev/ttyS1
# The port's buffer is sent meanwhile. Nothing has to be saved: QEMU ends instead of starting again.
sleep 1
echo b >/proc/sysrq-trigger
