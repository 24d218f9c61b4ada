"""A stand-in for a task that criu restores lazily: it hands its own userfaultfd over as criu does, and checks itself.

pages-target.py SOCKET PAGES: prints its area's address; at "connect" hands over; at "run SEED OPS" changes its address
space at random (read, write, discard, unmap, remap, fork) against a model of what every page must hold, then reads
everything. Page i of the image holds the number i + 1, repeated.
"""
import array, ctypes, json, os, random, socket, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_int64]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
P = 4096


def check(value, what):
    if value in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), what)
    return value


def page_of(tag):
    return struct.pack("<Q", tag) * 512


def say(**what):
    print(json.dumps(what), flush=True)


def hand_over(path, base, pages, vpid=42):
    fd = check(libc.syscall(282 if os.uname().machine == "aarch64" else 323, 0o2004000), "userfaultfd")
    api = ctypes.create_string_buffer(struct.pack("<QQQ", 0xAA, 2 | 4 | 8 | 64, 0))
    check(libc.ioctl(fd, 0xC018AA3F, api), "UFFDIO_API")
    reg = ctypes.create_string_buffer(struct.pack("<QQQQ", base, pages * P, 1, 0))
    check(libc.ioctl(fd, 0xC020AA00, reg), "UFFDIO_REGISTER")
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.send(struct.pack("<i", vpid))
    s.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    s.send(struct.pack("<I", 0x52535446))
    s.close()
    os.close(fd)


class Space:
    """Every mapped page by its number, with the tag that it must hold."""

    def __init__(self, base, pages):
        self.tags = {base // P + i: i + 1 for i in range(pages)}
        self.buffer = ctypes.create_string_buffer(P)

    def read(self, page, buffer=None):
        buffer = buffer or self.buffer
        libc.memcpy(buffer, page * P, P)  # ctypes lets the other threads run meanwhile
        want = page_of(self.tags[page])
        if buffer.raw != want:
            got = struct.unpack("<Q", buffer.raw[:8])[0]
            raise AssertionError(f"page {page * P:#x} holds {got}, not {self.tags[page]}")

    def read_all(self, order):
        pages = list(self.tags)
        order.shuffle(pages)
        for page in pages:
            self.read(page)

    def span(self, rng, most=64):
        """A random run of mapped pages that are neighbours and were never split from each other by a move."""
        page = rng.choice(list(self.tags)) if rng.random() < 0.3 else self.any(rng)
        n = 1
        while n < rng.randint(1, most) and page + n in self.tags:
            n += 1
        return page, n

    def any(self, rng):
        if not hasattr(self, "cache") or rng.random() < 0.05:
            self.cache = list(self.tags)
        while True:
            page = rng.choice(self.cache)
            if page in self.tags:
                return page


def act(space, rng, forks):
    what = rng.random()
    page, n = space.span(rng)
    if what < 0.45:
        space.read(page)
    elif what < 0.6:
        tag = rng.getrandbits(40)
        libc.memcpy(page * P, page_of(tag), P)
        space.tags[page] = tag
    elif what < 0.75:
        check(libc.madvise(page * P, n * P, 4), "MADV_DONTNEED")
        for i in range(n):
            space.tags[page + i] = 0
    elif what < 0.8 and len(space.tags) > 1000:
        check(libc.munmap(page * P, n * P), "munmap")
        for i in range(n):
            del space.tags[page + i]
    elif what < 0.93:
        # a fresh place, or on top of pages that are thereby lost
        to = check(libc.mmap(None, n * P, 0, 0x22, -1, 0), "mmap")
        if rng.random() < 0.3:
            other, m = space.span(rng)
            if m >= n and (other + n <= page or page + n <= other):
                libc.munmap(to, n * P)
                to = other * P
        moved = libc.mremap(page * P, n * P, n * P, 3, to)
        if moved is None or moved == 2**64 - 1:
            # the run spans two areas: refused before anything was changed, or (new kernels) done in full
            if ctypes.get_errno() not in (14, 22):
                raise OSError(ctypes.get_errno(), "mremap")
            # MREMAP_FIXED unmaps what is there first
            for i in range(n):
                space.tags.pop(to // P + i, None)
            return
        tags = [space.tags.pop(page + i) for i in range(n)]
        for i in range(n):
            space.tags[to // P + i] = tags[i]
    elif what < 0.93 + forks:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                mine = random.Random(rng.random())
                for _ in range(20):
                    act(space, mine, forks / 4)
                pages = list(space.tags)
                for page in mine.sample(pages, min(400, len(pages))):
                    space.read(page)
                if mine.random() < 0.3:
                    space.read_all(mine)
                code = 0
            except BaseException as error:
                say(bad=f"child: {error!r}")
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise AssertionError(f"a child ended with {status:#x}")


def alone(where, pages, seed):
    """As a workload that criu moves: an area of its own, changed at random until WHERE/stop is there, then read in full."""
    base = check(libc.mmap(None, pages * P, 3, 0x22, -1, 0), "mmap")
    for i in range(pages):
        libc.memcpy(base + i * P, page_of(i + 1), P)
    space, rng, n = Space(base, pages), random.Random(seed), 0
    open(where + "/started", "w").close()
    try:
        while not os.path.exists(where + "/stop"):
            act(space, rng, 0.02)
            n += 1
            time.sleep(0.0005)
            with open(where + "/count", "w") as f:
                f.write(str(n))
        space.read_all(rng)
        result = dict(ok=len(space.tags), count=n)
    except BaseException as error:
        result = dict(bad=repr(error), count=n)
    with open(where + "/result.new", "w") as f:
        json.dump(result, f)
    os.rename(where + "/result.new", where + "/result")


def main():
    if sys.argv[1] == "alone":
        return alone(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    path, pages = sys.argv[1], int(sys.argv[2])
    base = check(libc.mmap(None, pages * P, 3, 0x22, -1, 0), "mmap")
    # the last part belongs to a second thread that only reads
    still = pages // 8
    say(base=base)
    for line in sys.stdin:
        word, *args = line.split()
        try:
            if word == "connect":
                hand_over(path, base, pages)
                say(connected=True)
            elif word == "touch":
                Space(base, pages).read(base // P + int(args[0]))
                say(touched=int(args[0]))
            elif word == "latency":
                times, buffer = [], ctypes.create_string_buffer(P)
                for n in range(int(args[0])):
                    began = time.perf_counter()
                    libc.memcpy(buffer, base + n * int(args[1]) * P, P)
                    times.append((time.perf_counter() - began) * 1e6)
                times.sort()
                say(p50=times[len(times) // 2], p99=times[len(times) * 99 // 100], max=times[-1])
            elif word == "run":
                rng = random.Random(int(args[0]))
                failed = []

                def reader():
                    try:
                        part = Space(base, pages)
                        own = list(range(base // P + pages - still, base // P + pages))
                        random.Random(7).shuffle(own)
                        buffer = ctypes.create_string_buffer(P)
                        for page in own:
                            part.read(page, buffer)
                    except BaseException as error:
                        failed.append(f"reader: {error!r}")

                thread = threading.Thread(target=reader)
                thread.start()
                space = Space(base, pages - still)
                for n in range(int(args[1])):
                    act(space, rng, 0.02)
                space.read_all(rng)
                thread.join()
                say(bad=failed[0]) if failed else say(ok=len(space.tags))
        except BaseException as error:
            say(bad=repr(error))


main()
