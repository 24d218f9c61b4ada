"""Writes numbered lines of many lengths, with letters of two to four bytes, to its standard output: one write a line, from
two processes in turn (a pipe passes the number on). On SIGTERM it writes "the end" and ends."""
import os, signal, sys, time

ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
a, b = os.pipe(), os.pipe()


def line(n):
    return f"{n} {'äé→𝄞x' * (n * 7919 % 90)} {n}\n".encode()


child = os.fork()
mine, yours = (a, b) if child else (b, a)
if child:
    os.write(mine[1], b"1")
while True:
    n = int(os.read(mine[0], 20))
    if n == 0 or ending and child:
        os.write(yours[1], b"0")
        if child:
            os.waitpid(child, 0)
            os.write(1, b"the end\n")
        os._exit(0)
    data = line(n)
    assert os.write(1, data) == len(data)
    time.sleep(0.002)
    os.write(yours[1], str(n + 1).encode())
