"""The programs of ffi/examples, run as a user does; `examples.py DIRECTORY`."""

import os
import signal
import subprocess
import sys

from common import wait_until

where = sys.argv[1]


def program(name, *args):
    return [sys.executable, os.path.join(where, name), *args]


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


out = os.path.join(os.environ["SPILLRING_JOURNAL_DIR"], "shown")
with open(out, "w") as f:
    follow = subprocess.Popen(program("follow.py", "orders", "info"), stdout=f, stderr=subprocess.STDOUT)
try:
    done = run(*program("orders.py"))
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    for expect in (
        "INFO     shop.orders order 1 of water at 1.50 {'customer': 'ada', 'number': 1, 'price': 1.5}",
        "INFO     shop.orders order 2 of bread at 3.25 {'customer': 'bob', 'number': 2, 'price': 3.25}",
        "ERROR    shop.orders refused {'customer': 'bob'}",
        "    ValueError: order 3 costs -1.0",
    ):
        assert lines.count(expect) == 1, (expect, done.stdout)
    assert sum("a cart was left behind" in line for line in lines) == 2, done.stdout

    def shown():
        with open(out) as f:
            return f.read()

    wait_until("follow.py shows the last line", lambda: shown().count("a cart was left behind") == 2)
    assert follow.poll() is None
    follow.send_signal(signal.SIGINT)
    assert follow.wait(30) == 0, shown()
    assert "INFO shop.orders: order 1 of water at 1.50 customer='ada' number=1 price=1.5" in shown(), shown()
    assert "Traceback (most recent call last)" in shown()  # as the field of an exception
finally:
    follow.kill()
    follow.wait()

for args, code, says in (
    (["a/b"], 1, "SPILLRING_CHANNEL"),
    ([], 2, "CHANNEL [LEVEL]"),
    (["c", "loud"], 2, "loud is no level"),
):
    bad = run(*program("follow.py", *args))
    assert bad.returncode == code and says in bad.stderr, bad
print(done.stdout)
