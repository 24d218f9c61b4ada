#!/bin/sh
# Speculative execution: work that was done once is gone on with in several ways at once, from one checkpoint; the best stays, the
# others go. A running process has its environment already, so each variant is told what it is to try.
#
#   ferry lab up && sh examples/speculate.sh
. "$(dirname "$0")/common.sh"
names="base try-1 try-2 try-3"

ferry run base --node node-a -- python3 -c "$(cat "$here/notebook.py")"
# What costs: done once.
cell base 'import random, time
random.seed(7); time.sleep(3)
points = [(x / 1000, 2.5 * x / 1000 + 1 + random.gauss(0, 0.1)) for x in range(100_000)]
print("prepared", len(points), "points")'
ferry checkpoint base --reason "before the variants"

# Three that have the same memory and each an address of its own; the first one stays as it is.
ferry clone base --as try --count 3 --node node-b
best="" least=""
for n in 1 2 3; do
  error=$(cell "try-$n" "slope = $n
print(round(sum((y - slope * x - 1) ** 2 for x, y in points) / len(points), 3))")
  echo "try-$n: slope $n, error $error"
  if [ -z "$least" ] || [ "$(printf '%s\n%s\n' "$error" "$least" | sort -g | head -n 1)" = "$error" ]; then best=$n least=$error; fi
done

for n in 1 2 3; do [ "$n" = "$best" ] || ferry rm --force "try-$n"; done
cell "try-$best" 'print("kept: slope", slope, "with its", len(points), "points")'
