"""What can be broken, and how. Each fault returns when all that it broke runs again; `what` says what was done."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import redis

from chaos.history import until
from chaos.postgres_wire import COMPLETION, PAYMENT
from chaos.proxy import Mode, Proxy
from chaos.stage import Stage

Say = Callable[[str], None]
Breaker = Callable[[Stage, random.Random, Say], Awaitable[None]]
KINDS: dict[str, Breaker] = {}

CUTS = (1, 4)  # statements in a row: the servers themselves try a lost statement a second time
CUT_WITHIN = 3.0  # s in which these must come
DELAY = 0.2  # s


def fault(kind: str) -> Callable[[Breaker], Breaker]:
    def enter(breaker: Breaker) -> Breaker:
        KINDS[kind] = breaker
        return breaker

    return enter


@fault("kill a server")
async def kill_server(stage: Stage, dice: random.Random, say: Say) -> None:
    server = dice.choice(stage.servers)
    say(f"SIGKILL server {server.name}")
    server.kill()
    await server.up.wait()


@fault("kill both servers")
async def kill_both(stage: Stage, dice: random.Random, say: Say) -> None:
    say("SIGKILL both servers")
    for server in stage.servers:
        server.kill()
    await asyncio.gather(*(server.up.wait() for server in stage.servers))


@fault("freeze a server")
async def freeze_server(stage: Stage, dice: random.Random, say: Say) -> None:
    server, seconds = dice.choice(stage.servers), dice.uniform(1, 3)
    say(f"SIGSTOP server {server.name} for {seconds:.1f} s")
    server.begin_trouble()
    server.child.freeze()
    await asyncio.sleep(seconds)
    server.child.thaw()
    server.end_trouble()


@fault("restart a server")
async def restart_server(stage: Stage, dice: random.Random, say: Say) -> None:
    server = dice.choice(stage.servers)
    say(f"SIGTERM server {server.name}")
    took = await server.stop_gracefully()
    say(f"SIGTERM server {server.name}, gone after {took:.1f} s")
    await server.up.wait()


@fault("kill PostgreSQL")
async def kill_postgres(stage: Stage, dice: random.Random, say: Say) -> None:
    family, down = dice.random() < 0.5, dice.uniform(0, 1.5)
    say(f"SIGKILL PostgreSQL ({'all of it' if family else 'its first process'}), down {down:.1f} s and a restart")
    stage.postgres.kill(family=family)
    await asyncio.sleep(down)
    await stage.postgres.start()


@fault("freeze PostgreSQL")
async def freeze_postgres(stage: Stage, dice: random.Random, say: Say) -> None:
    seconds = dice.uniform(1, 4)
    say(f"SIGSTOP PostgreSQL for {seconds:.1f} s")
    stage.postgres.freeze()
    await asyncio.sleep(seconds)
    stage.postgres.thaw()


@fault("kill Valkey")
async def kill_valkey(stage: Stage, dice: random.Random, say: Say) -> None:
    seconds = dice.uniform(0.2, 4)
    say(f"SIGKILL Valkey, empty restart after {seconds:.1f} s")
    stage.valkey.kill()
    await asyncio.sleep(seconds)
    await stage.valkey.start()


@fault("freeze Valkey")
async def freeze_valkey(stage: Stage, dice: random.Random, say: Say) -> None:
    seconds = dice.uniform(1, 8)
    say(f"SIGSTOP Valkey for {seconds:.1f} s")
    stage.valkey.freeze()
    await asyncio.sleep(seconds)
    stage.valkey.thaw()


@fault("freeze Valkey and kill a server")
async def freeze_valkey_and_kill(stage: Stage, dice: random.Random, say: Say) -> None:
    """Payments are committed and not shown, the process that knew of them dies, and the next may find no Valkey."""
    server, before, after = dice.choice(stage.servers), dice.uniform(0.3, 1), dice.uniform(0, 4)
    say(f"SIGSTOP Valkey, {before:.1f} s later SIGKILL server {server.name}, {after:.1f} s later SIGCONT Valkey")
    stage.valkey.freeze()
    await asyncio.sleep(before)
    server.kill()
    await asyncio.sleep(after)
    stage.valkey.thaw()
    await server.up.wait()


@fault("FLUSHALL")
async def flush(stage: Stage, dice: random.Random, say: Say) -> None:
    say("FLUSHALL")
    await _tell_valkey(stage, "FLUSHALL")


@fault("SCRIPT FLUSH")
async def flush_scripts(stage: Stage, dice: random.Random, say: Say) -> None:
    say("SCRIPT FLUSH")
    await _tell_valkey(stage, "SCRIPT FLUSH")


@fault("cut payments before COMMIT")
async def cut_payments_before(stage: Stage, dice: random.Random, say: Say) -> None:
    await _cut(stage, dice, say, Mode.CUT_BEFORE_COMMIT, PAYMENT)


@fault("cut payments after COMMIT")
async def cut_payments_after(stage: Stage, dice: random.Random, say: Say) -> None:
    await _cut(stage, dice, say, Mode.CUT_AFTER_COMMIT, PAYMENT)


@fault("cut completions before COMMIT")
async def cut_completions_before(stage: Stage, dice: random.Random, say: Say) -> None:
    await _cut(stage, dice, say, Mode.CUT_BEFORE_COMMIT, COMPLETION)


@fault("cut completions after COMMIT")
async def cut_completions_after(stage: Stage, dice: random.Random, say: Say) -> None:
    await _cut(stage, dice, say, Mode.CUT_AFTER_COMMIT, COMPLETION)


@fault("reset PostgreSQL's connections")
async def reset_postgres(stage: Stage, dice: random.Random, say: Say) -> None:
    await _reset(stage.postgres_proxy, "PostgreSQL", dice, say)


@fault("reset Valkey's connections")
async def reset_valkey(stage: Stage, dice: random.Random, say: Say) -> None:
    await _reset(stage.valkey_proxy, "Valkey", dice, say)


@fault("no network to PostgreSQL")
async def lose_postgres(stage: Stage, dice: random.Random, say: Say) -> None:
    await _lose(stage.postgres_proxy, "PostgreSQL", dice.uniform(1, 4), say)


@fault("no network to Valkey")
async def lose_valkey(stage: Stage, dice: random.Random, say: Say) -> None:
    await _lose(stage.valkey_proxy, "Valkey", dice.uniform(1, 8), say)


@fault("slow PostgreSQL")
async def slow_postgres(stage: Stage, dice: random.Random, say: Say) -> None:
    await _slow(stage.postgres_proxy, "PostgreSQL", dice, say)


@fault("slow Valkey")
async def slow_valkey(stage: Stage, dice: random.Random, say: Say) -> None:
    await _slow(stage.valkey_proxy, "Valkey", dice, say)


def mend(stage: Stage) -> None:
    """Undo whatever a fault left half done: the run is being ended."""
    for proxy in (stage.postgres_proxy, stage.valkey_proxy):
        proxy.delay = 0.0
        proxy.set(Mode.PASS)
    for child in (stage.postgres, stage.valkey, *(server.child for server in stage.servers)):
        child.thaw()


async def _tell_valkey(stage: Stage, command: str) -> None:
    async with stage.valkey.client() as client:
        with contextlib.suppress(redis.RedisError):
            await client.execute_command(*command.split())


async def _cut(stage: Stage, dice: random.Random, say: Say, mode: Mode, what: str) -> None:
    proxy, wanted = stage.postgres_proxy, dice.randint(*CUTS)
    say(f"{mode.value}: the next {wanted} {what} batches")
    proxy.set(mode, cut=what, cuts=wanted)
    await until(lambda: proxy.cuts_made >= wanted, CUT_WITHIN)
    if mode is Mode.CUT_AFTER_COMMIT:
        await asyncio.sleep(0.3)  # for the COMMIT whose answer is to be lost
    made = proxy.cuts_made
    proxy.set(Mode.PASS)
    say(f"{mode.value}: {made} {what} batches")


async def _reset(proxy: Proxy, name: str, dice: random.Random, say: Say) -> None:
    seconds = dice.choice([0.0, dice.uniform(0.2, 2)])
    say(f"RST to all {len(proxy.links)} connections to {name}" + (f", and to new ones for {seconds:.1f} s" if seconds else ""))
    proxy.set(Mode.RESET)
    await asyncio.sleep(seconds)
    proxy.set(Mode.PASS)


async def _lose(proxy: Proxy, name: str, seconds: float, say: Say) -> None:
    say(f"no bytes to or from {name} for {seconds:.1f} s")
    proxy.set(Mode.BLACKHOLE)
    await asyncio.sleep(seconds)
    proxy.set(Mode.PASS)


async def _slow(proxy: Proxy, name: str, dice: random.Random, say: Say) -> None:
    seconds = dice.uniform(2, 4)
    say(f"{DELAY * 1000:.0f} ms more to {name} for {seconds:.1f} s")
    proxy.delay = DELAY
    await asyncio.sleep(seconds)
    proxy.delay = 0.0
