"""How many live sockets a player, an address and a process may have; counted by what is really open."""

import asyncio
import contextlib
import resource

import pytest
import websockets

from leaderboard import socket_caps
from scoreboard_project import server as web_server
from scoreboard_project import sign_in
from scoreboard_project.request_id import network
from tests.conftest import serving
from tests.test_live import Viewer, handshake, sockets_open, until, watching, without_traceback


async def refused(server, **headers) -> int:
    """The close code that a new socket gets before it hears anything."""
    async with websockets.connect(server.socket_url, additional_headers=headers, proxy=None) as socket:
        viewer = Viewer(socket)
        code = await viewer.closed()
    assert not viewer.heard
    return code


async def all_closed(server):
    async def nobody():
        return await sockets_open(server) == 0

    await until(nobody)


async def test_an_address_has_so_many_sockets_and_each_one_closed_makes_room(world, tmp_path):
    with serving(tmp_path, SOCKETS_PER_ADDRESS="3", TRUSTED_PROXY_HOPS="1") as server:
        here = {"X-Forwarded-For": "192.0.2.1"}
        for _ in range(2):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(3):
                    last = await stack.enter_async_context(watching(server, **here))
                for _ in range(5):
                    assert await refused(server, **here) == 4429
                async with watching(server, **{"X-Forwarded-For": "192.0.2.2"}):
                    pass
                await last.ping()  # whoever was there stays
            await all_closed(server)
        for _ in range(40):  # come and go, some without a word
            async with watching(server, **here) as viewer:
                viewer.socket.transport.abort()
        await all_closed(server)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(watching(server, **here))
            assert await refused(server, **here) == 4429
        without_traceback(server)


async def test_one_household_of_ipv6_is_one_address(world, tmp_path):
    with serving(tmp_path, SOCKETS_PER_ADDRESS="1", TRUSTED_PROXY_HOPS="1") as server:
        async with watching(server, **{"X-Forwarded-For": "2001:db8:1:2::1"}):
            assert await refused(server, **{"X-Forwarded-For": "2001:db8:1:2:ffff::9"}) == 4429
            async with watching(server, **{"X-Forwarded-For": "2001:db8:1:3::1"}):
                pass


async def test_a_player_has_so_many_sockets_however_they_sign_in(world, alice, bob, tmp_path):
    with serving(tmp_path, SOCKETS_PER_PLAYER="2") as server:
        access = sign_in.access_for(alice.pk)
        for _ in range(2):
            async with watching(server, alice) as first, watching(server) as second:
                await second.say({"action": "authenticate", "token": access})
                for again in (first, second):  # the same player once more on the same socket is no further one
                    await again.say({"action": "authenticate", "token": access})
                    await again.ping()
                assert await refused(server, Authorization=f"Bearer {access}") == 4429
                async with watching(server) as third:
                    await third.say({"action": "authenticate", "token": access})
                    assert await third.closed() == 4429
                async with watching(server, bob), watching(server):
                    pass
            await all_closed(server)


async def test_a_full_process_answers_503_and_goes_on_serving_calls(world, tmp_path):
    with serving(tmp_path, SOCKETS_PER_PROCESS="2") as server:
        async with watching(server), watching(server) as viewer:
            status, head = await handshake(server, "X-Request-ID: full-house")
            assert status == 503
            assert "retry-after: 10" in head.lower() and "x-request-id: full-house" in head.lower()
            await viewer.ping()
            async with server.api() as http:
                assert (await http.get("/api/v1/scores/leaderboard")).status_code == 200
                assert 'scoreboard_sockets_refused_total{of="process"} 1.0' in (await http.get("/metrics")).text
        await all_closed(server)
        async with watching(server), watching(server):
            pass
        without_traceback(server)


async def test_zero_switches_the_caps_off(world, alice, tmp_path):
    off = {"SOCKETS_PER_PLAYER": "0", "SOCKETS_PER_ADDRESS": "0", "SOCKETS_PER_PROCESS": "0"}
    with serving(tmp_path, **off) as server:
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(watching(server, alice)) for _ in range(20)))


def test_who_was_refused_leaves_nothing_behind(settings):
    settings.SOCKETS_PER_ADDRESS = 1
    with socket_caps.place_of("a") as first, socket_caps.place_of("a") as second:
        assert (first, second) == (True, False)
    assert not socket_caps._of_address
    with pytest.raises(ZeroDivisionError), socket_caps.place(), socket_caps.place_of("a"):
        raise ZeroDivisionError
    assert not socket_caps._of_address and socket_caps._here == 0


def test_a_load_tool_on_one_machine_meets_no_cap(settings):
    assert min(settings.SOCKETS_PER_ADDRESS, settings.SOCKETS_PER_PROCESS) >= 2500


@pytest.mark.parametrize(
    ("hard", "asked_for"),
    [(524_288, [(10_000 + web_server.OTHER_DESCRIPTORS, 524_288)]), (4096, [(4096, 4096)]), (1024, [])],
)
def test_a_server_may_open_as_many_files_as_it_may_have_sockets(monkeypatch, settings, hard, asked_for):
    asked = []
    settings.SOCKETS_PER_PROCESS = 10_000
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: asked.append(limits))
    web_server.allow_descriptors()
    assert asked == asked_for


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_address(address, counts_as):
    assert network(address) == counts_as
