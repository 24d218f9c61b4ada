"""Memory that checks itself, for criu's own incremental dumps: checked-memory.py PAGES RESULTS. SIGUSR1: some pages are written
over, some are given back; SIGUSR2: all are checked. Each adds a line to RESULTS. No threads, no child, no open files."""
import mmap, os, random, signal, struct, sys

P, pages, results = 4096, int(sys.argv[1]), sys.argv[2]
memory = mmap.mmap(-1, pages * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(15)  # no huge pages: a dirty one would be 512 dirty pages
versions, rng = [0] * pages, random.Random(1)


def body(page, version):
    return struct.pack("<QQ", page, version) * (P // 16)


def write(page, version):
    versions[page] = version
    memory[page * P : (page + 1) * P] = body(page, version)


def say(*words):
    with open(results, "a") as file:
        print(*words, file=file)


def change(*_):
    for _ in range(pages // 50):
        page = rng.randrange(pages)
        write(page, versions[page] + 1)
    for _ in range(8):  # given back: reads as zero
        page = rng.randrange(pages)
        memory.madvise(mmap.MADV_DONTNEED, page * P, P)
        versions[page] = -1
    for page in [page for page in range(pages) if versions[page] < 0][4:]:
        write(page, 1)
    say("changed")


def check(*_):
    wrong = 0
    for page, version in enumerate(versions):
        want = bytes(P) if version < 0 else body(page, version)
        wrong += memory[page * P : (page + 1) * P] != want
    say("checked", pages, "wrong", wrong)


for page in range(pages):
    write(page, 1)
signal.signal(signal.SIGUSR1, change)
signal.signal(signal.SIGUSR2, check)
say("ready")
while True:
    signal.pause()
