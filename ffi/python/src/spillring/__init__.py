"""Logging that must not wait and must not forget: a handler for `logging`, and a reader of what was logged.

    import logging, spillring
    logging.basicConfig(level="INFO", handlers=[spillring.Handler(drain=True)])
    logging.info("order %d of %s", 7, "water", extra={"user": "ada"})

or, with logging.config:

    dictConfig({"version": 1,
                "handlers": {"log": {"class": "spillring.Handler", "channel": "shop", "drain": True}},
                "root": {"handlers": ["log"], "level": "INFO"}})

A call stores its record in shared memory and returns: it takes no lock and does not wait, whoever makes
it, be it `__del__`, a weakref callback or a signal handler. A drain (of this process, or `spillring drain
CHANNEL`) brings it to the journal, whatever becomes of this process. `for record in spillring.Reader():
...` reads it back.
"""

import logging
import os
import pkgutil
from contextvars import ContextVar
from typing import Any, Iterable, List, Literal, Optional, Tuple, Union

from . import _spillring
from ._spillring import Counters, Error, Record
from ._version import version as __version__

__all__ = [
    "Counters",
    "Error",
    "Handler",
    "Reader",
    "Record",
    "counters",
    "drain_present",
    "flush",
    "init",
    "prepare",
    "shutdown",
    "thread_may_wait",
]

_Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


def _text(value: Optional[_Path]) -> Optional[bytes]:
    return None if value is None else os.fsencode(value)


def init(
    channel: Optional[str] = None,
    *,
    dir: Optional[_Path] = None,
    journal_dir: Optional[_Path] = None,
    level: Optional[str] = None,
    overflow: Optional[str] = None,
    lane_bytes: int = 0,
    lanes: int = 0,
    drain: bool = False,
) -> bool:
    """Attach this process to its channel; True if this call did it, False if it was done before.

    What is not given is taken from the environment: SPILLRING_CHANNEL, SPILLRING_DIR, SPILLRING_JOURNAL_DIR,
    SPILLRING_LEVEL, SPILLRING_OVERFLOW, SPILLRING_LANE (bytes), SPILLRING_LANES. Where neither says a level,
    the levels of `logging` alone decide. `drain=True` runs a drain as a thread of this process, unless the
    channel has one.

    `Handler` calls it. The first call's options hold; a later one with drain=True starts a drain. A forked
    child needs no call. Raises Error, for a value that is not allowed or a channel that cannot be made.
    """
    if level is None and "SPILLRING_LEVEL" not in os.environ:
        level = "trace"
    return _spillring.init(
        _text(dir),
        _text(channel),
        _text(journal_dir),
        _text(level),
        _text(overflow),
        lane_bytes,
        lanes,
        drain,
    )


def flush(timeout: Optional[float] = 5.0) -> bool:
    """Wait until all that was logged is in the journal: True, or False if it took longer (is a drain
    running?)."""
    return _spillring.flush(timeout)


def shutdown(timeout: Optional[float] = 5.0) -> bool:
    """Flush, and end the drain of this process; False if the flush took longer. Not needed: nothing is
    lost without it.

    What is logged later is kept in the channel, for its next drain."""
    return _spillring.shutdown(timeout)


def drain_present() -> bool:
    """Whether a drain has taken this process's channel."""
    return _spillring.drain_present()


def counters() -> Counters:
    """What this process has counted: a named tuple of unattached, nested, lost, spilled, attach_errno."""
    return _spillring.counters()


def thread_may_wait(yes: bool = True) -> None:
    """With the overflow policy "block:TIME": lets the log calls of this thread wait so long for room.

    They let other threads of Python run while they wait. Not for a thread that the drain's progress
    depends on.
    """
    _spillring.thread_may_wait(yes)


def prepare(threads: int) -> int:
    """Make shared memory for so many threads to come, for a program that enters a sandbox; how many there
    are."""
    return _spillring.prepare(threads)


class Handler(_spillring.Emitter, logging.Handler):
    """A handler for `logging` that keeps each record: level, logger name, file, line, message, and as fields

    - what `extra` holds, numbers and truth values as such and all else as its str(),
    - the values of `contextvars`: ContextVar objects, or where to import them from ("shop.context.request"),
    - `exception` and `stack`, the texts of exc_info and stack_info,
    - `levelname`, if the level is none of DEBUG, INFO, WARNING and ERROR.

    With a formatter the message is what it makes of the record. If the message cannot be made, format string,
    arguments and the reason are kept, and `handleError` tells of it as always.

    All else are options of `init`, which it calls. It takes no lock, in no method that logs: it may be
    called from `__del__`, weakref callbacks and signal handlers, also in the midst of another call, and
    needs nothing after a fork.
    """

    def __init__(
        self,
        level: Union[int, str] = logging.NOTSET,
        *,
        contextvars: Iterable[Union[str, "ContextVar[Any]"]] = (),
        channel: Optional[str] = None,
        dir: Optional[_Path] = None,
        journal_dir: Optional[_Path] = None,
        spillring_level: Optional[str] = None,
        overflow: Optional[str] = None,
        lane_bytes: int = 0,
        lanes: int = 0,
        drain: bool = False,
    ) -> None:
        logging.Handler.__init__(self, level)
        found: List[Any] = []
        for var in [contextvars] if isinstance(contextvars, (str, ContextVar)) else contextvars:
            if isinstance(var, str):
                var = pkgutil.resolve_name(var[len("ext://") :] if var.startswith("ext://") else var)
            if not isinstance(var, ContextVar):
                raise TypeError(f"contextvars: {var!r} is no contextvars.ContextVar, nor the name of one")
            found += [var.name, var.get]
        own = type(self)
        self._configure(tuple(found), own.emit is not Handler.emit, own.format is not logging.Handler.format)
        init(
            channel,
            dir=dir,
            journal_dir=journal_dir,
            level=spillring_level,
            overflow=overflow,
            lane_bytes=lane_bytes,
            lanes=lanes,
            drain=drain,
        )

    def createLock(self) -> None:
        """There is none: two threads, or a thread and a signal handler of it, may log at once."""
        self.lock = None

    def setFormatter(self, fmt: Optional[logging.Formatter]) -> None:
        """With a formatter the message is its text. That of logging.basicConfig, which it gives to
        handlers without one and which shows only what a record holds anyway, is none."""
        if type(fmt) is logging.Formatter and fmt._fmt == logging.BASIC_FORMAT:
            fmt = None
        self.formatter = fmt

    def _report(self, record: logging.LogRecord, error: BaseException) -> None:
        try:
            raise error
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Waits, at most 1 s, until the journal has what was logged; not at all without a drain."""
        if drain_present():
            flush(1.0)


class Reader(_spillring.Reader):
    """Iterates the records of a channel's journal, oldest first; of this program's channel, if none is named.

    It disturbs nobody, and reads while the drain writes. `journal` is the directory of one journal,
    elsewhere copied for example. `start`: "oldest", "now" (behind what is there), or a number: with so
    many last records. `follow`: an iteration does not end with what is there, but waits for more, at most
    `timeout` seconds each time (None: for ever). `wait`: where there is no journal yet, it is no error.
    One thread at a time. Raises Error.
    """

    def __init__(
        self,
        channel: Optional[str] = None,
        *,
        journal: Optional[_Path] = None,
        dir: Optional[_Path] = None,
        journal_dir: Optional[_Path] = None,
        start: Union[Literal["oldest", "now"], int] = "oldest",
        follow: bool = False,
        timeout: Optional[float] = None,
        wait: bool = False,
    ) -> None:
        begin: Tuple[int, int]
        if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
            begin = (2, start)
        elif start in ("oldest", "now"):
            begin = (0 if start == "oldest" else 1, 0)
        else:
            raise ValueError(f'start: "oldest", "now" or a number of records, not {start!r}')
        super().__init__(
            _text(journal),
            _text(dir),
            _text(channel),
            _text(journal_dir),
            begin[0],
            begin[1],
            wait,
            follow,
            timeout,
        )
