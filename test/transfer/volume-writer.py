"""Changes a directory in every way that a copier may miss, without end: `volume-writer.py DIR SEED`. Few names, few sizes
and times set back, so that one file is often mistaken for another. Prints a letter now and then."""
import ctypes, mmap, os, random, shutil, sys

os.chdir(sys.argv[1])
rnd = random.Random(int(sys.argv[2]))
libc = ctypes.CDLL(None, use_errno=True)
NAMES = ["a", "b", "c", "dä", "e f"]
DIRS = ["x", "y", "z"]
BIG = ["big0", "big1"]
# Never cut short: a store behind the end would kill.
MAPPED = ["m", "n"]
SIZES = [0, 5, 5, 5000, 5000, 70000]
OLD = 1_000_000
maps = {}


def path():
    return "/".join(rnd.choice(DIRS) for _ in range(rnd.choice([0, 0, 1, 1, 2])) ) or "."


def file():
    return path() + "/" + rnd.choice(NAMES)


def plain():
    """A file that is there (mostly), and a file: a pipe would block."""
    for _ in range(30):
        name = file()
        if os.path.isfile(name) and not os.path.islink(name):
            return name
    raise OSError


def data(size):
    return bytes([rnd.randrange(1, 256)]) * size


def back(name):
    os.utime(name, (OLD, OLD))


def write():
    name = file()
    if os.path.lexists(name):
        name = plain()
    with open(name, "r+b" if os.path.exists(name) and rnd.random() < 0.6 else "wb") as f:
        f.write(data(rnd.choice(SIZES)))
    if rnd.random() < 0.7:
        back(name)


def quiet():
    name = plain()
    size = os.path.getsize(name)
    with open(name, "r+b") as f:
        f.seek(rnd.randrange(size))
        f.write(data(1))
    back(name)


def big():
    name = rnd.choice(BIG)
    with open(name, "r+b" if os.path.exists(name) else "w+b") as f:
        f.truncate(12 << 20)
        at = rnd.randrange(12) << 20
        if rnd.random() < 0.3:
            libc.fallocate(f.fileno(), 3, ctypes.c_long(at), ctypes.c_long(1 << 20))
        else:
            f.seek(at + rnd.randrange(4096))
            f.write(data(rnd.choice([1, 300, 200000])))
    if rnd.random() < 0.5:
        back(name)


def mapped():
    return path() + "/" + rnd.choice(MAPPED)


def store():
    if len(maps) > 6 or maps and rnd.random() < 0.1:
        maps.pop(rnd.choice(list(maps))).close()
    name = rnd.choice(BIG) if rnd.random() < 0.3 else mapped()
    if name not in maps:
        with open(name, "r+b" if os.path.exists(name) else "w+b") as f:
            f.truncate(12 << 20 if name in BIG else 8192)
            maps[name] = mmap.mmap(f.fileno(), 4096)
        if rnd.random() < 0.5:
            back(name)
    m = rnd.choice(list(maps.values()))
    m[rnd.randrange(5)] = rnd.randrange(256)


def move_mapped():
    """A mapping goes on when its file has another name, more names, or none."""
    rnd.choice([os.rename, os.link])(mapped(), mapped())
    if rnd.random() < 0.3:
        os.unlink(mapped())


def append():
    with open(rnd.choice(["log", "x/log"]), "ab") as f:
        f.write(data(200))


def replace():
    """Another file of the same size and time takes the place; its other names keep the old one."""
    name = plain()
    shutil.copy2(name, "temporary")
    with open("temporary", "r+b") as f:
        f.write(data(1))
    shutil.copystat(name, "temporary")
    os.rename("temporary", name)


def separate():
    """The same content, but no longer the same file."""
    name = plain()
    shutil.copy2(name, "temporary")
    os.rename("temporary", name)


def link():
    os.link(plain(), file())


def rename():
    os.rename(plain(), file())


def move_dir():
    os.rename(path(), path())


def exchange():
    a, b = rnd.choice([(path(), path()), (file(), file())])
    libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2)


def there_and_back():
    a, b = os.fsencode(path()), os.fsencode(path())
    if libc.renameat2(-100, a, -100, b, 2) == 0:
        if rnd.random() < 0.5:
            append()
        libc.renameat2(-100, a, -100, b, 2)


def attributes():
    name = rnd.choice([file(), path()])
    rnd.choice([
        lambda: os.setxattr(name, "user.n", data(4)),
        lambda: os.removexattr(name, "user.n"),
        lambda: os.chmod(name, 0o700 | rnd.randrange(64)),
        lambda: os.chown(name, rnd.randrange(5), rnd.randrange(5)),
    ])()


def kind():
    """What was one kind of file becomes another, now and then."""
    if rnd.random() < 0.8:
        return
    name = file()
    if os.path.isdir(name) and not os.path.islink(name):
        shutil.rmtree(name)
    elif os.path.lexists(name):
        os.unlink(name)
    rnd.choice([
        lambda: os.mkdir(name),
        lambda: os.symlink(rnd.choice(NAMES), name),
        lambda: os.mkfifo(name),
        lambda: (os.makedirs(name + "/x"), open(name + "/x/a", "wb").write(data(5)), back(name + "/x/a")),
    ])()


def unlink():
    os.unlink(file())


def remove():
    if rnd.random() < 0.05:
        shutil.rmtree(path() if rnd.random() < 0.1 else rnd.choice(DIRS))


def make():
    os.makedirs(path(), exist_ok=True)


OPERATIONS = [write, write, write, quiet, quiet, big, store, store, store, move_mapped, append, replace, separate, link, link, rename, move_dir,
              exchange, there_and_back, attributes, kind, unlink, remove, make, make]
n = 0
print("x", end="", flush=True)
while True:
    n += 1
    try:
        rnd.choice(OPERATIONS)()
    except (OSError, ValueError, shutil.Error):
        pass
    if n % 100 == 0:
        print("x", end="", flush=True)
