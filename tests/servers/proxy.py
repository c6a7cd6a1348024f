"""Stands between a client and a real server and makes the faults that the server would not."""

import contextlib
import socket
import struct
import threading
import time
from typing import Literal


class FaultProxy:
    """Forwards TCP to ``upstream_port`` of this machine, unless a fault is set; each may be set at any time.

    ``refuse``: nothing listens. ``reset``: the connection is reset instead of answered. ``latency``: seconds before
    each answer. ``rate``: bytes of the answer a second. ``cut``: the connection ends after so many bytes of an answer.
    ``hang``: the answer stops, before its head or after 1,000 bytes. ``flip``: the byte of the answer at this offset is
    another one. ``replies``: whole answers that are given in place of the server's, one to each request. ``lose``: the
    connection ends instead of the answer of that number from now on, once; the server has done what it was asked.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream = upstream_port
        self.reset = False
        self.latency = 0.0
        self.rate = 0
        self.cut = -1
        self.hang: Literal["", "head", "body"] = ""
        self.flip = -1
        self.lose = 0
        self.replies: list[bytes] = []
        self.requests = 0
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FaultProxy":
        self._start(self._accept)
        return self

    def __exit__(self, *caught: object) -> None:
        self._closed.set()
        self.refuse()
        for thread in self._threads:
            thread.join(10)

    def refuse(self) -> None:
        """From now on nothing listens."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        # A server that is down refuses; whoever asked finds the connection closed.
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._upstream)) as server:
            client.settimeout(0.05)
            server.settimeout(0.05)
            while not self._closed.is_set():
                asked = self._some(client)
                if asked == b"":
                    return
                if asked and not self._asked(client, server, asked):
                    return
                answer = self._some(server)
                if answer == b"":
                    return
                if answer and not self._answer(client, server, answer):
                    return

    @staticmethod
    def _some(sock: socket.socket) -> bytes | None:
        """What has come; None: nothing yet, empty: the end."""
        try:
            return sock.recv(65_536)
        except TimeoutError:
            return None

    def _asked(self, client: socket.socket, server: socket.socket, asked: bytes) -> bool:
        if asked.split(b" ", 1)[0] in (b"GET", b"PUT", b"POST", b"HEAD", b"DELETE", b"PATCH"):
            self.requests += 1
            if self.replies:
                client.settimeout(5)
                self._rest(client, asked)
                client.sendall(self.replies.pop(0))
                return False
        if self.reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        server.settimeout(10)
        server.sendall(asked)
        server.settimeout(0.05)
        return True

    @staticmethod
    def _rest(client: socket.socket, asked: bytes) -> None:
        """Read the body too: closing before it came would reset the connection, and the answer with it."""
        head, _, body = asked.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if b"100-continue" in head:
            return
        while len(body) < length and (more := client.recv(65_536)):
            body += more

    def _answer(self, client: socket.socket, server: socket.socket, answer: bytes) -> bool:
        """Forward one answer from its first bytes to a pause; whether the connection goes on."""
        self._closed.wait(self.latency)
        if self.lose and not answer.startswith(b"HTTP/1.1 100"):
            self.lose -= 1
            if not self.lose:
                return False
        sent = 0
        while answer:
            if self.hang == "head" or (self.hang == "body" and sent + len(answer) > 1000):
                client.sendall(answer[: 0 if self.hang == "head" else 1000])
                self._closed.wait(60)
                return False
            if 0 <= self.flip - sent < len(answer):
                at = self.flip - sent
                answer = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
            if 0 <= self.cut <= sent + len(answer):
                client.sendall(answer[: self.cut - sent])
                return False
            if not self._paced(client, answer):
                return False
            sent += len(answer)
            answer = self._some(server) or b""
        return True

    def _paced(self, client: socket.socket, answer: bytes) -> bool:
        client.settimeout(30)
        step = max(1, self.rate // 10) if self.rate else len(answer)
        for start in range(0, len(answer), step):
            client.sendall(answer[start : start + step])
            if self.rate and self._closed.wait(0.1):
                return False
        client.settimeout(0.05)
        return True


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer; ``_`` in the name of a header is a ``-``."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
