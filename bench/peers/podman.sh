#!/bin/bash
# podman by hand: checkpoint --export on one node, a copy over the link, restore --import on the other. Runs on a node of
# the lab; containers and images lie under /var/lib/ferry/podman, checkpoints on the tmpfs. Prints "EVENT name seconds".
#
#   podman.sh prepare PREFIX FILE       the network, PREFIX such as 10.77.0; the image: made and saved, or loaded
#   podman.sh start IP MAC PROGRAM...   the workload
#   podman.sh give HOST PORT [pre]      checkpoint, copy; with `pre` after a pre-checkpoint
#   podman.sh take PORT                 wait for the file, restore
#   podman.sh clear | end               remove the container | and the image, the network and all else
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PODMAN_IGNORE_CGROUPSV1_WARNING=1 TMPDIR=/run/podman-tmp
STORE=/var/lib/ferry/podman
FILE=/run/podman-tmp/checkpoint.tar
event() { echo "EVENT $1 $EPOCHREALTIME"; }
podman() {
  command podman --root "$STORE" --runroot /run/podman-run --storage-driver overlay --runtime runc \
    --cgroup-manager cgroupfs --events-backend file --tmpdir /run/podman-libpod "$@"
}
mkdir -p "$TMPDIR"
verb=$1
shift
case $verb in
prepare)
  mkdir -p /etc/criu /run/podman-run "$STORE" /etc/containers
  printf 'network-lock nftables\nghost-limit 64M\n' >/etc/criu/runc.conf
  [[ -e /etc/containers/policy.json ]] || echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
  # Both nodes must have the very same image. What the workloads need, and nothing of podman itself. The root directory must be of mode 0755: criu compares it.
  mkdir -p /run/podman-tmp/empty
  if [[ -e $2 ]]; then
    podman load --quiet --input "$2" >/dev/null
  else
    tar -C / --one-file-system -cf - --exclude=./var/lib --exclude=./var/cache --exclude=./opt --exclude=./usr/share \
      --exclude='./usr/lib/podman' --exclude='./usr/bin/podman' --exclude='libLLVM*' --exclude='./usr/lib/postgresql' \
      --exclude=./run --exclude=./dev --exclude=./proc --exclude=./sys --exclude=./tmp --mode='u+rwX' . |
      podman import --quiet - localhost/peer >/dev/null
    podman save --quiet --output "$2" localhost/peer
  fi
  podman network exists peers || podman network create --driver bridge --opt mode=unmanaged --interface-name br0 \
    --disable-dns --subnet "$1.0/24" --gateway "$1.1" peers >/dev/null
  ;;
start)
  ip=$1 mac=$2
  shift 2
  podman run --detach --name peer --network "peers:ip=$ip,mac=$mac" --log-driver none --cgroup-parent "$CGROUP_PARENT" \
    --security-opt seccomp=unconfined --workdir / localhost/peer "$@" >/dev/null
  ;;
give)
  event begin
  if [[ ${3:-} == pre ]]; then
    podman container checkpoint --pre-checkpoint --tcp-established --compress none --export "$TMPDIR/pre.tar" peer >/dev/null
    event pre
  fi
  podman container checkpoint --tcp-established --compress none --export "$FILE" peer >/dev/null
  event dumped
  socat -u -b 1048576 "$FILE" "TCP:$1:$2,retry=50,interval=0.1"
  event sent
  podman rm --force peer >/dev/null
  rm -f "$FILE"
  ;;
take)
  rm -f "$FILE"
  echo listening
  socat -u -b 1048576 "TCP-LISTEN:$1,reuseaddr" "CREATE:$FILE"
  event received
  podman container restore --tcp-established --import "$FILE" >/dev/null
  event restored
  rm -f "$FILE"
  ;;
clear)
  podman rm --force --time 0 --ignore peer >/dev/null
  rm -f "$FILE" "$TMPDIR/pre.tar"
  ;;
end)
  podman system reset --force >/dev/null 2>&1 || true
  rm -rf "$STORE" "$TMPDIR" /run/podman-run /run/podman-libpod /etc/criu/runc.conf
  ;;
esac
