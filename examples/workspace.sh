#!/bin/sh
# A workspace is put away in the evening and taken up in the morning, on another machine: its processes, what they have in
# memory alone, and its files. Meanwhile it costs nothing but room in the store.
#
#   ferry lab up && sh examples/workspace.sh
. "$(dirname "$0")/common.sh"
names=desk

ferry run desk --node node-a -- python3 -c "$(cat "$here/notebook.py")"
cell desk 'import random
table = [random.random() for _ in range(1_000_000)]
open("/data/notes.txt", "w").write("half way through")
print("loaded", len(table), "numbers, the sum is", sum(table))' | tee "${TMPDIR:-/tmp}/ferry-desk.$$"
before=$(sed 's/.*is //' "${TMPDIR:-/tmp}/ferry-desk.$$")
rm "${TMPDIR:-/tmp}/ferry-desk.$$"

# The evening: saved, and let go. Nothing of it runs any more.
ferry checkpoint desk --stop --reason "end of the day" --label desk=mine
ferry ps

# The morning.
ferry restore desk --node node-b
after=$(cell desk 'print(sum(table))')
cell desk 'print(open("/data/notes.txt").read())'
[ "$before" = "$after" ] || { echo "the sum was $before, and is $after" >&2; exit 1; }
echo "the same million numbers, on node-b"
