import logging
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Type, TypeVar, Union

_R = TypeVar("_R", bound="Reader")

class Error(Exception):
    code: int
    name: str

class Record(NamedTuple):
    number: int
    time: float
    time_ns: int
    kind: str
    level: int
    logger: str
    message: str
    file: str
    line: int
    pid: int
    tid: int
    thread: str
    fields: Dict[str, Union[str, int, float, bool]]
    lost: int

class Counters(NamedTuple):
    unattached: int
    nested: int
    lost: int
    spilled: int
    attach_errno: int

class Emitter:
    filters: List[Any]
    formatter: Optional[logging.Formatter]
    def handle(self, record: logging.LogRecord, /) -> Any: ...
    def emit(self, record: logging.LogRecord, /) -> None: ...
    def _configure(
        self, contextvars: Tuple[Union[str, Callable[..., Any]], ...], own_emit: bool, own_format: bool, /
    ) -> None: ...

class Reader:
    def __init__(
        self,
        journal: Optional[bytes],
        dir: Optional[bytes],
        channel: Optional[bytes],
        journal_dir: Optional[bytes],
        start: int,
        last: int,
        wait: bool,
        follow: bool,
        quiet: Optional[float],
    ) -> None: ...
    def read(self, timeout: Optional[float] = 0) -> Optional[Record]: ...
    def close(self) -> None: ...
    def __iter__(self: _R) -> _R: ...
    def __next__(self) -> Record: ...
    def __enter__(self: _R) -> _R: ...
    def __exit__(
        self, type: Optional[Type[BaseException]], value: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None: ...

def init(
    dir: Optional[bytes],
    channel: Optional[bytes],
    journal_dir: Optional[bytes],
    level: Optional[bytes],
    overflow: Optional[bytes],
    lane_bytes: int,
    lanes: int,
    drain: bool,
    /,
) -> bool: ...
def flush(timeout: Optional[float], /) -> bool: ...
def shutdown(timeout: Optional[float], /) -> bool: ...
def drain_present() -> bool: ...
def thread_may_wait(yes: bool, /) -> None: ...
def prepare(threads: int, /) -> int: ...
def counters() -> Counters: ...
