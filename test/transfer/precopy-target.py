"""A tree that changes its memory as it is told, by lines on its input. Answers each with a line.

  write N      N pages at random, of those that are mapped
  work MS      writes at random for so long, answering at once
  grow MIB     maps more
  unmap        gives the newest area back
  discard      MADV_DONTNEED of half of the first area
  forget       discards the newest area and leaves it alone
  zero         a quarter of the first area is zeros now
  fork         a child that writes to its copy, and goes on writing
"""
import ctypes, mmap, os, random, sys, threading, time

P = 4096
areas = []
forgotten = []
# no area goes away, and no child is made, in the middle of a write
lock = threading.Lock()


def grow(mib):
    area = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if "small" in sys.argv:
        area.madvise(15)  # no huge pages
    for at in range(0, mib << 20, P):
        area[at : at + 64] = os.urandom(64)
    areas.append(area)


def write(pages):
    for _ in range(pages):
        with lock:
            area = random.choice(areas)
            at = random.randrange(len(area) // P) * P + random.randrange(0, P - 64)
            area[at : at + 64] = os.urandom(64)


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        write(5)
        time.sleep(0.001)


grow(int(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    verb, *rest = line.split()
    answer = "done"
    if verb == "write":
        write(int(rest[0]))
    elif verb == "work":
        threading.Thread(target=work, args=(int(rest[0]) / 1000,), daemon=True).start()
    elif verb == "grow":
        grow(int(rest[0]))
    elif verb == "unmap":
        with lock:
            areas.pop().close()
    elif verb == "discard":
        areas[0].madvise(mmap.MADV_DONTNEED, 0, len(areas[0]) // 2)
    elif verb == "forget":
        with lock:
            forgotten.append(areas.pop())
        forgotten[-1].madvise(mmap.MADV_DONTNEED)
    elif verb == "zero":
        quarter = len(areas[0]) // P // 4 * P
        areas[0][:quarter] = bytes(quarter)
    elif verb == "fork":
        with lock:
            child = os.fork()
        if child == 0:
            write(100)
            while os.getppid() > 1:
                write(10)
                time.sleep(0.001)
            os._exit(0)
        answer = str(child)
    print(answer, flush=True)
