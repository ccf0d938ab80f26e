"""What a log call costs, as CPU time of the whole process, net of a NullHandler: at most 1.6 of a handler
that only formats the record, and 0.4 of a QueueHandler with QueueListener and FileHandler, the listener
joined. The drain is another process, as it is meant to be; what it costs as a thread of this one is
printed too."""

import logging
import logging.handlers
import os
import queue
import subprocess
import sys
import time

import spillring
from common import size, wait_until


class Formats(logging.Handler):
    def emit(self, record):
        self.format(record)


def cost(handler, n, end=lambda: None):
    log = logging.getLogger("cost")
    log.propagate = False
    log.setLevel("INFO")
    log.handlers = [handler]
    info = log.info
    begun = time.process_time()
    for i in range(n):
        info("order %d of %s at %.2f", i, "water", 1.5)
    end()
    return (time.process_time() - begun) / n * 1e9


def queued(n):
    q = queue.Queue(-1)
    target = logging.FileHandler(os.path.join(os.environ["SPILLRING_JOURNAL_DIR"], "file.log"))
    listener = logging.handlers.QueueListener(q, target)
    listener.start()
    try:
        return cost(logging.handlers.QueueHandler(q), n, listener.stop)
    finally:
        target.close()


n, rounds = size(10_000, 50_000), size(5, 10)
drain = "import spillring, time, sys; spillring.init(drain=True); sys.stdin.read()"
other = subprocess.Popen([sys.executable, "-c", drain], stdin=subprocess.PIPE)
try:
    handler = spillring.Handler()
    wait_until("a drain", spillring.drain_present)
    ways = {
        "NullHandler": lambda: cost(logging.NullHandler(), n),
        "format only": lambda: cost(Formats(), n),
        "spillring": lambda: cost(handler, n),
        "queue, listener, file": lambda: queued(n),
    }
    best = {}
    for _ in range(rounds):
        for name, f in ways.items():
            best[name] = min(f(), best.get(name, 1e12))
    assert spillring.flush(30)
finally:
    other.stdin.close()
    assert other.wait(30) == 0
assert spillring.counters().lost == 0
spillring.init(drain=True)
wait_until("a drain", spillring.drain_present)
with_drain = min(cost(handler, n, lambda: spillring.flush(30)) for _ in range(rounds))

null = best["NullHandler"]
for name, ns in best.items():
    print(f"{name:22} {ns:7.0f} ns a call, net {ns - null:7.0f}")
print(f"{'spillring, with drain':22} {with_drain:7.0f} ns a call, net {with_drain - null:7.0f}")
ours = best["spillring"] - null
of_format, of_queue = ours / (best["format only"] - null), ours / (best["queue, listener, file"] - null)
whole = (with_drain - null) / (best["queue, listener, file"] - null)
print(
    f"of the one that formats: {of_format:.2f} (at most 1.6); of the queue: {of_queue:.2f} (at most 0.4), "
    f"{whole:.2f} with the drain in the same process"
)
assert of_format <= 1.6 and of_queue <= 0.4
