#!/bin/bash
# criu by hand, as a good shell script would do it: one workload in PID, mount and network namespaces of its own, moved
# from node to node. Runs on a node of the lab; all of it lies under $PEER (a tmpfs). Prints "EVENT name seconds".
#
#   criu.sh prepare IP MAC            the workload's network, its link down
#   criu.sh start CGROUP PROGRAM...   the workload
#   criu.sh dump-cold HOST PORT       dump into the tmpfs, copy, and that is all: criu kills the source
#   criu.sh take-cold PORT            wait for the images, restore
#   criu.sh dump-lazy SELF HOST PORT  dump with --lazy-pages: criu serves its own page server at SELF
#   criu.sh take-lazy SOURCE PORT     wait for the images, criu lazy-pages, restore
#   criu.sh clear                     end and remove everything
#
# With CRIU_VERBOSE=1 criu writes the log that the floor is read from.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
PEER=${PEER:-/run/peer}
IMAGES=$PEER/images
ROOT=$PEER/root
PAGES_PORT=7610
trap 'grep -h -E "Error" "$IMAGES"/*.log 2>/dev/null | grep -v RLIMIT_NOFILE | tail -n 5 >&2' ERR
event() { echo "EVENT $1 $EPOCHREALTIME"; }
common=(--images-dir "$IMAGES" --tcp-established --network-lock nftables --manage-cgroups=ignore --ghost-limit 64M
  --file-locks --action-script "$0")
[[ ${CRIU_VERBOSE:-0} == 1 ]] && common+=(-v4)

# criu calls this very script as its action script.
if [[ -n ${CRTOOLS_SCRIPT_ACTION:-} ]]; then
  case $CRTOOLS_SCRIPT_ACTION in
  pre-dump | network-lock | post-dump | post-resume) echo "EVENT $CRTOOLS_SCRIPT_ACTION $EPOCHREALTIME" >>"$PEER/events" ;;
  post-restore)
    # A retransmission that comes before the sockets are restored would be answered by a reset.
    ip link set peer0 up
    echo "EVENT post-restore $EPOCHREALTIME" >>"$PEER/events"
    ;;
  esac
  exit 0
fi

# Root without CAP_SYS_RESOURCE (many containers) may not ask for the limits of processes of other users, and criu gives up.
# Ferry's helper answers for the kernel: without it this peer could not run PostgreSQL here at all.
dump() {
  local wrap=() pid
  if ((!(0x$(sed -n 's/^CapEff:\s*//p' /proc/self/status) >> 24 & 1))); then
    for pid in $(ip netns pids peer); do
      [[ $(stat -c %u "/proc/$pid") == 0 ]] || wrap=(/opt/ferry/deploy/hooks/answers.pl --limits --)
    done
  fi
  "${wrap[@]}" criu dump --tree "$(cat "$PEER/pid")" "${common[@]}" --log-file dump.log \
    --external "net[$(stat -L -c %i /run/netns/peer)]:peer" --external 'mnt[/data]:data' "$@"
}
fresh() {
  rm -rf "$IMAGES" "$PEER/events"
  mkdir -p "$IMAGES"
  : >"$PEER/events"
}
# The workload's files go with its images.
copy_out() { tar -C "$PEER" -cf - images data | socat -u -b 1048576 - "TCP:$1:$2,retry=50,interval=0.1"; }
copy_in() { socat -u -b 1048576 "TCP-LISTEN:$1,reuseaddr" - | tar -C "$PEER" -xf -; }
take() {
  mkdir -p "$ROOT"
  mountpoint -q "$ROOT" || mount --bind / "$ROOT"
  rm -f "$PEER/pid"
  exec 9</run/netns/peer
  criu restore --restore-detached "${common[@]}" --log-file restore.log --inherit-fd 'fd[9]:peer' \
    --pidfile "$PEER/pid" --root "$ROOT" --external "mnt[data]:$PEER/data" "$@"
  exec 9<&-
}

verb=$1
shift
case $verb in
prepare)
  mkdir -p "$PEER/data" /data
  chmod 1777 "$PEER/data"
  ip netns add peer
  ip link add peer0 type veth peer name eth0 netns peer
  ip link set peer0 master br0
  ip -n peer link set lo up
  ip -n peer link set eth0 address "$2"
  ip -n peer addr add "$1/24" dev eth0
  ip -n peer link set eth0 up
  ;;
start)
  cgroup=$1
  shift
  ip link set peer0 up
  # Files and not pipes: criu has to find where every descriptor leads.
  nsenter --net=/run/netns/peer unshare --pid --mount --ipc --uts --fork bash "$0" inside "$@" </dev/null >"$PEER/start.log" 2>&1 &
  child=$!
  for _ in {1..200}; do
    read -r pid _ <"/proc/$child/task/$child/children" 2>/dev/null || true
    [[ -n ${pid:-} && $(tr '\0' ' ' <"/proc/$pid/cmdline") != bash* && -e $PEER/started ]] && break
    sleep 0.05
  done
  [[ -n ${pid:-} ]] || { cat "$PEER/start.log" >&2; exit 1; }
  echo "$pid" >"$PEER/pid"
  [[ $cgroup == - ]] || echo "$pid" >"$cgroup"
  disown
  ;;
inside)
  mount --make-rprivate /
  mkdir -p "$ROOT"
  mount --bind / "$ROOT"
  mount -t proc proc "$ROOT/proc"
  mount -t tmpfs -o mode=755,size=64k tmpfs "$ROOT/dev"
  for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9"; do
    read -r name major minor <<<"$device"
    mknod -m 666 "$ROOT/dev/$name" c "$major" "$minor"
  done
  mkdir -m 1777 "$ROOT/dev/shm"
  mount -t tmpfs tmpfs "$ROOT/dev/shm"
  mount -t tmpfs tmpfs "$ROOT/tmp"
  data=$(mktemp -d)
  mount --bind "$PEER/data" "$data"
  touch "$PEER/started"
  mount -t tmpfs tmpfs "$ROOT/run"
  mkdir -p "$ROOT/data" "$ROOT/run/old"
  mount --bind "$data" "$ROOT/data"
  cd "$ROOT"
  pivot_root . run/old
  cd /data
  umount -l /run/old
  exec </dev/null >/dev/null 2>&1
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then eval "exec $fd>&-" 2>/dev/null || true; fi
  done
  exec setsid -- "$@"
  ;;
dump-cold)
  fresh
  event begin
  dump
  event dumped
  ip link set peer0 down
  copy_out "$1" "$2"
  event sent
  cat "$PEER/events"
  ;;
take-cold)
  fresh
  echo listening
  copy_in "$1"
  event received
  take
  event restored
  cat "$PEER/events"
  ;;
dump-lazy)
  fresh
  rm -f "$PEER/status"
  mkfifo "$PEER/status"
  event begin
  dump --lazy-pages --address "$1" --port "$PAGES_PORT" --status-fd 5 5>"$PEER/status" &
  dump=$!
  read -r -n 1 -d '' _ <"$PEER/status" || true
  event serving
  ip link set peer0 down
  copy_out "$2" "$3"
  event sent
  wait "$dump"
  event drained
  cat "$PEER/events"
  ;;
take-lazy)
  fresh
  echo listening
  copy_in "$2"
  event received
  criu lazy-pages --images-dir "$IMAGES" --page-server --address "$1" --port "$PAGES_PORT" --log-file lazy.log &
  daemon=$!
  until [[ -S $IMAGES/lazy-pages.socket ]]; do sleep 0.002; done
  take --lazy-pages
  event restored
  wait "$daemon"
  event drained
  cat "$PEER/events"
  ;;
clear)
  ip netns pids peer 2>/dev/null | xargs -r kill -9 2>/dev/null || true
  for _ in {1..100}; do
    [[ -z $(ip netns pids peer 2>/dev/null) ]] && break
    sleep 0.05
  done
  ip link del peer0 2>/dev/null || true
  ip netns del peer 2>/dev/null || true
  mountpoint -q "$ROOT" && umount -l "$ROOT"
  rm -rf "$PEER"
  ;;
*)
  echo "criu.sh: there is no $verb" >&2
  exit 2
  ;;
esac
