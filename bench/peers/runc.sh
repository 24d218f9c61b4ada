#!/bin/bash
# runc by hand: checkpoint on one node, images over the link, restore on the other. Runs on a node of the lab. The network
# is that of criu.sh (`criu.sh prepare`, `criu.sh clear`). Prints "EVENT name seconds".
#
#   runc.sh prepare                        the bundle's root
#   runc.sh start CGROUP PROGRAM...        the workload
#   runc.sh give HOST PORT                 checkpoint, copy
#   runc.sh take PORT CGROUP PROGRAM...    wait for the images, restore
#   runc.sh clear | end                    end the container | and remove the bundle
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
BUNDLE=/var/lib/ferry/runc
IMAGES=/run/runc-images
event() { echo "EVENT $1 $EPOCHREALTIME"; }
config() {
  python3 - "$@" >"$BUNDLE/config.json" <<'PYTHON'
import json, sys
cgroup, command = sys.argv[1], sys.argv[2:]
mounts = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
    {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
]
namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
print(json.dumps({
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "args": command, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "hostname": "peer",
    "mounts": mounts,
    "linux": {"cgroupsPath": cgroup, "namespaces": namespaces + [{"type": "network", "path": "/run/netns/peer"}]},
}))
PYTHON
}
verb=$1
shift
case $verb in
prepare)
  mkdir -p /etc/criu "$BUNDLE"
  printf 'network-lock nftables\nghost-limit 64M\n' >/etc/criu/runc.conf
  if [[ ! -e $BUNDLE/rootfs ]]; then
    mkdir "$BUNDLE/rootfs.new"
    tar -C / --one-file-system -cf - --exclude=./var/lib --exclude=./var/cache --exclude=./opt --exclude=./usr/share \
      --exclude='./usr/bin/podman' --exclude='libLLVM*' --exclude='./usr/lib/postgresql' --exclude=./run --exclude=./dev \
      --exclude=./proc --exclude=./sys --exclude=./tmp . | tar -C "$BUNDLE/rootfs.new" -xf -
    mkdir -p "$BUNDLE"/rootfs.new/{proc,dev,run,tmp,data}
    mv "$BUNDLE/rootfs.new" "$BUNDLE/rootfs"
  fi
  ;;
start)
  ip link set peer0 up
  config "$@"
  # Standard streams must not be files outside of the container, nor pipes to somebody.
  runc --root /run/runc-peers run --detach --bundle "$BUNDLE" peer </dev/null >/dev/null 2>&1
  ;;
give)
  rm -rf "$IMAGES"
  mkdir -p "$IMAGES"
  event begin
  runc --root /run/runc-peers checkpoint --tcp-established --image-path "$IMAGES" --work-path "$IMAGES" peer
  event dumped
  ip link set peer0 down
  tar -C "$IMAGES" -cf - . | socat -u -b 1048576 - "TCP:$1:$2,retry=50,interval=0.1"
  event sent
  rm -rf "$IMAGES"
  ;;
take)
  port=$1
  shift
  config "$@"
  rm -rf "$IMAGES"
  mkdir -p "$IMAGES"
  echo listening
  socat -u -b 1048576 "TCP-LISTEN:$port,reuseaddr" - | tar -C "$IMAGES" -xf -
  event received
  runc --root /run/runc-peers restore --detach --tcp-established --image-path "$IMAGES" --work-path "$IMAGES" \
    --bundle "$BUNDLE" peer </dev/null >/dev/null 2>&1
  # Not before the sockets are there: a retransmission would be answered by a reset.
  ip link set peer0 up
  event restored
  rm -rf "$IMAGES"
  ;;
clear) runc --root /run/runc-peers delete --force peer >/dev/null 2>&1 || true ;;
end) rm -rf "$BUNDLE" "$IMAGES" /run/runc-peers /etc/criu/runc.conf ;;
esac
