#!/bin/sh
# criu's action script (dash, a millisecond). Its environment is made by the agent:
#   FERRY_ENGINE  directory of this dump or restore: events (at.*) go there, the gate is a FIFO there
#   FERRY_LINK    the node's end of the workload's link
#   FERRY_CGROUP  the workload's cgroup v2 directory
# Events are files that appear by rename: a level that a restarted agent reads again. Waiting at the gate survives the
# agent's death: opening the FIFO blocks until somebody writes the exit code to return.
reached() {
  date +%s.%N >"$FERRY_ENGINE/.at.$1" && mv "$FERRY_ENGINE/.at.$1" "$FERRY_ENGINE/at.$1"
}
hold() {
  reached "$1" || exit 97
  IFS= read -r verdict <"$FERRY_ENGINE/gate" || exit 97
  exit "$verdict"
}
case "$CRTOOLS_SCRIPT_ACTION" in
network-lock)
  ip link set dev "$FERRY_LINK" down || exit 98
  reached network-lock
  ;;
post-dump)
  # criu alone does not hold the tree: if it dies here, the cgroup keeps the tree frozen.
  echo 1 >"$FERRY_CGROUP/cgroup.freeze" || exit 99
  tries=0
  until grep -q '^frozen 1' "$FERRY_CGROUP/cgroup.events"; do
    tries=$((tries + 1))
    [ "$tries" -le 2000 ] || exit 99
    sleep 0.001
  done
  hold post-dump
  ;;
post-restore) hold post-restore ;;
post-resume) reached post-resume ;;
esac
exit 0
