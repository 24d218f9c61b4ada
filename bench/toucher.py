"""The benchmark's memory toucher: python3 -c SOURCE MIB BYTES_PER_SEC [PORT].

Holds MIB of memory that can't be compressed away, writes one byte into page after page at a set rate (4096 bytes of
dirty memory each), and answers redis' INCR, so that the same client counts over it as over a redis. "CHECK" answers 1
when every byte of its memory is what it ought to be, counted from the writes that it has made; 0 otherwise.
"RATE N" sets the rate, "TOUCHED" answers the pages written so far.
"""
import mmap, os, selectors, socket, sys, time, zlib

mib, rate = int(sys.argv[1]), float(sys.argv[2])
port = int(sys.argv[3]) if len(sys.argv) > 3 else 6379
PAGE, MIB = 4096, 1 << 20
pages = mib * MIB // PAGE
memory = mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
block = os.urandom(MIB)
sums = []
for start in range(0, mib):
    # Every MiB is different, and the first byte of every page is its generation: 0.
    piece = bytearray(block[start % 4093:] + block[:start % 4093])
    piece[0::PAGE] = bytes(MIB // PAGE)
    memory[start * MIB:(start + 1) * MIB] = bytes(piece)
    sums.append(zlib.crc32(piece))
touched = 0


def touch(count):
    """Writes the next `count` pages: each gets the number of its round, so far modulo 256."""
    global touched
    while count > 0:
        first = touched % pages
        now = min(count, pages - first)
        memory[first * PAGE:(first + now) * PAGE:PAGE] = bytes([(touched // pages + 1) & 255]) * now
        touched += now
        count -= now


def check():
    for start in range(mib):
        piece = bytearray(memory[start * MIB:(start + 1) * MIB])
        first = start * (MIB // PAGE)
        for page in range(MIB // PAGE):
            generation = (touched // pages + (1 if first + page < touched % pages else 0)) & 255
            if piece[page * PAGE] != generation:
                return 0
        piece[0::PAGE] = bytes(MIB // PAGE)
        if zlib.crc32(piece) != sums[start]:
            return 0
    return 1


def answer(words):
    global rate, counter
    word = words[0].upper()
    if word == b"INCR":
        counter += 1
        return counter
    if word == b"CHECK":
        return check()
    if word == b"TOUCHED":
        return touched
    if word == b"RATE":
        rate = float(words[1])
        return 1
    return 0


counter = 0
server = socket.create_server(("0.0.0.0", port))
server.setblocking(False)
wait = selectors.DefaultSelector()
wait.register(server, selectors.EVENT_READ)
buffers = {}
STEP = 0.002
last = time.monotonic()
owed = 0.0
while True:
    for key, _ in wait.select(STEP if rate > 0 else 1):
        if key.fileobj is server:
            peer, _ = server.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wait.register(peer, selectors.EVENT_READ)
            buffers[peer] = b""
            continue
        peer = key.fileobj
        try:
            data = peer.recv(65536)
        except OSError:
            data = b""
        if not data:
            wait.unregister(peer)
            peer.close()
            continue
        lines = (buffers[peer] + data).split(b"\r\n")
        # A request: *N, then N times $LENGTH and the word.
        while len(lines) > 1 and len(lines) > 2 * int(lines[0][1:]):
            count = int(lines[0][1:])
            words = lines[2:2 * count + 1:2]
            lines = lines[2 * count + 1:]
            peer.sendall(b":%d\r\n" % answer(words))
        buffers[peer] = b"\r\n".join(lines)
    now = time.monotonic()
    # Frozen time is not made up for: nobody writes a second's worth of pages at once.
    owed = min(owed + (now - last) * rate / PAGE, rate * 0.05 / PAGE + 1)
    last = now
    if owed >= 1:
        touch(int(owed))
        owed -= int(owed)
