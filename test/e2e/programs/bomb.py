# A fork bomb with a bound: up to as many processes as its user may have, each of which forks, and some of which end. Nobody's
# children are the first one's to collect.
import random, resource, sys

LIMIT = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (LIMIT, LIMIT))
first = os.getpid()
random.seed(first)
while True:
    try:
        if os.fork() == 0:
            random.seed(os.getpid())
    except OSError:
        pass  # as many as there may be
    try:
        while os.waitpid(-1, os.WNOHANG)[0] > 0:
            pass
    except ChildProcessError:
        pass
    time.sleep(0.02)
    if os.getpid() != first and random.random() < 0.2:
        os._exit(0)
