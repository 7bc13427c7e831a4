"""How many live sockets there may be: in this process, and of one address. (Of one player: `Hub.has_room`.)

Counted in this process's memory, by the connections that are really here: what a killed process held is gone with it, and
several processes allow so many each. On one event loop, so that looking and taking are one step.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

_here = 0
_of_address: Counter[str] = Counter()


@contextmanager
def place() -> Iterator[bool]:
    """For as long as a connection lasts. Gives: whether there was room for it in the process."""
    global _here
    _here += 1
    try:
        yield not settings.SOCKETS_PER_PROCESS or _here <= settings.SOCKETS_PER_PROCESS
    finally:
        _here -= 1


@contextmanager
def place_of(address: str) -> Iterator[bool]:
    """For as long as the connection lasts. Gives: whether the address could have one more; a refused one is not counted."""
    room = not settings.SOCKETS_PER_ADDRESS or _of_address[address] < settings.SOCKETS_PER_ADDRESS
    _of_address[address] += room
    try:
        yield room
    finally:
        _of_address[address] -= room
        if not _of_address[address]:
            del _of_address[address]
