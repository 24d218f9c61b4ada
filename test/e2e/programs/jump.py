"""Ends with 3 as soon as two readings of its clocks in a row are a second apart: the moment it is resumed. Holds so many MB."""
import os, sys, time

ballast = os.urandom(int(sys.argv[1]) * 2**20)
children = int(sys.argv[2])
for _ in range(children):
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
print("began", flush=True)
last = time.time(), time.monotonic()
while True:
    time.sleep(0.0002)
    now = time.time(), time.monotonic()
    if max(new - old for new, old in zip(now, last)) > 1:
        os._exit(3)
    last = now
