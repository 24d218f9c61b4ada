"""Programs for the tests of the trackers; the first argument says which. Each line on standard input is a request or ends it."""
import ctypes, hashlib, mmap, os, random, select, signal, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_int64]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.sbrk.argtypes = [ctypes.c_ssize_t]
P = 4096
PRIVATE_ANONYMOUS, FIXED, HUGE = 0x22, 0x10, 2 << 20


def say(*words):
    print(*words, flush=True)


def check(value, what):
    if value in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), what)
    return value


def area(pages, flags=PRIVATE_ANONYMOUS, at=None):
    return check(libc.mmap(at, pages * P, 3, flags, -1, 0), "mmap")


class Churn:
    """Changes its address space at random, with two threads that write all the time."""

    def __init__(self, seed, depth):
        self.rng, self.depth = random.Random(seed), depth
        self.lock = threading.Lock()
        self.areas = {area(32): 32 for _ in range(6)}
        self.children = []
        for _ in range(2):
            threading.Thread(target=self.write_on, args=(self.rng.random(),), daemon=True).start()

    def pick(self, rng):
        start = rng.choice(list(self.areas))
        return start, self.areas[start]

    def write(self, rng):
        start, pages = self.pick(rng)
        libc.memset(start + rng.randrange(pages * P), rng.randrange(256), 1)

    def write_on(self, seed):
        rng = random.Random(seed)
        while True:
            with self.lock:
                for _ in range(8):
                    self.write(rng)
            time.sleep(0.0005)

    def step(self):
        rng = self.rng
        what = rng.randrange(13)
        with self.lock:
            while len(self.areas) < 4:
                self.areas[area(32)] = 32
            start, pages = self.pick(rng)
            at = start + rng.randrange(pages) * P
            length = rng.randint(1, (start + pages * P - at) // P) * P
            if what == 0 and len(self.areas) < 24:
                n = rng.randint(1, 64)
                self.areas[area(n)] = n
            elif what == 1 and len(self.areas) > 3:
                libc.munmap(start, pages * P)
                del self.areas[start]
            elif what == 2:  # mapped anew at the same address, then written
                area(pages, PRIVATE_ANONYMOUS | FIXED, start)
                libc.memset(start, rng.randrange(256), P)
            elif what == 3:  # moved
                to = area(pages)
                del self.areas[start]
                if libc.mremap(start, pages * P, pages * P, 3, to) == to:
                    self.areas[to] = pages
                else:  # over several mappings: none or a part of it was moved
                    libc.munmap(start, pages * P)
                    libc.munmap(to, pages * P)
            elif what == 4 and pages < 256:  # grown, wherever
                more = pages + rng.randint(1, 16)
                to = libc.mremap(start, pages * P, more * P, 1, None)
                if to != 2**64 - 1:
                    del self.areas[start]
                    self.areas[to] = more
            elif what == 5:
                libc.madvise(at, length, rng.choice([mmap.MADV_DONTNEED, 8, 20, 21]))  # FREE, COLD, PAGEOUT
                libc.memset(at, rng.randrange(256), 1)
            elif what == 6:  # split, and whole again; contents changed in between
                libc.mprotect(at, length, rng.choice([0, 1]))
                libc.mprotect(at, length, 3)
                libc.memset(at, rng.randrange(256), length)
            elif what == 7:  # huge pages
                start = area(1024)
                huge = (start + HUGE - 1) // HUGE * HUGE
                libc.madvise(huge, HUGE, mmap.MADV_HUGEPAGE)
                libc.memset(huge, rng.randrange(256), rng.choice([1, HUGE]))
                self.areas[start] = 1024
                for big in [s for s, n in self.areas.items() if n == 1024][:-2]:
                    libc.munmap(big, 1024 * P)
                    del self.areas[big]
            elif what == 8:
                at = libc.sbrk(rng.randint(1, 8) * P)
                libc.memset(at, rng.randrange(256), P)
            elif what == 9:  # the page that was swapped out of sight: read only, the shared zero page
                at = area(4)
                ctypes.string_at(at, 4 * P)
                self.areas[at] = 4
            elif what == 10:
                threading.Thread(target=lambda: ctypes.create_string_buffer(64 * P)).start()
            elif self.depth > 0:
                self.fork(exec_it=what == 11)

    def fork(self, exec_it):
        while len(self.children) >= 2:
            child = self.children.pop(0)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        seed = self.rng.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            libc.prctl(1, signal.SIGKILL)
            if exec_it:
                os.execv(sys.executable, [sys.executable, __file__, "churn-child", str(seed)])
            rng = random.Random(seed)
            while True:
                self.write(rng)
                time.sleep(0.001)
        self.children.append(pid)


def churn(seed, depth=1):
    work = Churn(seed, depth)
    say("ready")
    while True:
        work.step()
        if depth and select.select([sys.stdin], [], [], 0.002)[0] and not sys.stdin.readline():
            os._exit(0)
        if not depth:
            time.sleep(0.002)


def call(name):
    """Waits in one system call; says what it returned."""
    r, w = os.pipe()
    buffer = ctypes.create_string_buffer(64)
    all_but_usr1 = ctypes.c_uint64(~(1 << (signal.SIGUSR1 - 1)) & (2**64 - 1))
    usr1 = ctypes.c_uint64(1 << (signal.SIGUSR1 - 1))
    epoll = select.epoll()
    epoll.register(r, select.EPOLLIN)
    events = ctypes.create_string_buffer(64)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    if name != "sigsuspend" and name != "pause":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGINT})
    poll = ctypes.create_string_buffer(struct.pack("<ihh", r, 1, 0))
    span = ctypes.create_string_buffer(struct.pack("<qq", 1, 500_000_000))
    word = ctypes.c_uint32(1)
    sem = libc.semget(0, 1, 0o1600) if name == "semtimedop" else -1
    sops = ctypes.create_string_buffer(struct.pack("<Hhh", 0, -1, 0))
    calls = {
        "nanosleep": lambda: libc.nanosleep(span, None),
        "read": lambda: libc.read(sys.stdin.fileno(), buffer, 1),
        "epoll_wait": lambda: libc.epoll_wait(epoll.fileno(), events, 4, 1500),
        "poll": lambda: libc.poll(poll, 1, 1500),
        "futex": lambda: libc.syscall(202, ctypes.byref(word), 128, 1, span, None, 0),
        "semtimedop": lambda: libc.semtimedop(sem, sops, 1, span),
        "sigtimedwait": lambda: libc.sigtimedwait(ctypes.byref(usr1), None, span),
        "sigsuspend": lambda: libc.sigsuspend(ctypes.byref(all_but_usr1)),
        "pause": lambda: libc.pause(),
    }
    start = time.monotonic()
    say("ready")
    result = calls[name]()
    error = ctypes.get_errno() if result < 0 else 0
    if sem >= 0:
        libc.semctl(sem, 0, 0)
    say("returned", result, error, int((time.monotonic() - start) * 1000))


def spin():
    """Computes the same again and again, under a storm of signals; says how often at each line."""
    ticks = [0]
    signal.signal(signal.SIGALRM, lambda *_: ticks.__setitem__(0, ticks[0] + 1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    data = bytes(range(256)) * 8
    want = hashlib.sha256(data).digest()
    say("ready")
    loops = 0
    while True:
        assert hashlib.sha256(data).digest() == want and sum(data) == 261120
        loops += 1
        if loops % 64 == 0 and select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            say(loops, ticks[0])


def hold(pages, kind="any"):
    """Lies there; touches that many pages at each line, all of them written over and over while a line says "busy"."""
    start = area(pages)
    if kind != "any":
        libc.madvise(start, pages * P, {"huge": mmap.MADV_HUGEPAGE, "small": 15}[kind])
    for at in range(start, start + pages * P, 1 << 24):
        libc.memset(at, 7, min(1 << 24, start + pages * P - at))
    say("ready")
    rng, at, count = random.Random(1), 0, 0
    for line in sys.stdin:
        if line.startswith("touch"):
            for _ in range(int(line.split()[1])):
                libc.memset(start + rng.randrange(pages) * P, rng.randrange(256), 1)
            say("done")
        else:
            until, count = time.monotonic() + 1, 0
            while time.monotonic() < until:
                for _ in range(64):
                    at = (at + 7 * P) % (4096 * P)
                    libc.memset(start + at, count & 255, P)
                count += 64
            say(count)


def moves():
    """Moves whole page tables about at "swap"; at "zero" a huge page is given back and read again."""
    start = (area(4096) + HUGE - 1) // HUGE * HUGE
    a, b, spare, big = (start + n * HUGE for n in range(0, 8, 2))
    libc.madvise(start, 4 * HUGE, 15)  # no huge pages
    for at in range(0, 2 * HUGE, P):
        for which, to in enumerate((a, b)):
            ctypes.memmove(to + at, struct.pack("<QQ", which, at), 16)
    libc.madvise(big, HUGE, mmap.MADV_HUGEPAGE)
    libc.memset(big, 9, HUGE)
    say("ready")
    for line in sys.stdin:
        if line.startswith("swap"):
            for old, new in ((a, spare), (b, a), (spare, b)):
                assert libc.mremap(old, 2 * HUGE, 2 * HUGE, 3, new) == new
        elif line.startswith("zero"):
            libc.madvise(big, HUGE, mmap.MADV_DONTNEED)
            assert ctypes.string_at(big, HUGE) == bytes(HUGE)
        say("done")


def own_userfaultfd():
    fd = check(libc.syscall(323, 0o2004000), "userfaultfd")
    api = ctypes.create_string_buffer(struct.pack("<QQQ", 0xAA, 1 | 1 << 12 | 1 << 13 | 1 << 15, 0))
    check(libc.ioctl(fd, ctypes.c_ulong(0xC018AA3F), api), "UFFDIO_API")
    start = area(16)
    libc.memset(start, 1, 16 * P)
    what = ctypes.create_string_buffer(struct.pack("<QQQQ", start, 16 * P, 2, 0))
    check(libc.ioctl(fd, ctypes.c_ulong(0xC020AA00), what), "UFFDIO_REGISTER")


def filtered():
    """userfaultfd kills."""
    code = b"".join(struct.pack("<HBBI", *one) for one in [
        (0x20, 0, 0, 0), (0x15, 0, 1, 323), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)])
    body = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(body)))
    check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(22, 2, program), "seccomp")


def main():
    what, args = sys.argv[1], sys.argv[2:]
    if what == "churn":
        churn(int(args[0]))
    elif what == "churn-child":
        churn(int(args[0]), 0)
    elif what == "call":
        call(args[0])
    elif what == "spin":
        spin()
    elif what == "hold":
        hold(int(args[0]), *args[1:])
    elif what == "moves":
        moves()
    else:
        {"userfaultfd": own_userfaultfd, "filtered": filtered, "nobody": lambda: os.setuid(65534)}[what]()
        hold(64)


main()
