#!/bin/sh
# engine.sh DIR PROGRAM ARGS...: runs an engine and leaves its pid (a line of /proc/PID/stat: pid and start time) and its
# exit code in DIR, so that an agent that was restarted in between can tell what became of it.
dir=$1
shift
IFS= read -r stat </proc/$$/stat
printf '%s\n' "$stat" >"$dir/.pid" && mv "$dir/.pid" "$dir/pid" || exit 96
"$@"
code=$?
printf '%s\n' "$code" >"$dir/.rc" && mv "$dir/.rc" "$dir/rc"
