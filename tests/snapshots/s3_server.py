"""An S3 server in a process of its own (moto), and a proxy in front of it that loses requests or answers."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator

BUCKET = "bucket"


class S3Server:
    """``python -m moto.server`` on a port of its own, with one bucket. ``log``: its last lines."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: deque[str] = deque(maxlen=50)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError("the S3 server did not start:\n" + "".join(self.log))
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    def kill(self) -> None:
        self.process.kill()
        self._reader.join()
        with self.process:  # waits, and closes the pipe
            pass

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What obstore takes from the environment."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }


#: Called with (method, path) of each request: False lets it through, "request" loses it, "answer" what comes back.
Fault = Callable[[str, str], "str | bool"]


@contextlib.contextmanager
def proxy(server: S3Server, fault: Fault) -> Iterator[str]:
    """A proxy in front of the server, as its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            lost = fault(self.command, self.path)
            if lost != "request":
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
            if lost:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # a connection that was closed on purpose
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front.daemon_threads = True
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.server_port}"
    finally:
        front.shutdown()
        thread.join()
        front.server_close()
