"""The handler: what a record keeps, and that all of logging's own ways still hold."""

import asyncio
import contextvars
import io
import logging
import logging.config
import logging.handlers
import os
import subprocess
import sys
import time

import spillring
from common import exactly_once, in_thread, logged, logger, raises

request = contextvars.ContextVar("request")
user = contextvars.ContextVar("user", default="nobody")

logging.config.dictConfig(
    {
        "version": 1,
        "handlers": {
            "log": {"class": "spillring.Handler", "drain": True, "contextvars": ["ext://__main__.request"]}
        },
        "root": {"handlers": ["log"], "level": "DEBUG"},
    }
)


def last(n: int = 1):
    return logged(start=n + 10)[-n:]  # the drain's notes are records too


def stderr_of(f) -> str:
    old, sys.stderr = sys.stderr, io.StringIO()
    try:
        f()
        return sys.stderr.getvalue()
    finally:
        sys.stderr = old


def facts() -> None:
    log = logging.getLogger("shop.orders")
    before = time.time()
    extra = {"n": -3, "f": 1.5, "big": 2**64 - 1, "huge": 2**80, "ok": True, "text": "\u00e9\0", "list": [1]}
    log.info("order %d of %s", 7, "water", extra=extra)
    line = sys._getframe().f_lineno - 1
    (r,) = last()
    assert (r.logger, r.message, r.level, r.kind) == (
        "shop.orders",
        "order 7 of water",
        logging.INFO,
        "log",
    ), r
    assert (r.file, r.pid) == (__file__, os.getpid()), r
    assert r.line == line, (r.line, line)
    assert before - 1 < r.time < before + 60 and abs(r.time_ns / 1e9 - r.time) < 1e-3, r
    assert r.fields == {
        "n": -3,
        "f": 1.5,
        "big": 2**64 - 1,
        "huge": str(2**80),
        "ok": True,
        "text": "\u00e9\0",
        "list": "[1]",
    }, r.fields
    assert [type(v) for v in r.fields.values()] == [int, float, int, str, bool, str, str]
    for level in (5, 10, 20, 30, 40):
        logging.getLogger("deep").setLevel(1)
        logging.getLogger("deep").log(level, "level")
    assert [(r.level, r.fields) for r in last(5)] == [(n, {}) for n in (5, 10, 20, 30, 40)]
    log.critical("c")
    log.log(35, "between")
    assert [(r.level, r.fields) for r in last(2)] == [
        (40, {"levelname": "CRITICAL"}),
        (30, {"levelname": "Level 35"}),
    ], last(2)
    log.info("plain")
    log.info("%(a)s and %(a)r", {"a": "x"})
    log.info(b"bytes")
    log.info("no arguments %d")
    assert [(r.message, r.fields) for r in last(4)] == [
        ("plain", {}),
        ("x and 'x'", {}),
        ("b'bytes'", {}),
        ("no arguments %d", {}),
    ]


def exceptions() -> None:
    log = logging.getLogger("e")
    try:
        {}["key"]
    except KeyError:
        log.exception("failed")
        log.warning("again", exc_info=True, stack_info=True)
    log.info("an instance", exc_info=ValueError("v"))
    log.info("none", exc_info=True)
    a, b, c, d = last(4)
    assert a.fields["exception"].startswith("Traceback") and a.fields["exception"].endswith(
        "KeyError: 'key'"
    ), a
    assert a.message == "failed" and set(a.fields) == {"exception"}
    assert set(b.fields) == {"exception", "stack"} and b.fields["stack"].startswith("Stack (most recent"), b
    assert c.fields == {"exception": "ValueError: v"}, c
    assert d.fields in ({}, {"exception": "NoneType: None"}), d  # as logging's own Formatter has it


def context() -> None:
    log = logging.getLogger("c")
    log.info("unset")
    token = request.set("r-1")
    log.info("set", extra={"k": 1})
    in_thread(log.info, "another thread")
    request.reset(token)

    async def serve(i):
        request.set(f"r-{i}")
        await asyncio.sleep(0)
        log.info("task")

    async def all_of_them():
        await asyncio.gather(*(serve(i) for i in range(10)))

    asyncio.run(all_of_them())
    # asyncio logs a line of its own.
    records = [r for r in last(14) if r.logger == "c"]
    assert [r.fields for r in records[:3]] == [{}, {"request": "r-1", "k": 1}, {}], records[:3]
    exactly_once([r.fields["request"] for r in records[3:]], (f"r-{i}" for i in range(10)))
    for kind in (user, [user], "__main__.user", ["__main__.user"], (v for v in [user])):
        logger("objects", contextvars=kind).info("default")
        assert last()[0].fields == {}, last()  # a default is no value
    user.set("ada")
    logger("objects", contextvars=[user, request]).info("value")
    assert last()[0].fields == {"user": "ada"}, last()
    raises(TypeError, spillring.Handler, contextvars=["os.path"], says="is no contextvars.ContextVar")
    raises(ImportError, spillring.Handler, contextvars=["no_such_module.x"])


def ways_of_logging() -> None:
    log = logger("ways")
    h = log.handlers[0]
    # filters, of the logger and of the handler; since 3.12 they may answer another record
    h.addFilter(lambda r: "secret" not in r.getMessage())
    log.info("a secret")
    log.info("no")
    assert last()[0].message == "no"
    r = logging.makeLogRecord({"msg": "secret"})
    assert not h.handle(r) and h.handle(logging.makeLogRecord({"msg": "x", "levelno": 20}))
    h.filters.clear()
    if sys.version_info >= (3, 12):
        h.addFilter(lambda r: logging.makeLogRecord({**r.__dict__, "msg": "replaced"}))
        log.info("original")
        assert last()[0].message == "replaced"
        h.filters.clear()

    class ByClass(logging.Filter):
        def filter(self, r):
            r.added = "by a filter"
            return True

    f = ByClass()
    h.addFilter(f)
    log.info("x")
    assert last()[0].fields == {"added": "by a filter"}
    h.removeFilter(f)
    # a formatter makes the message, exception and all
    h.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("boom", extra={"k": "v"})
    assert last()[0].message.startswith("[ERROR] boom\nTraceback") and last()[0].fields == {"k": "v"}, last()
    h.setFormatter(None)
    log.info("after")  # what other handlers' formatters add (message, asctime) is no field
    assert last()[0].fields == {}
    other = logging.StreamHandler(io.StringIO())
    other.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.handlers.insert(0, other)
    log.info("two handlers")
    assert (last()[0].message, last()[0].fields) == ("two handlers", {})
    log.handlers.remove(other)
    # levels of the handler
    h.setLevel("ERROR")
    log.info("below")
    log.error("above")
    assert last()[0].message == "above"
    assert last(2)[0].message == "two handlers"

    # subclasses: of the handler, and of the record
    class Shouting(spillring.Handler):
        def emit(self, record):
            record.msg = str(record.msg).upper()
            super().emit(record)

    class Own(spillring.Handler):
        def format(self, record):
            return f"own: {record.getMessage()}"

    log.handlers = [Shouting(), Own()]
    log.info("word")
    assert [r.message for r in last(2)] == ["WORD", "own: WORD"], last(2)

    class Record(logging.LogRecord):
        def getMessage(self):
            return "by the subclass"

    logging.setLogRecordFactory(Record)
    log.handlers = [h]
    h.setLevel(0)
    log.info("x")
    logging.setLogRecordFactory(logging.LogRecord)
    assert last()[0].message == "by the subclass"
    # records from elsewhere: keys in another order, missing, strange
    for d in (
        {"levelno": 20, "msg": "m", "name": "n", "pathname": "p", "lineno": 3},
        {"msg": "m"},
        {1: 2, "levelno": 20, "msg": "m"},
        {"lineno": "x", "levelno": 20, "name": None},
    ):
        h.handle(logging.makeLogRecord(d))
    assert [(r.logger, r.message, r.level, r.line) for r in last(4)] == [
        ("n", "m", 20, 3),
        ("None", "m", 5, 0),
        ("None", "m", 20, 0),
        ("None", "", 20, 0),
    ], last(4)
    assert [r.fields for r in last(4)] == [{}, {"levelname": "Level None"}, {"1": 2}, {}], last(4)
    bare = logging.LogRecord("n", 20, "p", 1, "m", None, None)
    del bare.args
    del bare.exc_info
    bare.__dict__.update(x=1)
    assert "AttributeError" in stderr_of(lambda: h.handle(bare))  # no args: getMessage cannot do it either
    # behind a MemoryHandler, and closed
    memory = logging.handlers.MemoryHandler(10, target=h)
    log.handlers = [memory]
    log.info("kept")
    memory.close()
    h.close()
    log.handlers = [h]
    log.info("closed")
    assert [r.message for r in last(2)] == ["kept", "closed"]
    assert h.lock is None


class Broken:
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class Interrupted:
    def __str__(self):
        raise KeyboardInterrupt


def broken() -> None:
    log = logger("broken")
    said = stderr_of(lambda: log.info("%d apples", "six"))
    assert "Logging error" in said and "TypeError" in said and "'%d apples'" in said, said
    (r,) = last()
    assert (
        r.message == "%d apples" and r.fields["args"] == "('six',)" and "TypeError" in r.fields["log_error"]
    ), r
    said = stderr_of(lambda: log.info("%s", Broken()))
    assert "no text" in said and last()[0].fields == {"log_error": "ValueError('no text')"}, last()
    log.info("a field", extra={"b": Broken(), "c": 1})
    assert last()[0].fields == {"b": "<Broken: its str() raised>", "c": 1}, last()
    raises(KeyboardInterrupt, log.info, "%s", Interrupted())
    raises(KeyboardInterrupt, log.info, "x", extra={"i": Interrupted()})

    class Deep:
        def __str__(self):
            log.info("%s", self)
            return ""

    raises(RecursionError, log.info, "%s", Deep())
    n = len(last(10**6))
    old = logging.raiseExceptions
    logging.raiseExceptions = False
    assert stderr_of(lambda: log.info("%d", "x")) == ""
    logging.raiseExceptions = old
    assert len(last(10**6)) == n + 1
    log.info("lone \udcff", extra={"\udc80": "\udc81"})
    assert (last()[0].message, last()[0].fields) == ("lone \\udcff", {"\\udc80": "\\udc81"}), last()
    logger("n\udcff").info("name")
    assert last()[0].logger == "n\\udcff"

    class Nested:
        def __str__(self):
            log.info("inner")
            return "text"

    log.info("outer %s", Nested(), extra={"n": Nested()})
    assert [r.message for r in last(3)] == ["inner", "inner", "outer text"] and last()[0].fields == {
        "n": "text"
    }


def large() -> None:
    log = logger("large")
    for n in (0, 1, 65_535, 65_536, 1 << 20, (8 << 20) - 1, 8 << 20):
        log.info("x" * n)
        assert last()[0].message == "x" * n and last()[0].fields == {}, n
    log.info("\u00e9" * (5 << 20))
    assert last()[0].message == "\u00e9" * (4 << 20) and last()[0].fields == {"cut": 2 << 20}
    log.info("z" + "\u00e9" * (5 << 20), extra={"k": 1})
    (r,) = last()
    assert len(r.message.encode()) == (8 << 20) - 1 and r.fields == {"k": 1, "cut": (2 << 20) + 2}, r.fields
    log.info("m", extra={f"k{i}": "v" * 300_000 for i in range(100)})
    kept = last()[0].fields
    cut = kept.pop("cut")
    assert (
        5 <= len(kept) < 100 and cut == (100 - len(kept)) * 300_000 and set(kept.values()) == {"v" * 300_000}
    )
    log.info("m", extra={"v": "v" * (3 << 20)})
    assert last()[0].fields == {"v": "v" * (1 << 20), "cut": 2 << 20}
    log.info("m", extra={f"k{i}": i for i in range(2000)})
    assert last()[0].fields == {f"k{i}": i for i in range(2000)}
    logger("n" * 70_000).info("long name")
    assert last()[0].logger == "n" * 256
    logging.getLogger("large").handle(logging.LogRecord("n", 20, "/p" * 40_000, 2**40, "m", None, None))
    assert last()[0].file == "/p" * 128 and last()[0].line == 0


def many_sites() -> None:
    """More call sites than the library keeps: from then on they stand in the fields."""
    h = logging.getLogger("large").handlers[0]
    h.setLevel(0)
    n = 66_000
    for i in range(n):
        h.handle(logging.LogRecord("many", 20, "f.py", i, "m", None, None))
    seen = []
    for r in last(n):
        if r.logger == "many":
            seen.append(r.line)
        else:
            assert r.logger == "" and r.fields["logger"] == "many" and r.fields["file"] == "f.py", r
            seen.append(r.fields["line"])
    assert seen == list(range(n))
    logging.getLogger("c").info("old ones are as before")
    assert last()[0].logger == "c" or last()[0].fields["logger"] == "c"


def levels_of_the_environment() -> None:
    program = (
        "import logging, spillring\n"
        "logging.basicConfig(level=1, handlers=[spillring.Handler(channel='levels')])\n"
        "logging.debug('d'); logging.warning('w'); logging.log(5, 't')"
    )
    for level, shows in ((None, "dwt"), ("warn", "w"), ("off", "")):
        env = {k: v for k, v in os.environ.items() if k != "SPILLRING_LEVEL"}
        env.update({"SPILLRING_LEVEL": level} if level else {})
        subprocess.run([sys.executable, "-X", "dev", "-c", program], env=env, check=True, timeout=60)
    drain = "import spillring; spillring.init('levels', drain=True); assert spillring.flush(30)"
    subprocess.run([sys.executable, "-c", drain], check=True, timeout=60)
    assert messages_of("levels") == list("dwtw"), messages_of("levels")


def messages_of(channel: str) -> list:
    return [r.message for r in spillring.Reader(channel) if r.kind == "log"]


facts()
exceptions()
context()
ways_of_logging()
broken()
large()
many_sites()
levels_of_the_environment()
assert spillring.counters().lost == 0 and spillring.counters().unattached == 0
print(f"{len(logged())} records as they were logged")
