"""Changes files of every kind all the time, in /data and in /var and /usr (the workload's own layer of the root), and
knows what each must be."""
import hashlib, mmap, random, shutil

rng = random.Random(5)
lock = threading.Lock()
ROOTS = ["/data/tree", "/var/lib/ferry-test"]
files = {}  # path -> bytes
links = {}  # path -> target
attributes = {}  # path -> value
gone = []  # of the lower layer
opaque = {}  # directory of the lower layer, made anew -> its only files
held = []  # (descriptor, bytes): open and deleted
sparse = {}  # path -> (size, offset, bytes)
count = 0


def name():
    return os.path.join(rng.choice(ROOTS), rng.choice("abcd"), f"{rng.randrange(10**9):x}")


def put(path, data, mode="wb"):
    with open(path, mode) as f:
        f.write(data)


def forget(path):
    files.pop(path)
    attributes.pop(path, None)


def names_of(path):
    there = os.stat(path)
    return [p for p in files if os.stat(p).st_ino == there.st_ino and os.stat(p).st_dev == there.st_dev]


def step():
    what = rng.random()
    some = rng.choice(list(files)) if files else None
    if what < 0.25 or some is None or len(files) < 20:
        path = name()
        files[path] = rng.randbytes(rng.choice([0, 10, 5000, 70000]))
        put(path, files[path])
    elif what < 0.4:
        more = rng.randbytes(rng.randrange(1, 3000))
        same = names_of(some)
        put(some, more, "ab")
        for path in same:
            files[path] += more
    elif what < 0.5 and len(files[some]) > 100:
        # the same size in the same instant: only its content says that it has changed
        data = bytearray(files[some])
        at = rng.randrange(len(data) - 10)
        data[at : at + 10] = rng.randbytes(10)
        same = names_of(some)
        with open(some, "r+b") as f, mmap.mmap(f.fileno(), 0) as view:
            view[at : at + 10] = bytes(data[at : at + 10])
        for path in same:
            files[path] = bytes(data)
    elif what < 0.6:
        to = name()
        if to.split("/")[2] == some.split("/")[2]:
            os.rename(some, to)
            files[to] = files.pop(some)
            if some in attributes:
                attributes[to] = attributes.pop(some)
    elif what < 0.7:
        os.unlink(some)
        forget(some)
    elif what < 0.78:
        to = os.path.join(os.path.dirname(some), f"l{rng.randrange(10**9):x}")
        os.link(some, to)
        files[to] = files[some]
    elif what < 0.83:
        to = name() + ".link"
        os.symlink(some, to)
        links[to] = some
    elif what < 0.88:
        value = rng.randbytes(20)
        same = names_of(some)
        os.setxattr(some, "user.ferry", value)
        for path in same:
            attributes[path] = value
    elif what < 0.92:
        path, data = name() + ".sparse", rng.randbytes(5000)
        size, at = 64 << 20, rng.randrange(60 << 20)
        with open(path, "wb") as f:
            f.truncate(size)
            f.seek(at)
            f.write(data)
        sparse[path] = (size, at, data)
        if len(sparse) > 4:
            old = next(iter(sparse))
            os.unlink(old)
            del sparse[old]
    elif what < 0.97:
        path, data = name(), rng.randbytes(20000)
        f = open(path, "w+b", buffering=0)
        f.write(data)
        os.unlink(path)
        held.append((f, data))
        if len(held) > 6:
            held.pop(0)[0].close()
    else:
        shutil.rmtree(f"{ROOTS[1]}/d")
        for path in [p for p in files if p.startswith(f"{ROOTS[1]}/d/")]:
            forget(path)
        for table in (links, sparse):
            for path in [p for p in table if p.startswith(f"{ROOTS[1]}/d/")]:
                del table[path]
        os.mkdir(f"{ROOTS[1]}/d")
    while len(files) > 150:
        path = next(iter(files))
        os.unlink(path)
        forget(path)


def lower():
    """Whiteouts, opaque directories, and a change of mode and owner of what the node brought."""
    for path in ("/usr/share/common-licenses/GPL-2", "/etc/debian_version"):
        os.unlink(path)
        gone.append(path)
    for path in ("/usr/share/doc/python3", "/usr/share/doc/bash"):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
            os.mkdir(path)
            put(f"{path}/new", b"only this\n")
            opaque[path] = ["new"]
    put("/etc/issue", b"changed\n", "ab")
    os.chmod("/etc/shells", 0o600)


def verify():
    with lock:
        for path, data in files.items():
            with open(path, "rb") as f:
                if f.read() != data:
                    raise AssertionError(f"{path} is not what was written")
        found = set()
        for root in ROOTS:
            for dir, _, names in os.walk(root):
                found.update(os.path.join(dir, n) for n in names)
        known = {*files, *links, *sparse}
        if found != known:
            raise AssertionError(f"too many: {sorted(found - known)[:3]}; missing: {sorted(known - found)[:3]}")
        for path, target in links.items():
            assert os.readlink(path) == target, path
        for path, value in attributes.items():
            assert os.getxattr(path, "user.ferry") == value, f"{path}: attribute"
        for path, (size, at, data) in sparse.items():
            there = os.stat(path)
            assert there.st_size == size and there.st_blocks * 512 < 4 << 20, f"{path}: {there}"
            with open(path, "rb") as f:
                f.seek(at)
                assert f.read(len(data)) == data, path
        for f, data in held:
            assert os.pread(f.fileno(), len(data) + 1, 0) == data, "open and deleted"
        assert hashlib.sha256(os.pread(ghost.fileno(), 11 << 20, 0)).digest() == ghost_digest, "10 MiB, open and deleted"
        for path in gone:
            assert not os.path.lexists(path), f"{path} is back"
        for path, names in opaque.items():
            assert os.listdir(path) == names, f"{path}: {os.listdir(path)}"
        assert open("/etc/issue").read().endswith("changed\n")
        assert os.stat("/etc/shells").st_mode & 0o777 == 0o600
        groups = {}
        for path in files:
            groups.setdefault((os.stat(path).st_dev, os.stat(path).st_ino), []).append(path)
        return dict(files=len(files), linked=sum(len(g) for g in groups.values() if len(g) > 1), count=count, held=len(held), opaque=len(opaque))


def change():
    global count
    while True:
        with lock:
            step()
            count += 1
            print(f"step {count}", flush=True)
        time.sleep(0.005)


for root in ROOTS:
    for letter in "abcd":
        os.makedirs(f"{root}/{letter}")
# Well over criu's own limit for deleted files that are still open (1 MiB).
ghost = open("/data/ghost", "w+b", buffering=0)
ghost_data = rng.randbytes(10 << 20)
ghost.write(ghost_data)
os.unlink("/data/ghost")
ghost_digest = hashlib.sha256(ghost_data).digest()
del ghost_data
lower()
checks["files"] = verify
guarded("change", change)
serve()
