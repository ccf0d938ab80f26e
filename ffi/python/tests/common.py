"""What the tests share. Each is a program: it ends with 0 and what it found, or with a traceback."""

import faulthandler
import logging
import os
import sys
import threading
import time

import spillring

# The runner ends what hangs by SIGABRT: this says where it hung.
faulthandler.enable()


def size(short: int, full: int) -> int:
    """The size of what is promised with SPILLRING_TARGETS=full, else less of it."""
    return full if os.environ.get("SPILLRING_TARGETS") == "full" else short


def logger(name: str = "test", level: int = 1, **options) -> logging.Logger:
    """A logger whose only handler is ours."""
    log = logging.getLogger(name)
    log.handlers = [spillring.Handler(**options)]
    log.propagate = False
    log.setLevel(level)
    return log


def logged(**options) -> list:
    """All log records of the channel, after a flush."""
    if spillring.drain_present():
        assert spillring.flush(30), "the drain did not bring it to the journal within 30 s"
    with spillring.Reader(**options) as reader:
        records = list(reader)
    for r in records:
        assert r.kind not in ("loss", "gap"), r
    return [r for r in records if r.kind == "log"]


def messages(**options) -> list:
    return [r.message for r in logged(**options)]


def wait_until(what: str, done, seconds: float = 30):
    end = time.monotonic() + seconds
    while True:
        value = done()
        if value:
            return value
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.005)


def raises(kind, f, *args, code: str = None, says: str = None, **kwargs):
    """f raises just this; the exception."""
    try:
        f(*args, **kwargs)
    except kind as e:
        assert code is None or e.name == code, f"{e.name}: {e}"
        assert says is None or says in str(e), f"{e!r} does not say {says!r}"
        return e
    raise AssertionError(f"{f} raised nothing")


def in_thread(f, *args) -> None:
    """Runs f on another thread; what it raises is raised here."""
    failed = []

    def run():
        try:
            f(*args)
        except BaseException as e:
            failed.append(e)

    t = threading.Thread(target=run)
    t.start()
    t.join(60)
    assert not t.is_alive(), f"{f} hangs"
    if failed:
        raise failed[0]


def exactly_once(found: list, expected) -> None:
    """The same, in any order, each once."""
    expected = set(expected)
    twice = len(found) - len(set(found))
    missing = expected - set(found)
    strange = set(found) - expected
    assert not (
        twice or missing or strange
    ), f"doubled {twice}, missing {sorted(missing)[:3]}, strange {sorted(strange)[:3]}"
