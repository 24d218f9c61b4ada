"""Everything that can't move, on purpose: a terminal, a pipe and a unix socket whose other sides are outside (handed in by
tangled-outside.py through /data/door.sock), io_uring, a file mapped that other nodes have in another version, and a child
that somebody traces. When the file /data/untie is there, it lets go of all of it. Always goes on counting."""
import array, ctypes, mmap, signal

MAPPED = "/opt/proof.bin"
state_of = dict(count=0, tied=False)
checks["state"] = lambda: dict(state_of)


def count():
    while True:
        state_of["count"] += 1
        time.sleep(0.01)


def tie():
    while not os.path.exists("/data/door.sock"):
        time.sleep(0.02)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(425, 8, ctypes.create_string_buffer(120))
    with open(MAPPED, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    door = socket.socket(socket.AF_UNIX)
    door.connect("/data/door.sock")
    _, ancillary, _, _ = door.recvmsg(1, socket.CMSG_SPACE(8))
    handed = array.array("i", ancillary[0][2])
    # The traced one is the newest process of the workload: the helper asks which pid that is on the node.
    state_of.update(tied=True, ring=ring)
    while not os.path.exists("/data/untie"):
        time.sleep(0.02)
    for fd in [*handed, ring] if ring >= 0 else handed:
        os.close(fd)
    door.close()
    mapped.close()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state_of["tied"] = False


guarded("count", count)
guarded("tie", tie)
serve()
