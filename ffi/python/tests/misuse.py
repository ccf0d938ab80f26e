"""Bad input: wrong values, wrong types, wrong order, descriptors closed behind the library's back. An
exception or a counted loss, never a crash, never a hang."""

import logging
import os
import resource
import subprocess
import sys
import threading

import spillring
from common import logged, logger, raises
from spillring import _spillring


def part(code: str, expect: int = 0, **env) -> str:
    """A program of its own; what it printed."""
    full = {
        **{k: v for k, v in os.environ.items() if k not in env},
        **{k: v for k, v in env.items() if v is not None},
    }
    head = "import logging, os, sys, spillring\nlog = logging.getLogger('t'); log.setLevel(1)\n"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", head + code],
        env=full,
        timeout=60,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


# Before init: counted, and nothing else. A Handler makes the init, so its base is used here.
before = part("""
class H(spillring._spillring.Emitter, logging.Handler):
    def createLock(self): self.lock = None
h = H()
h.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
for f in (spillring.flush, spillring.shutdown, spillring.thread_may_wait, lambda: spillring.prepare(1)):
    try: f(); sys.exit(1)
    except spillring.Error as e: print(e.name)
print(spillring.counters().unattached, spillring.drain_present())
""")
assert before.splitlines() == ["SPR_E_NOT_ATTACHED"] * 4 + ["1 False"], before

# Options that are wrong: an error that names what is allowed, and the program may go on.
for wrong, says in (
    (dict(channel="a/b"), "SPILLRING_CHANNEL"),
    (dict(channel="x" * 65), ""),
    (dict(level="loud"), "SPILLRING_LEVEL"),
    (dict(overflow="block"), "SPILLRING_OVERFLOW"),
    (dict(lane_bytes=3), "SPILLRING_LANE"),
    (dict(lanes=10**6), "SPILLRING_LANES"),
    (dict(dir="relative"), "SPILLRING_DIR"),
):
    raises(spillring.Error, spillring.init, **wrong, code="SPR_E_BAD_VALUE", says=says)
raises(ValueError, spillring.init, "nul\0")
raises((OverflowError, TypeError), spillring.init, lanes="x")
raises(TypeError, spillring.init, 7)
raises(TypeError, _spillring.init)
raises(TypeError, _spillring.init, "str", None, None, None, None, 0, 0, False)
raises(spillring.Error, spillring.Handler, channel="-x", code="SPR_E_BAD_VALUE")
raises(spillring.Error, spillring.init, dir="/proc/no/such", says="/proc/no/such")
raises(TypeError, spillring.Handler, unknown=1)

# In the environment they are told, and the default holds.
said = part("spillring.Handler()", SPILLRING_LANE="3", SPILLRING_OVERFLOW="perhaps")
assert "SPILLRING_LANE" in said and "SPILLRING_OVERFLOW" in said, said

# Twice: the first one's options hold.
assert spillring.init("misuse", drain=True) is True
assert spillring.init("other") is False and spillring.init() is False
log = logger(channel="third")
log.info("one")
assert [r.message for r in logged()] == ["one"]
assert all(spillring.flush(t) is True for t in (None, 1, 5.0))
for bad in (-1, "x", float("nan")):
    raises((ValueError, TypeError), spillring.flush, bad)

# What is no record, and a bare base.
handler = log.handlers[0]
old, logging.raiseExceptions = logging.raiseExceptions, False
for thing in (None, 7, object(), object, "text", type("R", (), {"__dict__": 3})(), logging.Handler):
    handler.handle(thing)
logging.raiseExceptions = old
base = _spillring.Emitter()
base.handle(logging.makeLogRecord({"msg": "by the base", "levelno": 20}))
raises(AttributeError, base.handle, logging.LogRecord("n", 20, "p", 1, "%d", ("x",), None))
base.filters = 7
raises(AttributeError, base.handle, logging.makeLogRecord({}))
base.formatter = 7
base.filters = []
raises(AttributeError, base.handle, logging.makeLogRecord({}))
for args in ((), ([], 0, 0), ((), 0), ("x", 0, 0)):
    raises(TypeError, base._configure, *args)
base._configure(("odd",), False, False)
base._configure((1, 2), False, False)
base.formatter = None
raises((TypeError, AttributeError), base.handle, logging.makeLogRecord({"msg": "x", "levelno": 20}))
del base.filters, base.formatter
assert base.filters is None
raises(TypeError, lambda: spillring.Record())
assert [r.message for r in logged() if r.message == "by the base"] == ["by the base"]

# After the end.
assert spillring.shutdown(5) is True and spillring.shutdown(5) in (True, False)
log.info("after shutdown")
assert not spillring.drain_present()
assert spillring.flush(0.05) is False  # nobody drains, and the wait has an end
assert spillring.init(drain=True) is False  # done before, but a drain it makes
assert logged()[-1].message == "after shutdown"

# All descriptors closed behind the library's back: no hang, no crash, and nothing is lost: to spill takes none.
closed = part("""
log.addHandler(spillring.Handler(channel="closed", lane_bytes=4096))
log.info("before")
os.closerange(3, 65536)
for i in range(1000): log.info("%d %s", i, "x" * 100)
c = spillring.counters()
print(c.spilled > 0 and c.lost == 0, c.unattached)
""")
assert closed.split() == ["True", "0"], closed

# No room for a ring: Handler says so. (A limit on file sizes must not kill.)
limited = part("""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try: spillring.Handler(channel="limited"); sys.exit(1)
except spillring.Error as e: print(e.name)
log.addHandler(logging.NullHandler()); log.info("goes on")
""")
assert limited.split() == ["SPR_E_FILE_LIMIT"], limited

# Many threads, more than there are lanes.
done = []


def run(k):
    for i in range(20):
        log.info("thread %d %d", k, i)
    done.append(k)


threads = [threading.Thread(target=run, args=(k,)) for k in range(100)]
for t in threads:
    t.start()
for t in threads:
    t.join(60)
assert len(done) == 100
found = [r.message for r in logged() if r.message.startswith("thread")]
assert sorted(found) == sorted(f"thread {k} {i}" for k in range(100) for i in range(20))
# A sub-interpreter of its own GIL is refused by the import, not by a crash.
said = part("""
try:
    import _interpreters
    i = _interpreters.create()
except ImportError: print("refused")
else:
    r = _interpreters.exec(i, "import spillring")
    print("refused" if r is not None and "subinterpreters" in r.msg else r)
""") if sys.version_info >= (3, 13) else "refused"
assert "refused" in said, said
print("each told")
