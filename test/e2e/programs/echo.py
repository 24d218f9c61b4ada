"""Answers every line (TCP) and every datagram (UDP) on port 7000 with it and how often it has come."""
import collections, selectors, socket

seen = collections.Counter()
waiting = selectors.DefaultSelector()
listener = socket.create_server(("0.0.0.0", 7000))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", 7000))
for one in (listener, datagrams):
    waiting.register(one, selectors.EVENT_READ)


def answer(way, said):
    seen[way, said] += 1
    return said + b" %d\n" % seen[way, said]


while True:
    for key, _ in waiting.select():
        if key.fileobj is listener:
            waiting.register(listener.accept()[0], selectors.EVENT_READ)
        elif key.fileobj is datagrams:
            said, peer = datagrams.recvfrom(2048)
            datagrams.sendto(answer("udp", said), peer)
        else:
            said = key.fileobj.recv(2048)
            if said == b"":
                waiting.unregister(key.fileobj)
                key.fileobj.close()
            for line in said.splitlines():
                key.fileobj.sendall(answer("tcp", line))
