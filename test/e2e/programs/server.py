"""A server of several threads that hand work to each other; says who, where and with what it runs."""
import hashlib, queue, resource

jobs = queue.Queue(64)
done = queue.Queue(64)
sums = {"made": 0, "checked": 0}


def make():
    n = 0
    while True:
        jobs.put((n, os.urandom(2048)))
        n += 1
        sums["made"] = n
        time.sleep(0.002)


def digest():
    while True:
        n, data = jobs.get()
        done.put((n, data, hashlib.sha256(data).hexdigest()))


def verify():
    while True:
        n, data, sum = done.get()
        if hashlib.sha256(data).hexdigest() != sum:
            raise AssertionError(f"job {n} was damaged")
        sums["checked"] += 1


local = threading.local()
checks["work"] = lambda: dict(sums)
checks["who"] = lambda: dict(
    uid=os.getuid(), gid=os.getgid(), cwd=os.getcwd(), color=os.environ.get("COLOR"), threads=threading.active_count()
)
open("mine", "w").close()
guarded("make", make)
for _ in range(3):
    guarded("digest", digest)
guarded("verify", verify)
serve()
