"""The reader: where it begins and ends, what it says, and what is wrong with using it."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time

import spillring
from common import in_thread, logged, logger, raises, wait_until

# Before there is anything.
e = raises(spillring.Error, spillring.Reader, code="SPR_E_NO_CHANNEL", says="there is no journal in")
assert e.code == 2 and isinstance(e, Exception)
early = spillring.Reader("t", wait=True)
assert early.read() is None and list(early) == []

log = logger("reading", channel="t", drain=True)
for i in range(1000):
    log.info("%d", i, extra={"i": i})
assert [r.message for r in logged()] == [str(i) for i in range(1000)]
assert early.read(30).message == "0" and next(early).message == "1"

# Where it begins; "t" is this program's channel.
assert [r.message for r in spillring.Reader(start=3)] == ["997", "998", "999"]
assert len(list(spillring.Reader("t", start=10_000))) >= 1000
assert list(spillring.Reader(start="now")) == [] == list(spillring.Reader(start=0))
journal = os.path.join(os.environ["SPILLRING_JOURNAL_DIR"], "t")
for where in (journal, journal.encode(), type("P", (), {"__fspath__": lambda self: journal})()):
    assert sum(r.kind == "log" for r in spillring.Reader(journal=where)) == 1000
for bad in ("middle", -1, None, True, 1.5):
    raises(ValueError, spillring.Reader, start=bad)
raises(spillring.Error, spillring.Reader, journal="/nonexistent", code="SPR_E_NO_CHANNEL")
raises(spillring.Error, spillring.Reader, "no/slash", code="SPR_E_BAD_VALUE")
raises(ValueError, spillring.Reader, "nul\0")
raises(spillring.Error, spillring.Reader, "other", code="SPR_E_NO_CHANNEL", says="other")
raises(TypeError, spillring.Reader, 7)

# It goes on where it ended, as a file does; while it follows it waits.
r = spillring.Reader()
n = sum(1 for _ in r)
assert n >= 1000 and list(r) == []
log.info("later")
spillring.flush()
assert [x.message for x in r] == ["later"]
begun = time.monotonic()
assert r.read(0.2) is None and time.monotonic() - begun >= 0.2
with spillring.Reader(start="now", follow=True, timeout=0.3) as f:
    in_thread(log.info, "followed")
    assert [x.message for x in f] == ["followed"]
    threading.Timer(0.1, log.info, ["woken"]).start()
    assert f.read(None).message == "woken"


# Other threads run while it waits, and it stops at an exception of a signal handler.
class Stop(Exception):
    pass


def stop(*_):
    raise Stop


signal.signal(signal.SIGALRM, stop)
follower = spillring.Reader(start="now", follow=True)
ran = []
t = threading.Thread(target=lambda: [ran.append(i) or time.sleep(0.001) for i in range(10)])
t.start()
signal.setitimer(signal.ITIMER_REAL, 0.2)
raises(Stop, next, follower)
t.join()
assert len(ran) == 10
log.info("still good")
assert next(follower).message == "still good"
signal.setitimer(signal.ITIMER_REAL, 0.2)
raises(Stop, follower.read, None)


# One thread at a time; closed; closed again.
def read_for_ever():
    for _ in follower:
        pass


t = threading.Thread(target=read_for_ever, daemon=True)
t.start()
time.sleep(0.05)
for f in (lambda: follower.read(), follower.close, lambda: next(follower)):
    raises(spillring.Error, f, code="SPR_E_BUSY", says="another thread is reading")
r.close()
r.close()
raises(spillring.Error, r.read, code="SPR_E_CLOSED")
raises(spillring.Error, next, r, code="SPR_E_CLOSED")
with spillring.Reader() as r:
    next(r)
raises(spillring.Error, next, r, code="SPR_E_CLOSED")
raises(RuntimeError, spillring.Reader.__init__, spillring.Reader())
raw = spillring.Reader.__new__(spillring.Reader)
raises(spillring.Error, next, raw, code="SPR_E_CLOSED")
raw.close()
for bad in (-1, "x", float("nan")):
    raises((ValueError, TypeError), follower.read, bad)
    raises((ValueError, TypeError), spillring.Reader, follow=True, timeout=bad)

# Limit: readers. Those that nobody holds are closed.
readers = []
e = raises(
    spillring.Error, lambda: [readers.append(spillring.Reader()) for _ in range(300)], code="SPR_E_LIMIT"
)
assert len(readers) > 200
del readers, e
sys.last_value = None
spillring.Reader().close()
for _ in range(1000):
    spillring.Reader()

# A record is a tuple that does not change, and reads well.
x = next(iter(spillring.Reader()))
raises((AttributeError, TypeError), setattr, x, "message", "y")
assert len(x) == 14 and x[6] == x.message and "message='0'" in repr(x) and x.kind == "log"

# The drain's own notes and the losses are records too, with their kind.
assert {y.kind for y in spillring.Reader()} <= {"log", "note"}
print("read", n)
