"""Processes and threads that change memory of every kind all the time and know what each page must hold.

Arguments: processes, threads each, pages per thread, pages that only lie there (per process), megabytes to grow to.
"""
import ctypes, mmap, random, struct

PROCESSES, THREADS, PAGES, STILL, GROW = (int(arg) for arg in sys.argv[1:6])
P = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_int64]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
DONTNEED, REMOVE = 4, 9
SHARED, PRIVATE_ANONYMOUS, SHARED_ANONYMOUS = 1, 0x22, 0x21


def check(value, what):
    if value in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), what)
    return value


def page_of(tag):
    return struct.pack("<Q", tag) * 512


def area(pages, flags, fd=-1):
    return check(libc.mmap(None, pages * P, 3, flags, fd, 0), "mmap")


class Space:
    """Every page of one owner by its number, with the tag that it must hold: one integer, repeated."""

    def __init__(self, base, pages, shared=False, first=1):
        self.shared = shared
        self.buffer = ctypes.create_string_buffer(P)
        self.tags = {}
        # Which mapping a page belongs to: since Linux 6.17 a move over several may stop in the middle, at one that a
        # userfaultfd watches (all that were restored lazily), and leave the first part moved.
        self.owner, self.areas = {}, 0
        self.own(base // P, pages)
        for i in range(pages):
            self.write(base // P + i, first + i)
        self.numbers = list(self.tags)

    def own(self, page, n):
        self.areas += 1  # not its address: a later area may begin where an earlier one did, of which the end is left
        for i in range(n):
            self.owner[page + i] = self.areas

    def write(self, page, tag):
        libc.memcpy(page * P, page_of(tag), P)
        self.tags[page] = tag

    def read(self, page):
        libc.memcpy(self.buffer, page * P, P)  # ctypes lets the other threads run meanwhile
        if self.buffer.raw != page_of(self.tags[page]):
            got = struct.unpack("<512Q", self.buffer.raw)
            raise AssertionError(f"page {page * P:#x} holds {set(got)}, not {self.tags[page]} (shared: {self.shared})")

    def read_all(self):
        for page in list(self.tags):
            self.read(page)

    def any(self, rng):
        while True:
            if rng.random() < 0.01:
                self.numbers = list(self.tags)
            page = rng.choice(self.numbers)
            if page in self.tags:
                return page

    def span(self, rng):
        page, n, most = self.any(rng), 1, rng.randint(1, 48)
        while n < most and page + n in self.tags and self.owner[page + n] == self.owner[page]:
            n += 1
        return page, n

    def discard(self, page, n):
        check(libc.madvise(page * P, n * P, REMOVE if self.shared else DONTNEED), "madvise")
        for i in range(n):
            self.tags[page + i] = 0

    def move(self, page, n, rng):
        to = area(n, PRIVATE_ANONYMOUS)
        check(libc.mremap(page * P, n * P, n * P, 3, to), "mremap")
        self.own(to // P, n)
        tags = [self.tags.pop(page + i) for i in range(n)]
        for i in range(n):
            self.tags[to // P + i] = tags[i]

    def replace(self, page, n):
        """Unmaps, and maps as many new ones elsewhere."""
        check(libc.munmap(page * P, n * P), "munmap")
        for i in range(n):
            del self.tags[page + i]
        new = area(n, PRIVATE_ANONYMOUS)
        self.own(new // P, n)
        for i in range(n):
            self.write(new // P + i, random.getrandbits(40))

    def fork(self, rng):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(20):
                    act(self, rng, forks=0)
                for _ in range(300):
                    self.read(self.any(rng))
                code = 0
            except BaseException:
                fail("child")
            finally:
                os._exit(code)
        for _ in range(10):
            act(self, rng, forks=0)
        if os.waitpid(child, 0)[1] != 0:
            raise AssertionError("a child read something else than it should")


def act(space, rng, forks=0.01):
    what = rng.random()
    if what < 0.4:
        space.read(space.any(rng))
    elif what < 0.65:
        space.write(space.any(rng), rng.getrandbits(40))
    elif what < 0.8:
        space.discard(*space.span(rng))
    elif space.shared:
        space.read(space.any(rng))
    elif what < 0.9:
        space.move(*space.span(rng), rng)
    elif what < 0.96:
        space.replace(*space.span(rng))
    elif what < 0.96 + forks:
        space.fork(rng)


def work(space, seed, counts, at, lock):
    rng = random.Random(seed)
    while True:
        with lock:
            for _ in range(20):
                act(space, rng)
                counts[at] += 1
        time.sleep(0.005)


def grow(counts, at, lock, held):
    """Memory that did not exist when the move began, checked and given back in turns."""
    while True:
        with lock:
            if len(held) < GROW:
                held.append(Space(area(256, PRIVATE_ANONYMOUS), 256, first=len(held) << 20))
            else:
                old = held.pop(0)
                old.read_all()
                check(libc.munmap(min(old.tags) * P, 256 * P), "munmap")
        counts[at] += 1
        time.sleep(0.02)


def process(number, shared, memfd, ask, tell):
    # stacks in large areas: criu is told that such an area is empty, but for the pages that stacks point into
    threading.stack_size(32 << 20)
    spaces, counts, lock, held = [], {}, threading.Lock(), []
    share = PAGES // PROCESSES
    for n in range(THREADS):
        spaces.append(Space(area(PAGES, PRIVATE_ANONYMOUS), PAGES))
    spaces.append(Space(shared + number * share * P, share, shared=True, first=7))
    spaces.append(Space(memfd + number * share * P, share, shared=True, first=9))
    # never written again: arrives late in a post-copy move
    still = Space(area(STILL, PRIVATE_ANONYMOUS), STILL, first=1 << 32) if STILL else None
    for at, space in enumerate(spaces):
        counts[at] = 0
        # one lock per process: a child must not be made in the middle of another thread's change
        guarded("work", work, space, number * 100 + at, counts, at, lock)
    if GROW:
        counts["grow"] = 0
        guarded("grow", grow, counts, "grow", lock, held)
    while True:
        if not os.read(ask, 1):
            os._exit(0)
        pages = 0
        try:
            with lock:
                for space in [*spaces, *held, *([still] if still else [])]:
                    space.read_all()
                    pages += len(space.tags)
        except BaseException:
            fail("whole")
        answer = dict(counts=sum(counts.values()), pages=pages, bad=bad)
        os.write(tell, (json.dumps(answer) + "\n").encode())


def main():
    shared = area(PAGES, SHARED_ANONYMOUS)
    fd = os.memfd_create("ferry-test")
    os.ftruncate(fd, PAGES * P)
    memfd = area(PAGES, SHARED, fd)
    workers = []
    for number in range(PROCESSES):
        (asked, ask), (heard, tell) = os.pipe(), os.pipe()
        if os.fork() == 0:
            try:
                process(number, shared, memfd, asked, tell)
            finally:
                os._exit(1)
        # so that the end of a process shows
        os.close(asked)
        os.close(tell)
        workers.append((ask, os.fdopen(heard)))

    def whole():
        for ask, _ in workers:
            os.write(ask, b"?")
        answers = [json.loads(heard.readline()) for _, heard in workers]
        for answer in answers:
            bad.extend(answer["bad"])
        return dict(counts=sum(a["counts"] for a in answers), pages=sum(a["pages"] for a in answers))

    checks["memory"] = whole
    serve()


main()
