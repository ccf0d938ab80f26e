"""os.fork, and multiprocessing by fork, spawn and forkserver: every record of parent and children, once.

Without an argument all of it; `forks.py METHOD` is the program of one method."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import spillring
from common import exactly_once, logged, logger

RECORDS = 200


def say(who: str) -> None:
    log = logging.getLogger("test")
    for i in range(RECORDS):
        log.info("%s %d", who, i)


def said(who: str) -> list:
    return [f"{who} {i}" for i in range(RECORDS)]


def fork_and(f, *args) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            f(*args)
            code = 0
        except SystemExit as e:
            code = e.code
        finally:
            os._exit(code)
    return pid


def ends(pid: int, code: int = 0) -> None:
    _, status = os.waitpid(pid, 0)
    assert status == (code << 8 if code >= 0 else -code), f"child: {status:#x}"


def fork() -> None:
    """By hand: children, a grandchild, a fork in the midst of a call, and one beside threads that log."""
    log = logger("test", drain=True, lane_bytes=16384)
    log.info("before")

    def child(name):
        say(name)
        ends(fork_and(say, f"{name}'s child"))
        say(f"{name} again")

    class Forks:
        """Its text forks: the child is in the midst of the parent's call, and of its own from there on."""

        def __str__(self):
            self.pid = os.fork()
            return "of the child" if self.pid == 0 else "of the parent"

    stop = threading.Event()
    counts = [0, 0]

    def beside(k):
        while not stop.is_set():
            log.info("beside %d %d", k, counts[k])
            counts[k] += 1

    threads = [threading.Thread(target=beside, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for k in range(5):
        ends(fork_and(child, f"child {k}"))
    forks = Forks()
    log.info("in the midst, %s", forks)
    if forks.pid == 0:
        say("midst")
        os._exit(0)
    ends(forks.pid)
    # One that is killed, and one that ends as a program does (finalisers, atexit and all).
    pid = os.fork()
    if pid == 0:
        say("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    ends(pid, -9)
    pid = os.fork()
    if pid == 0:
        stop.set()
        threading.excepthook = lambda a: None
        say("exits")
        sys.exit(7)
    ends(pid, 7)
    # vfork and exec, in mid-use.
    program = (
        "import logging, spillring\n"
        "spillring.Handler().handle(logging.makeLogRecord({'msg': 'exec', 'levelno': 20}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    stop.set()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    expected = ["before", "exec", "in the midst, of the child", "in the midst, of the parent"]
    for k in range(5):
        expected += said(f"child {k}") + said(f"child {k}'s child") + said(f"child {k} again")
    expected += said("midst") + said("killed") + said("exits")
    expected += [f"beside {k} {i}" for k in range(2) for i in range(counts[k])]
    check(expected, 2 + 5 + 5 + 3)


def check(expected, processes) -> None:
    assert spillring.flush(30)
    # A child's ring is found by the drain's next looks.
    from common import wait_until

    wait_until("all records", lambda: len(logged()) >= len(expected))
    records = logged()
    exactly_once([r.message for r in records], expected)
    pids = {r.pid for r in records}
    assert len(pids) == processes, (len(pids), processes)
    method = multiprocessing.get_start_method(True) or "os.fork"
    print(f"{method}: {len(records)} records of {len(pids)} processes")


def begin() -> None:
    """What a worker that was not forked from a configured parent needs: its handler."""
    logger("test")


def job(i: int) -> int:
    logging.getLogger("test").info("job %d", i)
    return os.getpid()


def by_method(method: str) -> None:
    multiprocessing.set_start_method(method)
    log = logger("test", drain=True)
    log.info("before")
    workers = [multiprocessing.Process(target=work, args=(method, f"worker {k}")) for k in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
        assert w.exitcode == 0, w
    # A forked pool needs no initialiser, and does no harm with one.
    with multiprocessing.Pool(2, initializer=None if method == "fork" else begin) as pool:
        pids = set(pool.map(job, range(500), chunksize=10))
        pool.close()
        pool.join()
    expected = ["before"] + [f"job {i}" for i in range(500)]
    for k in range(3):
        expected += said(f"worker {k}")
    check(expected, 1 + 3 + len(pids))


def work(method: str, who: str) -> None:
    if method != "fork":
        begin()
    say(who)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        fork() if sys.argv[1] == "os.fork" else by_method(sys.argv[1])
    else:
        running = []
        for method in ("os.fork", "fork", "spawn", "forkserver"):
            env = {**os.environ, "SPILLRING_CHANNEL": method}
            running.append(
                subprocess.Popen(
                    [sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else []), __file__, method],
                    env=env,
                )
            )
        codes = [p.wait(100) for p in running]
        assert codes == [0] * 4, codes
