"""The bounded queue's deadlock, and that it is none here.

Finalisers log from whichever thread the collector runs on. A thread of the same process reads what is logged,
collects garbage in its loop, and logs a line for each 1 000 records that it has read: with a bounded queue it
waits, sooner or later, for room that only itself can make.

    deadlock.py spill        through the engine, with a lane of 16 KiB, and this policy for what does not fit;
    deadlock.py block:1s     with SPILLRING_TARGETS=full 1 000 000 numbered messages in at most 300 s
    deadlock.py queue        the control: queue.Queue(4) between the same threads. It hangs within 20 s
"""

import gc
import logging
import os
import queue
import sys
import threading
import time
import traceback

import spillring
from common import size

how = sys.argv[1]
n = size(100_000, 1_000_000)
log = logging.getLogger("deadlock")
log.setLevel("INFO")
log.propagate = False

if how == "queue":

    class QueueHandler(logging.Handler):
        """As applications have it: the line goes to a bounded queue."""

        def __init__(self):
            super().__init__()
            self.queue = queue.Queue(4)

        def createLock(self):
            self.lock = None

        def handle(self, record):
            self.queue.put(record.getMessage())

    handler = QueueHandler()

    def lines():
        while True:
            yield handler.queue.get()

    def may_wait():
        pass

else:
    handler = spillring.Handler(drain=True, lane_bytes=16384, overflow=how)

    def lines():
        for r in spillring.Reader(follow=True, wait=True):
            if r.kind == "log":
                yield r.message
            else:
                assert r.kind == "note", r

    def may_wait():
        if how.startswith("block"):
            spillring.thread_may_wait()


log.addHandler(handler)
seen = bytearray(n)
own_lines = 0
progress = 0
finalised = {}
complete = threading.Event()
failed = []


class Order:
    """An object in a cycle, whose finaliser logs its number from wherever the collector runs."""

    __slots__ = ("number", "me")

    def __init__(self, number):
        self.number, self.me = number, self

    def __del__(self):
        name = threading.current_thread().name
        finalised[name] = finalised.get(name, 0) + 1
        log.info("%d", self.number)


def produce(first, step):
    """Every second message comes from a finaliser."""
    may_wait()
    for i in range(first, n, step):
        if i // step % 2:
            log.info("%d", i)
        else:
            Order(i)


def read():
    global own_lines, progress
    may_wait()
    count = read_lines = 0
    for line in lines():
        read_lines += 1
        progress = read_lines
        if line.startswith("read"):
            own_lines += 1
        else:
            i = int(line)
            assert not seen[i], f"{i} was read twice"
            seen[i] = 1
            count += 1
        if read_lines % 1000 == 0:
            log.info("read %d", read_lines)
        if read_lines % 50 == 0:
            gc.collect()
        if count == n:
            complete.set()
            return


def reading():
    try:
        read()
    except BaseException as e:
        failed.append(e)
        complete.set()
        raise


gc.freeze()  # what was there before is no garbage: a collection is about the orders alone
begun = time.monotonic()
reader = threading.Thread(target=reading, name="reader", daemon=True)
producers = [
    threading.Thread(target=produce, args=(k, 2), name=f"producer {k}", daemon=True) for k in range(2)
]
for t in [reader] + producers:
    t.start()

limit = 20 if how == "queue" else size(90, 300)
before, since = -1, begun
while not complete.wait(0.05):
    now = time.monotonic()
    if progress != before:
        before, since = progress, now
    if not any(t.is_alive() for t in producers):
        gc.collect()  # the last ones
    hung = how == "queue" and now - since > 2
    if hung or now - begun > limit:
        frames = {
            t.name: traceback.format_stack(sys._current_frames()[t.ident]) for t in [reader] if t.is_alive()
        }
        where = "".join(frames.get("reader", ["the reader is gone"]))
        print(f"hung after {progress} lines, within {since - begun:.1f} s. The reader:\n{where}")
        sys.stdout.flush()
        # The control's very point: the reader waits for room in the queue that it empties itself.
        os._exit(0 if hung and "self.queue.put" in where else 1)
assert not failed, failed
assert how != "queue", "the control did not hang"
assert seen.count(1) == n
took = time.monotonic() - begun
on_reader = finalised.get("reader", 0)
assert on_reader >= 1000, finalised
c = spillring.counters()
assert c.lost == c.unattached == 0, c
print(
    f"{how}: {n} messages, each read once, in {took:.1f} s; finalisers ran on {finalised}, "
    f"{c.spilled} calls spilled, {c.nested} nested"
)
sys.stdout.flush()
