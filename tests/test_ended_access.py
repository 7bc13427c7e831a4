"""A new password and deactivation end a player's access: refresh tokens at once, access tokens and sockets within seconds."""

import asyncio
import contextlib
import time
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.db import connection
from django.test import Client

from leaderboard import moderation
from leaderboard.models import Player
from scoreboard_project import background, ended_access, sign_in
from scoreboard_project.asgi import application
from scoreboard_project.errors import Unauthorized
from scoreboard_project.models import SignIn
from tests.conftest import PASSWORD, Api, code
from tests.test_live import watching
from tests.test_sign_in import refreshed, signed_in, try_in

NEW = "another horse battery"
SECONDS = 2 * ended_access.LOOK_SECONDS + 3  # a look, then the hub's; and a busy machine


def by_save(player: Player) -> None:
    player.set_password(NEW)
    player.save()


def by_sql(player: Player) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE leaderboard_player SET password = %s WHERE id = %s", [make_password(NEW), player.pk])


def by_admin(player: Player) -> None:
    Player.objects.filter(username="root-desk").delete()
    desk = Client()
    desk.force_login(Player.objects.create_superuser("root-desk", password=PASSWORD))
    form = {"usable_password": "true", "password1": NEW, "password2": NEW}
    answer = desk.post(f"/admin/leaderboard/player/{player.pk}/password/", form)
    assert answer.status_code == 302, answer.content


def by_deactivation(player: Player) -> None:
    Player.objects.filter(pk=player.pk).update(is_active=False)


DOORS = [by_save, by_sql, by_admin, by_deactivation]


async def standing(api: Any, access: str) -> Any:
    return await api.call("GET", "/scores/leaderboard", headers={"Authorization": f"Bearer {access}"})


@pytest.mark.parametrize("door", DOORS)
async def test_access_refresh_and_session_end_whichever_door_it_comes_through(api, alice, bob, door):
    pair, other = await signed_in(api), await signed_in(api, "bob")
    browser = Client()
    await sync_to_async(browser.force_login)(alice)
    assert (await standing(api, pair["access"])).status_code == 200

    await sync_to_async(door)(alice)
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    await sync_to_async(ended_access.look)()
    assert code(await standing(api, pair["access"])) == (401, "UNAUTHORIZED")
    assert (await sync_to_async(browser.get)("/play/")).status_code == 302
    assert await SignIn.objects.filter(player=alice, ended_at=None).acount() == 0

    assert (await standing(api, other["access"])).status_code == 200  # nobody else's
    assert (await refreshed(api, other["refresh"])).status_code == 200


async def test_who_signs_in_with_the_new_password_is_let_in_at_once(api, alice):
    await sync_to_async(by_save)(alice)
    await sync_to_async(ended_access.look)()
    assert code(await try_in(api)) == (401, "UNAUTHORIZED")
    pair = (await try_in(api, password=NEW)).json()["data"]
    assert (await standing(api, pair["access"])).status_code == 200
    pair = (await refreshed(api, pair["refresh"])).json()["data"]
    assert (await standing(api, pair["access"])).status_code == 200


async def test_who_is_reactivated_signs_in_anew(api, alice):
    pair = await signed_in(api)
    await sync_to_async(by_deactivation)(alice)
    await Player.objects.filter(pk=alice.pk).aupdate(is_active=True)
    await sync_to_async(ended_access.look)()
    assert code(await standing(api, pair["access"])) == (401, "UNAUTHORIZED")
    assert code(await refreshed(api, pair["refresh"])) == (401, "UNAUTHORIZED")
    assert (await standing(api, (await signed_in(api))["access"])).status_code == 200


async def test_other_changes_of_an_account_end_nothing(api, alice, moderator):
    pair = await signed_in(api)
    await Player.objects.filter(pk=alice.pk).aupdate(email="alice@example.com", is_staff=True)
    await sync_to_async(moderation.suspend)(player_id=alice.pk, moderator=moderator, reason="a test")
    await sync_to_async(moderation.hide)(player_id=alice.pk, moderator=moderator, reason="a test")
    await sync_to_async(ended_access.look)()
    assert (await standing(api, pair["access"])).status_code == 200
    assert (await refreshed(api, pair["refresh"])).status_code == 200


def test_a_row_that_was_read_before_and_is_saved_whole_brings_nothing_back(alice):
    before = Player.objects.get(pk=alice.pk)
    by_sql(alice)
    before.password = Player.objects.get(pk=alice.pk).password
    before.access_epoch, before.access_ended_at = 0, None
    before.save()
    now = Player.objects.get(pk=alice.pk)
    assert now.access_epoch == 1 and now.access_ended_at is not None


async def test_a_hash_that_is_made_anew_at_sign_in_does_not_end_that_sign_in(api, alice, settings):
    md5, pbkdf2 = (f"django.contrib.auth.hashers.{name}PasswordHasher" for name in ("MD5", "PBKDF2"))
    old = alice.password
    settings.PASSWORD_HASHERS = [pbkdf2, md5]
    pair = await signed_in(api)
    assert (await Player.objects.aget()).password != old
    await sync_to_async(ended_access.look)()
    assert (await standing(api, pair["access"])).status_code == 200
    assert (await refreshed(api, pair["refresh"])).status_code == 200


@pytest.mark.parametrize("door", DOORS)
def test_a_password_that_was_right_a_moment_ago_opens_nothing(alice, door):
    checked = Player.objects.get(pk=alice.pk)
    door(alice)
    with pytest.raises(Unauthorized):
        sign_in.begin(checked)
    assert not SignIn.objects.exists()


def test_minted_tokens_are_of_the_player_s_epoch(world, capsys):
    call_command("mint_tokens", players=1)
    by_sql(Player.objects.get())
    ended_access.look()
    capsys.readouterr()
    call_command("mint_tokens", players=1)
    access = capsys.readouterr().out.split('"token": "')[1].split('"')[0]
    assert sign_in.check_access(access).epoch == 1


def test_what_is_remembered_does_not_outlast_the_tokens(alice):
    by_sql(alice)
    ended_access.look()
    assert alice.pk in ended_access.players()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE leaderboard_player DISABLE TRIGGER access_ends")
        cursor.execute("UPDATE leaderboard_player SET access_ended_at = now() - interval '16 minutes 1 second'")
        cursor.execute("ALTER TABLE leaderboard_player ENABLE TRIGGER access_ends")
    ended_access.look()
    assert alice.pk not in ended_access.players()


async def refused_after(api: Api, access: str) -> float:
    began = time.monotonic()
    async with asyncio.timeout(SECONDS):
        while (await standing(api, access)).status_code == 200:
            await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("door", [by_save, by_deactivation])
async def test_both_servers_refuse_and_close_the_player_s_sockets_within_seconds(two_servers, alice, bob, door, capsys):
    access = sign_in.access_for(alice.pk)
    browser = Client()
    await sync_to_async(browser.force_login)(alice)
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    async with contextlib.AsyncExitStack() as stack:
        here, there = [Api(await stack.enter_async_context(server.api())) for server in two_servers]
        mine = [
            await stack.enter_async_context(watching(two_servers[0], alice)),
            await stack.enter_async_context(watching(two_servers[1], query=f"?token={access}")),
            await stack.enter_async_context(watching(two_servers[1], Cookie=cookie)),
            await stack.enter_async_context(watching(two_servers[0])),
        ]
        await mine[-1].say({"action": "authenticate", "token": access})
        await mine[-1].ping()
        others = [await stack.enter_async_context(watching(two_servers[0], bob))]
        others.append(await stack.enter_async_context(watching(two_servers[1])))

        await sync_to_async(door)(alice)
        began = time.monotonic()
        waits = await asyncio.gather(refused_after(here, access), refused_after(there, access))
        assert [await viewer.closed(SECONDS) for viewer in mine] == [4401] * 4
        closed = time.monotonic() - began
        for viewer in others:
            await viewer.ping()
        if door is by_save:  # the way back in, while the old access is still remembered as over
            anew = sign_in.access_for(alice.pk, (await Player.objects.aget(pk=alice.pk)).access_epoch)
            async with watching(two_servers[0], query=f"?token={anew}") as back:
                await asyncio.sleep(ended_access.LOOK_SECONDS + 0.5)
                await back.ping()
    with capsys.disabled():
        print(f"\n  {door.__name__}: API refuses after {max(waits):.1f} s, sockets closed after {closed:.1f} s")
    assert closed < SECONDS


async def starts() -> dict:
    """One start of the application, as a server announces it. Returns: what it said."""
    said: list[dict] = []
    asked = asyncio.Queue[dict]()
    asked.put_nowait({"type": "lifespan.startup"})

    async def send(message: dict) -> None:
        said.append(message)
        if message["type"] == "lifespan.startup.complete":
            asked.put_nowait({"type": "lifespan.shutdown"})

    await application({"type": "lifespan", "asgi": {"version": "3.0"}}, asked.get, send)
    return said[0]


async def test_a_process_that_starts_knows_whose_access_has_ended_before_it_serves(api, alice, monkeypatch):
    access = (await signed_in(api))["access"]
    await sync_to_async(by_sql)(alice)
    monkeypatch.setattr(ended_access, "_least", None)  # as in a new process
    monkeypatch.setattr(background, "ensure", lambda: None)
    await starts()
    assert code(await standing(api, access)) == (401, "UNAUTHORIZED")


async def test_a_process_that_could_not_ask_starts_and_asks_before_it_says_that_it_is_ready(api, alice, monkeypatch):
    access = (await signed_in(api))["access"]
    await sync_to_async(by_sql)(alice)
    monkeypatch.setattr(ended_access, "_least", None)
    monkeypatch.setattr(background, "ensure", lambda: None)
    with monkeypatch.context() as away:
        away.setattr(ended_access, "look", lambda: 1 / 0)
        assert (await starts())["type"] == "lifespan.startup.complete"
        assert (await api.http.get("/readyz")).status_code == 503
    assert (await api.http.get("/readyz")).status_code == 200
    assert code(await standing(api, access)) == (401, "UNAUTHORIZED")
