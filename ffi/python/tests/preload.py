"""gunicorn --preload: the handler is made in the master, whose drain serves the workers; one of them is
killed."""

import http.client
import logging
import logging.config
import os
import signal
import socket
import subprocess
import sys

import spillring
from common import exactly_once, wait_until

# What gunicorn loads is this very file.
if __name__ != "__main__":
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"log": {"class": "spillring.Handler", "drain": True}},
            "root": {"handlers": ["log"], "level": "INFO"},
        }
    )
    log = logging.getLogger("app")
    log.info("loaded")

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        log.info("request %s", path, extra={"path": path})
        if path == "/kill":
            os.kill(os.getpid(), signal.SIGKILL)
        body = str(os.getpid()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

else:
    where = os.environ["SPILLRING_JOURNAL_DIR"]
    address = os.path.join(where, "socket")
    options = f"--preload -w 2 --timeout 60 --graceful-timeout 10 -b unix:{address} --worker-tmp-dir {where}"
    command = [sys.executable, "-m", "gunicorn", *options.split(), "preload:app"]
    here = os.path.dirname(os.path.abspath(__file__))
    master = subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True)

    def get(path):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(address)
        c = http.client.HTTPConnection("localhost")
        c.sock = s
        c.request("GET", path)
        r = c.getresponse()
        assert r.status == 200
        return int(r.read())

    try:
        wait_until("gunicorn listens", lambda: os.path.exists(address) or master.poll() is not None)
        workers = set()
        asked = []
        wait_until(
            "two workers answer",
            lambda: (asked.append(f"/{len(asked)}"), workers.add(get(asked[-1])))
            and len(asked) >= 50
            and len(workers) == 2,
        )
        try:
            get("/kill")
        except (OSError, http.client.HTTPException):
            asked.append("/kill")
        wait_until(
            "another worker answers",
            lambda: (asked.append(f"/{len(asked)}"), workers.add(get(asked[-1]))) and len(workers) >= 3,
        )
        master.send_signal(signal.SIGTERM)
        _, said = master.communicate(timeout=30)
        assert master.returncode == 0, said
        # Nothing of gunicorn's own went astray either.
        assert "Traceback" not in said, said
    finally:
        if master.poll() is None:
            master.kill()  # its workers end when they see that it is gone

    # What the master's drain had no time for is in the channel.
    spillring.init(drain=True)

    def records():
        spillring.flush(10)
        return [r for r in spillring.Reader() if r.kind == "log"]

    wait_until("all requests", lambda: sum(r.message.startswith("request") for r in records()) >= len(asked))
    found = records()
    of_app = [r for r in found if r.logger == "app"]
    exactly_once([r.fields["path"] for r in of_app if "path" in r.fields], asked)
    assert [r.pid for r in of_app if r.message == "loaded"] == [master.pid], of_app[:3]
    served = {r.pid for r in of_app if "path" in r.fields}
    assert served == workers and master.pid not in served, (served, workers)
    print(
        f"{len(asked)} requests in {len(workers)} workers, one killed: {len(found)} records, each once"
    )
