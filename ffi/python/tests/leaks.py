"""Nothing is leaked: each way of logging and reading, over and over, leaves memory as it was."""

import gc
import logging
import sys

import spillring
from common import logger, size

log = logger(drain=True)
h = log.handlers[0]
other = spillring.Handler()
other.setFormatter(logging.Formatter("%(message)s"))
other.addFilter(lambda r: True)
quiet = logging.raiseExceptions = False


class Broken:
    def __str__(self):
        raise ValueError

    __repr__ = __str__


class Nested:
    def __str__(self):
        log.info("inner")
        return "x"


def plain(i):
    log.info("order %d of %s", i, "water")


def fields(i):
    log.info(
        "m",
        extra={"i": i, "s": "\u00e9" * 9, "f": 1.5, "t": True, "huge": 2**70, "o": [i], "long": "v" * 3000},
    )


def exception(i):
    try:
        raise KeyError(i)
    except KeyError:
        log.exception("x", stack_info=True)


def broken(i):
    log.info("%d", "x")
    log.info("%s", Broken(), extra={"b": Broken()})
    try:
        h.handle(None)
    except AttributeError:
        pass


def nested(i):
    log.info("%s", Nested(), extra={"n": Nested()})


def formatted(i):
    other.handle(logging.LogRecord("n", 20, "p", 1, "m %d", (i,), None))


def sites(i):
    h.handle(logging.LogRecord(f"n{i % 9000}", 20, f"p{i % 9000}", i % 9000, "\udcff", None, None))


def handlers(i):
    x = spillring.Handler()
    x.me = x  # the collector's
    x.close()


def errors(i):
    for f in (
        lambda: spillring.init("a/b"),
        lambda: spillring.Reader("none"),
        lambda: spillring.Reader("n\0"),
    ):
        try:
            f()
        except (spillring.Error, ValueError):
            pass
    spillring.counters()


def reading(i):
    with spillring.Reader(start=50) as r:
        for x in r:
            x.fields, x.message
    spillring.Reader(start="now").read()


def rss() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4


work = {
    plain: 4000,
    fields: 1500,
    exception: 300,
    broken: 400,
    nested: 1000,
    formatted: 2000,
    sites: 18000,
    handlers: 300,
    errors: 200,
    reading: 30,
}
rounds = size(2, 20)
for f, n in work.items():

    def once():
        for i in range(n):
            f(i)
        spillring.flush(30)
        gc.collect()

    once()
    once()
    memory, objects = rss(), sys.getallocatedblocks()
    for _ in range(rounds):
        once()
    grown, more = rss() - memory, sys.getallocatedblocks() - objects
    print(f"{f.__name__:10} {n * rounds:7} times: {more:5} blocks, {grown:6} KiB more")
    # One block a call would be thousands.
    assert more < n * rounds / 20 + 150, f
    # (The drain's own thread keeps buffers; a leak of 100 bytes a call is more than this.)
    assert grown < max(4096, n * rounds // 10), f
