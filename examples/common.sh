# What the examples share: sourced, not run. They talk to the running lab (`ferry lab up`), or to that of FERRY_EXAMPLE_LAB.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
lab=${FERRY_EXAMPLE_LAB:-}

# Runs it as it is written here, and says so.
ferry() {
  printf '\n$ ferry %s\n' "$(printf '%s ' "$@" | tr '\n' ' ' | cut -c1-110)" >&2
  quietly "$@"
}
quietly() {
  if [ -z "$lab" ]; then node "$here/../bin/ferry.js" "$@"; else verb=$1 && shift && node "$here/../bin/ferry.js" "$verb" --lab "$lab" "$@"; fi
}
address() { quietly inspect "$1" --json | node -pe 'JSON.parse(require("fs").readFileSync(0)).status.spec.network.ip.split("/")[0]'; }

# A notebook's cell: executed in the workload of that name, over HTTP from the lab's client host.
cell() {
  host=$(address "$1")
  node "$here/../bin/ferry.js" lab exec ${lab:+--lab "$lab"} client -- \
    curl --silent --show-error --fail-with-body --retry 20 --retry-delay 1 --retry-connrefused --max-time 60 --data-binary "$2" "http://$host:8000/"
}

# Nothing stays behind, however it ends.
names=""
remove_all() { for name in $names; do quietly rm --force "$name" >/dev/null 2>&1 || true; done; }
trap remove_all EXIT
trap 'exit 130' INT TERM
