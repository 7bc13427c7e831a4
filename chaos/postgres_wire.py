"""As much of PostgreSQL's protocol as it takes to see a write go by, and its answer's end. Plain TCP, no TLS."""

_NEGOTIATIONS = (80877103, 80877104)  # SSLRequest, GSSENCRequest: a startup message follows


# The two statements that write, each a transaction of its own, by words that no other has.
PAYMENT, COMPLETION = "payment", "completion"
_WRITES = {PAYMENT: b"INSERT INTO leaderboard_scoreentry", COMPLETION: b"INSERT INTO actions_actionlog"}


def _what_it_writes(query: bytes) -> str:
    return next((what for what, words in _WRITES.items() if words in query), "")


class _Frames:
    """Bytes into messages: a type byte, a length that counts itself, a body."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def next(self) -> tuple[bytes, bytes] | None:
        """(type, body) of the next whole message."""
        if len(self.buffer) < 5:
            return None
        size = 1 + int.from_bytes(self.buffer[1:5])
        if len(self.buffer) < size:
            return None
        kind, body = bytes(self.buffer[:1]), bytes(self.buffer[5:size])
        del self.buffer[:size]
        return kind, body


class WriteSpotter(_Frames):
    """Follows what a client sends, from its first byte on."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.prepared: dict[bytes, str] = {}  # name of a statement → what it writes

    def feed(self, data: bytes) -> str:
        """What is written by a message that `data` completes (Bind of a prepared statement, or a Query); else empty."""
        self.buffer += data
        if not self.started and not self._start():
            return ""
        written = ""
        while (message := self.next()) is not None:
            kind, body = message
            if kind == b"P":
                name, query = body.split(b"\0", 2)[:2]
                self.prepared[name] = _what_it_writes(query)
            elif kind == b"B":
                written = self.prepared.get(body.split(b"\0", 2)[1], "") or written
            elif kind == b"Q":
                written = _what_it_writes(body) or written
        return written

    def _start(self) -> bool:
        """Takes the untyped first messages off. Returns: whether the typed ones have begun."""
        while len(self.buffer) >= 8:
            size, code = int.from_bytes(self.buffer[:4]), int.from_bytes(self.buffer[4:8])
            if len(self.buffer) < size:
                return False
            del self.buffer[:size]
            if code not in _NEGOTIATIONS:
                self.started = True
                return True
        return False


class AnswerEnd(_Frames):
    """Follows what the server sends in answer to one statement, from the answer's first byte on."""

    def feed(self, data: bytes) -> bool:
        """Whether `data` holds ReadyForQuery, which is sent after the COMMIT."""
        self.buffer += data
        while (message := self.next()) is not None:
            if message[0] == b"Z":
                return True
        return False
