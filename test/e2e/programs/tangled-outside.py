"""Runs on the node, outside of the workload: `tangled-outside.py DOOR ROOT_PID`. Opens the door (a unix socket in the workload's
/data), hands a terminal's slave side and one end of a pipe in, keeps the connection, and traces the workload's child. Says
"tied" and holds on until its standard input ends."""
import array, ctypes, os, pty, socket, sys, time

door, root = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_UNIX)
listener.bind(door)
listener.listen(1)
connection, _ = listener.accept()
master, slave = pty.openpty()
reading, writing = os.pipe()
connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [slave, reading]))])
os.close(slave)
os.close(reading)
os.unlink(door)


def child_of(pid):
    while True:
        for task in os.listdir(f"/proc/{pid}/task"):
            children = open(f"/proc/{pid}/task/{task}/children").read().split()
            if children:
                return int(children[0])
        time.sleep(0.02)


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
PTRACE_SEIZE = 0x4206
if libc.ptrace(PTRACE_SEIZE, child_of(root), 0, 0) != 0:
    sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
print("tied", flush=True)
sys.stdin.read()
