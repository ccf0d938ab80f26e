import logging
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, TypeVar, Union, final

from _typeshed import structseq

_R = TypeVar("_R", bound="Reader")

class Error(Exception):
    code: int
    name: str

@final
class Record(
    structseq[Any],
    Tuple[
        int,
        float,
        int,
        str,
        int,
        str,
        str,
        str,
        int,
        int,
        int,
        str,
        Dict[str, Union[str, int, float, bool]],
        int,
    ],
):
    @property
    def number(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def level(self) -> int: ...
    @property
    def logger(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def tid(self) -> int: ...
    @property
    def thread(self) -> str: ...
    @property
    def fields(self) -> Dict[str, Union[str, int, float, bool]]: ...
    @property
    def lost(self) -> int: ...

@final
class Counters(structseq[Any], Tuple[int, int, int, int, int]):
    @property
    def unattached(self) -> int: ...
    @property
    def nested(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def spilled(self) -> int: ...
    @property
    def attach_errno(self) -> int: ...

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
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
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
