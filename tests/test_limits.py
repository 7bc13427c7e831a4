"""Sliding-window limits: exact whoever asks, on Redis's clock, and still there when Redis is not."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY
from redis.commands.core import Script

from scoreboard_project import limits
from scoreboard_project.limits import Take, give_back, take
from scoreboard_project.redis_client import client

WINDOW = 60


@pytest.fixture(autouse=True)
def nobody_has_asked() -> Iterator[None]:
    client().flushdb()
    limits._emergency.seen.clear()
    yield
    limits._emergency.seen.clear()


def wish(limit: int = 3, *, subject: str = "alice", layer: str = "actions", seconds: int = WINDOW) -> Take:
    return Take(layer, subject, limit, seconds)


def passes(wanted: Take) -> bool:
    return take([wanted]) == [0]


def took(seconds_ago: float, of: Take) -> None:
    """As if somebody had passed some time ago, on Redis's clock."""
    seconds, micros = client().time()
    client().zadd(of.key, {uuid.uuid4().hex: seconds * 1000 + micros // 1000 - int(seconds_ago * 1000)})


@pytest.fixture
def without_redis(monkeypatch: Any) -> None:
    def gone(*_args: Any, **_kwargs: Any) -> Any:
        raise redis.ConnectionError("connection refused")

    monkeypatch.setattr(limits, "script", lambda _lua: gone)


def in_parallel(work: Callable[[], Any], times: int) -> list[Any]:
    together = threading.Barrier(times)

    def run(_: int) -> Any:
        together.wait()
        return work()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(run, range(times)))


# --- The window -------------------------------------------------------------------------------------------------------


def test_as_many_pass_as_the_limit_says_and_no_more():
    assert [passes(wish(3)) for _ in range(6)] == [True] * 3 + [False] * 3


def test_who_is_refused_is_told_to_the_millisecond_how_long():
    took(50, of=wish(2))
    took(20, of=wish(2))
    [wait] = take([wish(2)])
    assert wait == pytest.approx(10, abs=0.2)


def test_the_window_slides_with_each_that_passed():
    took(61, of=wish(2))
    took(59.8, of=wish(2))
    assert passes(wish(2))  # the first is more than a minute ago...
    [wait] = take([wish(2)])  # ...the second is not
    assert 0 < wait <= 0.2
    time.sleep(wait)
    assert passes(wish(2))
    assert take([wish(2)])[0] == pytest.approx(60, abs=1)


def test_a_refusal_costs_nothing():
    took(59.9, of=wish(1))
    for _ in range(20):
        take([wish(1)])
    time.sleep(0.15)
    assert passes(wish(1))


def test_players_and_layers_do_not_share_a_limit():
    assert passes(wish(1))
    assert passes(wish(1, subject="bob"))
    assert passes(wish(1, layer="scores"))
    assert not passes(wish(1))


def test_parallel_callers_get_exactly_the_limit_between_them():
    answers = in_parallel(lambda: passes(wish(7)), 40)
    assert sorted(answers) == [False] * 33 + [True] * 7


def test_one_call_decides_many_wishes_in_their_order():
    a, b = "alice", "bob"
    waits = take([wish(2, subject=who) for who in (a, b, a, a, b, b, a)])
    assert [wait == 0 for wait in waits] == [True, True, True, False, True, False, False]


def test_each_wish_of_a_call_has_its_own_limit_and_window():
    took(30, of=wish(1))
    took(30, of=wish(1, subject="bob", seconds=20))
    waits = take([wish(1), wish(1, subject="bob", seconds=20), wish(0, subject="carol"), wish(2)])
    assert [wait == 0 for wait in waits] == [False, True, True, True]


def test_zero_switches_a_limit_off():
    assert take([wish(0)] * 50) == [0] * 50
    assert take([]) == []
    assert not client().keys("*")
    waits = take([wish(1), wish(0), wish(1), wish(0)])
    assert [wait == 0 for wait in waits] == [True, True, False, True]


def test_what_is_given_back_can_be_taken_again_and_only_once():
    first, second = wish(2), wish(2)
    assert passes(first)
    assert passes(second)
    for _ in range(3):
        give_back([first])
    assert passes(wish(2))
    assert not passes(wish(2))


def test_giving_back_what_was_never_taken_gives_nothing():
    assert passes(wish(1))
    give_back([wish(1)])
    assert not passes(wish(1))


def both() -> list[Take]:
    return [wish(1), Take("held", "alice", 5, after_previous=True)]


def test_a_wish_after_another_is_decided_only_where_that_passed():
    assert take(both()) == [0, 0]
    assert take(both())[0] > 0
    assert client().zcard(both()[1].key) == 1


def test_without_redis_too(without_redis):
    take(both())
    take(both())
    assert len(limits._emergency.seen[both()[1].key]) == 1


def test_what_a_wish_gives_back_is_free_again_once_it_has_passed():
    held = Take("held", "alice", 1)
    spends = Take("scores", "alice", 1, gives_back=("held", held.ticket))
    assert [passes(held), passes(Take("held", "alice", 1))] == [True, False]
    assert passes(spends)
    assert passes(held)
    assert not passes(Take("scores", "alice", 1, gives_back=("held", held.ticket)))
    assert not passes(Take("held", "alice", 1))  # who did not pass gave nothing back


def test_nothing_is_left_in_redis_after_the_window():
    took(0, of=wish(3))
    passes(wish(3))
    assert 0 < client().pttl(wish(3).key) <= WINDOW * 1000


def test_all_keys_live_in_one_slot_of_a_cluster():
    key = wish(subject="any}thing{").key
    assert key[key.index("{") : key.index("}") + 1] == "{limits}"


def test_the_scripts_survive_being_forgotten_by_redis():
    first = wish(2)
    assert passes(first)
    client().script_flush()
    assert passes(wish(2))
    client().script_flush()
    give_back([first])
    client().script_flush()
    assert [passes(wish(2)), passes(wish(2))] == [True, False]


# --- Without Redis ----------------------------------------------------------------------------------------------------


def test_without_redis_each_process_allows_the_same_numbers_by_itself_and_counts_that(without_redis):
    before = REGISTRY.get_sample_value("scoreboard_limits_without_redis_total")
    assert [passes(wish(3)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert passes(wish(3, subject="bob"))
    [wait] = take([wish(3)])
    assert 59 < wait <= 60
    assert REGISTRY.get_sample_value("scoreboard_limits_without_redis_total") == before + 7


def test_without_redis_many_wishes_and_switched_off_ones_are_decided_in_their_order(without_redis):
    waits = take([wish(1), wish(0), wish(1), wish(1, subject="bob")])
    assert [wait == 0 for wait in waits] == [True, True, False, True]


def test_without_redis_the_window_slides_too(without_redis, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(limits, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    assert passes(wish(2))
    now[0] += 30
    assert passes(wish(2))
    assert take([wish(2)]) == [30]
    now[0] += 30
    assert passes(wish(2))
    assert take([wish(2)]) == [30]


def test_without_redis_what_is_given_back_can_be_taken_again(without_redis):
    first = wish(1)
    assert passes(first)
    give_back([first])
    assert [passes(wish(1)), passes(wish(1))] == [True, False]
    give_back([wish(1, subject="nobody")])


class Slow(SimpleNamespace):
    """A wish that gives other threads their turn just when its limit is being looked at."""

    key = key_given_back = "{limits}:slow:alice"
    window_seconds, gives_back, after_previous, args = WINDOW, None, False, ()

    @property
    def ticket(self) -> str:
        return uuid.uuid4().hex

    @property
    def limit(self) -> int:
        time.sleep(0.005)
        return 2


def test_without_redis_parallel_callers_get_exactly_the_limit_between_them(without_redis):
    answers = in_parallel(lambda: passes(Slow()), 8)
    assert sorted(answers) == [False] * 6 + [True] * 2


def test_an_outage_under_attack_does_not_cost_memory_without_bound(without_redis):
    for start in range(0, 130_000, 1000):
        take([wish(1, subject=str(i)) for i in range(start, start + 1000)])
    assert len(limits._emergency.seen) <= 100_001


@pytest.mark.parametrize("failure", [redis.TimeoutError, redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError])
def test_a_redis_that_does_not_answer_or_refuses_to_write_is_away_too(monkeypatch, failure):
    def refusing(*_args: Any, **_kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(limits, "script", lambda _lua: refusing)
    assert [passes(wish(1)), passes(wish(1))] == [True, False]


def test_a_frozen_redis_costs_less_than_a_second(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        patience = client().connection_pool.connection_kwargs
        kept = {name: patience[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
        frozen = redis.Redis(port=silent.getsockname()[1], **kept)
        monkeypatch.setattr(limits, "script", lambda lua: Script(frozen, lua))
        started = time.monotonic()
        assert passes(wish(1))
        assert time.monotonic() - started < 1
