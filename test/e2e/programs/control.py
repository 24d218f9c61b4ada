"""What all these programs share: a thread per connection on port 7000 that answers lines. `N` is echoed with the count of
lines seen on this connection; `check` answers what `check()` of the program returns, as JSON; a failure of any thread is
remembered and shown there. Runs in front of each program (python3 -c)."""
import json, os, socket, sys, threading, time, traceback, warnings

warnings.simplefilter("ignore")  # fork() beside threads is meant

bad = []
checks = {}


def fail(what):
    bad.append(f"{what}: {traceback.format_exc()[-600:]}")
    os.write(2, (bad[-1] + "\n").encode())


def guarded(what, work, *args):
    def run():
        try:
            work(*args)
        except BaseException:
            fail(what)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def state():
    answer = {}
    for name, ask in checks.items():
        try:
            answer[name] = ask()
        except BaseException:
            fail(name)
    answer["bad"] = bad[:5]
    return answer


def talk(connection):
    seen = 0
    with connection, connection.makefile("rw", newline="\n") as stream:
        for line in stream:
            seen += 1
            word = line.strip()
            stream.write((json.dumps(state()) if word == "check" else f"{word} {seen}") + "\n")
            stream.flush()


def serve(family=socket.AF_INET6, port=7000):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    listener.listen(64)
    print("serving", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=talk, args=(connection,), daemon=True).start()
