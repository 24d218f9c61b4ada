#!/bin/sh
# criu's action script (dash, a millisecond). Its environment is made by the agent:
#   FERRY_ENGINE  directory of this dump or restore: events (at.*) go there, the gate is a FIFO there
#   FERRY_LINK    the node's end of the workload's link
#   FERRY_CGROUP  the workload's cgroup v2 directory
#   FERRY_HIDE_PROC  for hide-proc.pl: machine and names
#   FERRY_STACKS  if set: where the threads' stacks stand is written there, for answers.pl
# Events are files with a time in them: a level that a restarted agent reads again. As few programs as can be: each costs
# some milliseconds of the blackout. Waiting at the gate survives the agent's death: opening the FIFO blocks until somebody
# writes the exit code to return.
umask 077
reached() {
  # Written in one piece: whoever looks sees nothing, or all of it.
  if monotonic; then
    echo "monotonic $now" >"$FERRY_ENGINE/at.$1"
  else
    date +%s.%N >"$FERRY_ENGINE/at.$1"
  fi
}
# Nanoseconds of CLOCK_MONOTONIC into `now`, without starting a program: "now at N nsecs" stands at the top of this file.
monotonic() {
  { IFS= read -r line && IFS= read -r line && read -r word at now unit; } 2>/dev/null </proc/timer_list &&
    [ "$word $at $unit" = "now at nsecs" ]
}
hold() {
  reached "$1" || exit 97
  IFS= read -r verdict <"$FERRY_ENGINE/gate" || exit 97
  exit "$verdict"
}
is_frozen() {
  while IFS= read -r line; do
    [ "$line" != "frozen 1" ] || return 0
  done <"$FERRY_CGROUP/cgroup.events"
  return 1
}
case "$CRTOOLS_SCRIPT_ACTION" in
network-lock)
  flags=/sys/class/net/$FERRY_LINK/flags
  if ! { IFS= read -r up <"$flags" && echo $((up & ~1)) >"$flags"; } 2>/dev/null; then
    ip link set dev "$FERRY_LINK" down || exit 98
  fi
  reached network-lock
  # Everything is stopped and nothing was touched yet: the stack pointers are the program's own.
  if [ -n "${FERRY_STACKS:-}" ]; then
    while read -r pid; do
      for thread in "/proc/$pid/task/"*; do
        read -r line <"$thread/syscall" && echo "$pid $line"
      done
    done <"$FERRY_CGROUP/cgroup.procs" >"$FERRY_STACKS"
  fi
  ;;
post-dump)
  # criu alone does not hold the tree: if it dies here, the cgroup keeps the tree frozen.
  echo 1 >"$FERRY_CGROUP/cgroup.freeze" || exit 99
  tries=0
  until is_frozen; do
    tries=$((tries + 1))
    [ "$tries" -le 2000 ] || exit 99
    sleep 0.001
  done
  hold post-dump
  ;;
post-restore)
  # Before anything of it runs: its images have none of these mounts.
  # shellcheck disable=SC2086 # several words
  perl "${0%/*}/hide-proc.pl" --in "/proc/$CRTOOLS_INIT_PID/ns/mnt" $FERRY_HIDE_PROC || exit 95
  hold post-restore
  ;;
post-resume) reached post-resume ;;
esac
exit 0
