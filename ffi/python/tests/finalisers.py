"""Logging from where no lock may be taken: __del__, weakref callbacks, the collector's callbacks, the
interpreter's end."""

import atexit
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref

import spillring
from common import exactly_once, logged, logger

if len(sys.argv) > 1:
    # A program that ends with objects whose finalisers log, in cycles, in modules, in threads.
    log = logger("end", channel="end")

    class AtEnd:
        def __init__(self, name):
            self.name, self.me = name, self

        def __del__(self):
            log.info("%s", self.name)

    kept = [AtEnd(f"list {i}") for i in range(10)]
    AtEnd.forever = AtEnd("class")
    sys.modules["odd"] = AtEnd("module")
    weakref.finalize(kept[0], log.info, "%s", "finalize")
    atexit.register(log.info, "%s", "atexit")
    threading.Thread(target=lambda: threading.Event().wait(), daemon=True).start()
    log.info("%s", "last line")
    sys.exit(3)

log = logger(drain=True, lane_bytes=16384)
n = 3000
ran_on = set()


class Finalised:
    """Its finaliser logs, from whichever thread the collector runs on."""

    def __init__(self, number):
        self.number, self.me = number, self

    def __del__(self):
        ran_on.add(threading.current_thread().name)
        log.info("del %d", self.number)


class Told:
    pass


def gone(number):
    def told(_):
        log.info("weak %d", number)

    return told


def collected(phase, info):
    log.info("gc %s %d", phase, info["generation"])


class Text:
    """Making its text throws away what logs, in the midst of a call."""

    def __init__(self, number):
        self.number = number

    def __str__(self):
        Finalised(self.number)
        gc.collect(0)
        return f"text {self.number}"


def work(first):
    together.wait(60)
    for i in range(first, first + n):
        Finalised(i)
        told = Told()
        told.ref = weakref.ref(told, gone(i))
        told.me = told
        refs.append(told.ref)
        if i % 20 == 0:
            log.info("%s", Text(i + 10**6))


refs = []
together = threading.Barrier(4)
gc.callbacks.append(collected)
threads = [threading.Thread(target=work, args=(k * n,)) for k in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join(60)
    assert not t.is_alive()
gc.collect()
gc.callbacks.clear()
found = [r.message for r in logged()]
texts = [k for k in range(4 * n) if k % 20 == 0]
exactly_once(
    [m for m in found if m[:3] != "gc "],
    [f"del {i}" for i in range(4 * n)]
    + [f"weak {i}" for i in range(4 * n)]
    + [f"text {i + 10**6}" for i in texts]
    + [f"del {i + 10**6}" for i in texts],
)
assert len(ran_on) >= 2, ran_on
collections = sum(m[:3] == "gc " for m in found)
assert collections >= 2 and collections % 2 == 0, collections

# The program's end.
done = subprocess.run([sys.executable, "-X", "dev", __file__, "end"], timeout=60)
assert done.returncode == 3, done
subprocess.run(
    [sys.executable, "-c", "import spillring; spillring.init('end', drain=True); assert spillring.flush(30)"],
    check=True,
    timeout=60,
)
at_end = [r.message for r in spillring.Reader("end") if r.kind == "log"]
# (What the interpreter never finalises logs nothing; what logs, logs once.)
assert len(set(at_end)) == len(at_end) and {"last line", "finalize", "atexit"} <= set(at_end), at_end
print(
    f"{len(found)} records of {len(ran_on)} threads, {collections} of the collector; at the end {len(at_end)}"
)
