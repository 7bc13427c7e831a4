"""One keep-alive HTTP connection to one server, on plain asyncio streams: a client must cost less than what it measures."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

ANSWER_WITHIN = 10.0  # s; later the client hangs up, not knowing the outcome


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: Any  # decoded JSON

    @property
    def data(self) -> dict[str, Any]:
        return self.body["data"]

    @property
    def error(self) -> dict[str, Any]:
        return self.body.get("error") or {}


# What "no answer" looks like.
NoAnswer = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError)


class HttpLine:
    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Answer:
        """Raises one of `NoAnswer`; then nobody knows what the server did."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *(f"{k}: {v}" for k, v in headers.items())]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._exchange("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, request: bytes) -> Answer:
        if self._stale():
            self.close()
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None and self.writer is not None
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await self.reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, json.loads(content) if content else {})

    def _stale(self) -> bool:
        """Whether there is no connection, or the server has closed it since the last answer."""
        if self.reader is None or self.writer is None:
            return True
        return self.writer.is_closing() or self.reader.at_eof() or self.reader.exception() is not None

    def close(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.writer.close()
        self.reader = self.writer = None
