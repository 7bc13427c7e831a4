"""The viewers: `python -m benchmarks.watchers`, one command a line in, one JSON answer a line out.

Thousands of live sockets in one thread on plain `epoll`: a frame costs one `recv` and one look-up, because all sockets get
the same text and only its first copy is parsed. Commands:

    {"do": "connect", "port", "count"}   connects all at once; answers when each has its first picture: see `connected`
    {"do": "watch"}                      forgets the frames seen so far and begins to note their times
    {"do": "report", "paid": […]}        stops; `paid` are (time, player, new score) of redemptions; see `report`
"""

import base64
import errno
import json
import os
import random
import select
import socket
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from benchmarks.figures import spread

CONNECT_WITHIN = 60.0
SAMPLED = 100  # sockets a redemption's way to the screen is measured at
TEXT, CLOSE, PING = 0x1, 0x8, 0x9


@dataclass(slots=True)
class Viewer:
    number: int
    socket: socket.socket
    began: float
    got: bytes = b""
    greeted: bool = False
    open: bool = False
    first_picture: float = 0.0


@dataclass
class Picture:
    """An update, with the monotonic time at which each viewer had it (0: not yet)."""

    seq: int
    made_at: float  # monotonic s, from the frame's own timestamp (whole ms, so up to 1 ms early)
    scores: dict[str, int]
    seen_at: "array[float]"


@dataclass
class Watchers:
    viewers: dict[int, Viewer] = field(default_factory=dict)  # by descriptor
    pictures: dict[bytes, Picture] = field(default_factory=dict)  # by frame; an entry for each different one
    count: int = 0  # of all who were ever connected: who is lost counts as one who was not reached
    waiting: int = 0
    lost: int = 0
    watching: bool = False

    def __post_init__(self) -> None:
        self.epoll = select.epoll()
        self.epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        self.rest_of_input = b""

    def serve(self) -> None:
        while True:
            for descriptor, _events in self.epoll.poll():
                viewer = self.viewers.get(descriptor)
                if viewer is not None:
                    self.read(viewer)
                else:
                    for command in self.commands():
                        self.obey(command)

    def commands(self) -> Iterator[dict[str, Any]]:
        data = os.read(sys.stdin.fileno(), 1 << 20)
        if not data:
            sys.exit(0)
        *lines, self.rest_of_input = (self.rest_of_input + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def obey(self, command: dict[str, Any]) -> None:
        if command["do"] == "connect":
            say(self.connected(command["port"], command["count"]))
        elif command["do"] == "watch":
            self.pictures.clear()
            self.watching = True
            say({"watching": len(self.viewers)})
        else:
            self.watching = False
            say(self.report(command["paid"]))

    def connected(self, port: int, count: int) -> dict[str, Any]:
        """All begun at once. `seconds`: until all had a picture; `latencies`: each one's, ms; `failed`: how many had none."""
        began = time.monotonic()
        for _ in range(count):
            self.begin(port, began)
        self.waiting = count
        while self.waiting and time.monotonic() < began + CONNECT_WITHIN:
            for descriptor, _events in self.epoll.poll(1):
                if descriptor in self.viewers:
                    self.read(self.viewers[descriptor])
        firsts = [viewer.first_picture - viewer.began for viewer in self.viewers.values() if viewer.first_picture >= began]
        latencies = [round(first * 1000, 3) for first in firsts]
        return {"seconds": max(firsts, default=0.0), "latencies": latencies, "failed": count - len(firsts)}

    def begin(self, port: int, began: float) -> None:
        link = socket.socket()
        link.setblocking(False)
        status = link.connect_ex(("127.0.0.1", port))
        assert status in (0, errno.EINPROGRESS), os.strerror(status)
        self.viewers[link.fileno()] = Viewer(self.count, link, began)
        self.count += 1
        self.epoll.register(link.fileno(), select.EPOLLOUT | select.EPOLLONESHOT)

    def read(self, viewer: Viewer) -> None:
        try:
            if not viewer.greeted:
                self.shake_hands(viewer)
                return
            data = viewer.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self.drop(viewer)
        elif viewer.got:
            self.take_apart(viewer, viewer.got + data, now)
        elif (picture := self.pictures.get(data)) is not None:
            picture.seen_at[viewer.number] = now
        else:
            self.take_apart(viewer, data, now)

    def shake_hands(self, viewer: Viewer) -> None:
        key = base64.b64encode(random.randbytes(16))
        viewer.socket.send(
            b"GET /api/v1/scores/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
        )
        viewer.greeted = True
        self.epoll.modify(viewer.socket.fileno(), select.EPOLLIN)

    def take_apart(self, viewer: Viewer, data: bytes, now: float) -> None:
        if not viewer.open:
            head, ended, rest = data.partition(b"\r\n\r\n")
            if not ended:
                viewer.got = data
                return
            if b" 101 " not in head[:16]:
                self.drop(viewer)
                return
            viewer.open, data = True, rest
        while frame := whole_frame(data):
            data = data[len(frame) :]
            self.take(viewer, frame, now)
        viewer.got = data

    def take(self, viewer: Viewer, frame: bytes, now: float) -> None:
        kind = frame[0] & 0x0F
        if kind == PING:
            viewer.socket.send(b"\x8a" + bytes([0x80 | frame[1]]) + bytes(4) + frame[2:])  # the pong, masked with zeros
        elif kind == CLOSE:
            self.drop(viewer)
        elif not viewer.first_picture:
            viewer.first_picture = now
            self.waiting -= 1
        elif kind == TEXT and self.watching:
            picture = self.pictures.get(frame) or self.parse(frame, now)
            if picture is not None:
                picture.seen_at[viewer.number] = now

    def parse(self, frame: bytes, now: float) -> Picture | None:
        message = json.loads(frame[frame.index(b"{") :])
        if message["event"] != "leaderboard:update":
            return None
        age = time.time() - datetime.fromisoformat(message["timestamp"]).timestamp()
        scores = {row["userId"]: row["score"] for row in message["data"]["leaderboard"]}
        made = Picture(message["data"]["seq"], time.monotonic() - age, scores, array("d", bytes(8 * self.count)))
        self.pictures[frame] = made
        return made

    def drop(self, viewer: Viewer) -> None:
        if self.viewers.pop(viewer.socket.fileno(), None) is not None:
            if not viewer.first_picture:
                self.waiting -= 1
            self.lost += 1
            viewer.socket.close()

    def report(self, paid: list[tuple[float, str, int]]) -> dict[str, Any]:
        """`frames`: how many arrived of the `expected`; `pictures`: different ones; `fan_out`: ms from a frame's own timestamp;
        `answer_to_frame`: ms from a redemption's answer to the first frame that shows it, at some of the viewers; `unseen`:
        redemptions that no frame showed."""
        pictures = sorted(self.pictures.values(), key=lambda picture: picture.seq)
        fan_out = [(seen - picture.made_at) * 1000 for picture in pictures for seen in picture.seen_at if seen]
        sample = random.Random(5).sample(range(self.count), min(SAMPLED, self.count))
        to_frame, unseen = answers_to_frames(pictures, paid, sample)
        return {
            "frames": len(fan_out),
            "expected": len(pictures) * self.count,
            "pictures": len(pictures),
            "lost": self.lost,
            "unseen": unseen,
            "fan_out": spread(fan_out),
            "answer_to_frame": spread(to_frame),
        }


def answers_to_frames(pictures: list[Picture], paid: list[tuple[float, str, int]], sample: list[int]) -> tuple[list[float], int]:
    """Milliseconds from each redemption's answer to the frame that shows it, for each viewer of `sample` (below 0: the frame was
    first); and how many redemptions no frame showed."""
    found, unseen = [], 0
    for answered_at, player, score in paid:
        shown = next((picture for picture in pictures if picture.scores.get(player, -1) >= score), None)
        if shown is None:
            unseen += 1
        else:
            found += [(shown.seen_at[number] - answered_at) * 1000 for number in sample if shown.seen_at[number]]
    return found, unseen


def whole_frame(data: bytes) -> bytes:
    """The first WebSocket frame of `data` (a server's: not masked), or nothing where it is not all there."""
    if len(data) < 2:
        return b""
    length, head = data[1], 2
    if length == 126:
        length, head = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, head = int.from_bytes(data[2:10], "big"), 10
    return data[: head + length] if len(data) >= head + length else b""


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Watchers().serve()
