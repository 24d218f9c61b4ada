#!/bin/sh
# keep.sh PIDFILE LOG CMD...: keeps one service of the lab running: starts it again 0.5 s after it ended, for whatever
# reason. In production systemd does this (Restart=always). The service has a session of its own, so it survives its
# keeper; a new keeper adopts what the last one left (PIDFILE holds pid and start time), so `lab up` heals.
pidfile=$1
log=$2
shift 2

# Start time of a process in clock ticks; with the pid it names a process for good.
born() {
  stat=
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  set -- ${stat##*) }
  shift 19
  echo "$1"
}

echo "$$ $(born $$)" >"$pidfile.keeper"
child=
stop=
trap 'stop=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM

if read -r pid ticks 2>/dev/null <"$pidfile" && [ -n "$ticks" ] && [ "$(born "$pid")" = "$ticks" ]; then
  child=$pid
  while [ "$(born "$pid")" = "$ticks" ]; do sleep 0.2; done
fi

while [ -z "$stop" ]; do
  setsid "$@" </dev/null >>"$log" 2>&1 &
  child=$!
  echo "$child $(born "$child")" >"$pidfile.new" && mv "$pidfile.new" "$pidfile"
  wait "$child"
  code=$?
  # The trap interrupts wait: the service itself may still be ending.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
  done
  printf '{"level":"warn","time":"%s","msg":"service ended","pid":%s,"exitCode":%s,"restart":%s}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" "$child" "$code" "$([ -z "$stop" ] && echo true || echo false)" >>"$log"
  child=
  [ -n "$stop" ] || sleep 0.5
done
