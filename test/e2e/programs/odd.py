"""A little of everything that a kernel keeps for a process: each part counts, and says when something is wrong."""
import ctypes, fcntl, select, signal, struct, subprocess

libc = ctypes.CDLL(None, use_errno=True)
counts = {}


def part(work):
    counts[work.__name__] = 0
    guarded(work.__name__, work)
    return work


def tick(name):
    counts[name] += 1


def udp(family, port, name):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    c = socket.socket(family, socket.SOCK_DGRAM)
    c.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    c.settimeout(10)
    n = 0
    while True:
        n += 1
        c.send(b"%d" % n)
        data, sender = s.recvfrom(100)
        s.sendto(data, sender)
        assert c.recv(100) == b"%d" % n
        tick(name)
        time.sleep(0.01)


@part
def udp4():
    udp(socket.AF_INET, 7001, "udp4")


@part
def udp6():
    udp(socket.AF_INET6, 7002, "udp6")


def streams(family, address, name):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen(5)
    held = None
    n = 0
    while True:
        # one connection that lives long, and short ones
        client = socket.socket(family)
        client.connect(address)
        server, _ = listener.accept()
        held = held or (client, server)
        for c, s in (held, (client, server)):
            n += 1
            c.sendall(b"%09d" % n)
            assert s.recv(9, socket.MSG_WAITALL) == b"%09d" % n
        if held[0] is not client:
            client.close()
            server.close()
        tick(name)
        time.sleep(0.05)


@part
def unix():
    streams(socket.AF_UNIX, "/data/listening.sock", "unix")


@part
def abstract():
    streams(socket.AF_UNIX, "\0ferry-test", "abstract")


@part
def timer():
    fd = os.timerfd_create(time.CLOCK_MONOTONIC)
    os.timerfd_settime(fd, initial=0.02, interval=0.02)
    event = os.eventfd(0)
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    poll.register(event, select.EPOLLIN | select.EPOLLET)
    began, fired, wrote = time.monotonic(), 0, 0
    while True:
        for ready, _ in poll.poll(10):
            if ready == fd:
                fired += struct.unpack("<Q", os.read(fd, 8))[0]
                os.eventfd_write(event, 3)
                wrote += 3
                # the clock stands still with the workload: never more ticks than time
                assert fired <= (time.monotonic() - began) / 0.02 + 2, (fired, time.monotonic() - began)
                tick("timer")
            else:
                assert os.eventfd_read(event) % 3 == 0


@part
def watch():
    os.makedirs("/data/watched")
    fd = libc.inotify_init1(0o2000000)
    assert libc.inotify_add_watch(fd, b"/data/watched", 0x100) > 0
    n = 0
    while True:
        n += 1
        path = f"/data/watched/{n % 50}"
        if os.path.exists(path):
            os.unlink(path)
        open(path, "w").close()
        ready, _, _ = select.select([fd], [], [], 10)
        assert ready, "no event"
        assert b"%d" % (n % 50) in os.read(fd, 4096)
        tick("watch")
        time.sleep(0.02)


@part
def zombies():
    dead = []
    n = 0
    while True:
        n += 1
        child = os.fork()
        if child == 0:
            os._exit(n % 100)
        dead.append((child, n % 100))
        if len(dead) > 8:
            pid, code = dead.pop(0)
            assert os.waitpid(pid, 0) == (pid, code << 8)
        tick("zombies")
        time.sleep(0.1)


@part
def pipes():
    # numbers that are always on their way
    pipe = subprocess.Popen(
        ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done | cat | tee /data/pipeline"], stdout=subprocess.PIPE
    )
    for n, line in enumerate(pipe.stdout, 1):
        assert int(line) == n, (line, n)
        tick("pipes")


@part
def full():
    # a pipe and a FIFO with something in it over the move
    os.mkfifo("/data/fifo")
    fifo = os.open("/data/fifo", os.O_RDWR)
    r, w = os.pipe()
    n = 0
    for fd in (w, fifo):
        os.write(fd, b"".join(b"%08d" % i for i in range(500)))
    while True:
        for out, back in ((w, r), (fifo, fifo)):
            assert os.read(back, 8) == b"%08d" % n
            os.write(out, b"%08d" % (n + 500))
        n += 1
        tick("full")
        time.sleep(0.01)


@part
def locks():
    whole, part = open("/data/flock", "w"), open("/data/fcntl", "w+")
    fcntl.flock(whole, fcntl.LOCK_EX)
    fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)
    while True:
        child = os.fork()
        if child == 0:
            code = 0
            for path, take in (("/data/flock", fcntl.flock), ("/data/fcntl", fcntl.lockf)):
                try:
                    take(open(path, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    code = 1
                except OSError:
                    pass
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, "a lock is lost"
        tick("locks")
        time.sleep(0.1)


@part
def script():
    # a shell with a trap, a background child and a here-document
    words = subprocess.Popen(["bash", "-c", 'trap "echo trapped" USR1; n=0; while read -t 0.05 || [ $? -gt 128 ]; do n=$((n+1)); cat <<< "n $n"; done'],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    expected = 0
    for line in words.stdout:
        if line == b"trapped\n":
            tick("script")
            continue
        expected += 1
        assert line == b"n %d\n" % expected, (line, expected)
        words.send_signal(signal.SIGUSR1)


def on_alarm(number, frame):
    counts["alarm"] += 1


counts["alarm"] = 0
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
os.umask(0o027)
checks["counts"] = lambda: dict(counts)
checks["umask"] = lambda: [line for line in open("/proc/self/status") if line.startswith("Umask")][0].split()[1]
guarded("serve", serve)
while True:
    time.sleep(0.5)
