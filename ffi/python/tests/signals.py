"""A signal handler that logs every 50 us, into a thread that logs in a tight loop: nothing is lost, torn
or hung.

With SPILLRING_TARGETS=full: for 10 s, at least 100 000 records of the handler, 1 000 of which interrupted
a log call.
"""

import signal
import time

import spillring
from common import exactly_once, logged, logger, size

log = logger(drain=True)
state = {"handler": 0, "inside": 0, "main": 0}
in_call = False
depth = 0


class Slow:
    """Its text is made in the midst of the call, so that signals come there."""

    def __init__(self, i):
        self.i = i

    def __str__(self):
        return f"{self.i}:{self.i * 7919:x}:{self.i}"


def on_alarm(number, frame):
    global depth
    if depth == 3:
        return  # on a machine so busy that handlers interrupt handlers without end
    depth += 1
    i = state["handler"]
    state["handler"] = i + 1
    state["inside"] += in_call
    log.warning("h %d %s", i, f"{i}:{i * 7919:x}:{i}")
    depth -= 1


want, inside, least = size(5_000, 100_000), size(50, 1_000), size(1, 10)
signal.signal(signal.SIGALRM, on_alarm)
begun = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
while state["handler"] < want or state["inside"] < inside or time.monotonic() < begun + least:
    i = state["main"]
    in_call = True
    log.info("m %d %s", i, Slow(i), extra={"i": i})
    in_call = False
    state["main"] = i + 1
    assert time.monotonic() < begun + 90, state
signal.setitimer(signal.ITIMER_REAL, 0)
took = time.monotonic() - begun
time.sleep(0.01)

handler = []
loop = 0
for r in logged():
    kind, number, text = r.message.split(" ")
    i = int(number)
    assert text == f"{i}:{i * 7919:x}:{i}" and kind in "hm", r
    if kind == "h":
        handler.append(i)  # in the order of their calls: a handler is interrupted by the next one
    else:
        assert i == loop and r.fields == {"i": i}, (r, loop)
        loop += 1
exactly_once(handler, range(state["handler"]))
assert loop == state["main"], (loop, state)
c = spillring.counters()
assert c.lost == c.unattached == 0, c
print(
    f"{took:.1f} s, {state['handler']} records of the handler, {state['inside']} which interrupted a call, "
    f"{state['main']} of the loop; nested in the engine: {c.nested}, spilled: {c.spilled}"
)
