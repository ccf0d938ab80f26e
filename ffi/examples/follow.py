#!/usr/bin/env python3
"""Shows what is logged to a channel as it comes, until Ctrl-C: by this program or any other, in whichever
language.

python ffi/examples/follow.py CHANNEL [LEVEL]
"""

import logging
import sys
import time

import spillring


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    least = logging.getLevelName(sys.argv[2].upper()) if len(sys.argv) == 3 else 0
    if not isinstance(least, int):
        print(f"follow.py: {sys.argv[2]} is no level: debug, info, warning, error", file=sys.stderr)
        return 2
    try:
        with spillring.Reader(sys.argv[1], follow=True, wait=True) as records:
            for r in records:
                # Losses and gaps have no level, and are always shown.
                if r.level >= least or r.kind in ("loss", "gap"):
                    when = time.strftime("%H:%M:%S", time.localtime(r.time))
                    fields = "".join(f" {k}={v!r}" for k, v in r.fields.items())
                    print(
                        f"{when} {r.pid} {logging.getLevelName(r.level)} {r.logger}: {r.message}{fields}",
                        flush=True,
                    )
    except spillring.Error as e:
        print(f"follow.py: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
