"""The chaos program: a short run holds every promise, and each checker does fail where a promise was broken."""

import asyncio
import contextlib
import copy
import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.evidence import Evidence, LedgerLine
from chaos.history import INFO, OK, Attempt, Call, Connection, Fault, History, Picture, Sample, Window
from chaos.postgres_wire import AnswerEnd, WriteSpotter
from chaos.proxy import Mode, Proxy
from chaos.run import judge

ROOT = Path(__file__).resolve().parent.parent
SEED = 7
ANN, BOB = "ann", "bob"
AT = "2026-01-10T10:30:00.000Z"


@pytest.mark.timeout(120)
def test_a_short_run_breaks_no_promise(tmp_path):
    command = [sys.executable, "-m", "chaos", "--seconds", "15", "--seed", str(SEED), "--json", str(tmp_path / "result.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["passed"] and result["seed"] == SEED
    assert len(result["faults"]) >= 3
    assert result["checks"]["C1 set"]["figures"]["acknowledged"] > 200
    folder = next(line for line in ran.stdout.splitlines() if line.startswith("Set after")).rsplit(" ", 1)[1]
    assert not Path(folder).exists()


def test_it_names_the_faults_that_there_are():
    ran = subprocess.run(
        [sys.executable, "-m", "chaos", "--faults", "rain"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == 2
    assert "no such fault: rain" in ran.stderr and "kill PostgreSQL" in ran.stderr


def receipt(line: LedgerLine) -> dict:
    return {
        "userId": line.player,
        "previousScore": line.score_after - line.points,
        "pointsAwarded": line.points,
        "newScore": line.score_after,
        "timestamp": line.at,
    }


def honest_history(ledger: list[LedgerLine]) -> History:
    """Three attempts, one of them learned after a 503; one fault; one screen that came back once."""
    history = History()
    for number, line in enumerate(ledger):
        began = 1.0 + number
        call = Call(
            "redeem", number % 2, began, began + 0.1, OK, 200, action=line.action, player=line.player, receipt=receipt(line)
        )
        history.calls.append(call)
        history.attempts.append(Attempt(line.player, line.action, line.points, began, settled=began + 0.1, outcome=OK))
    lost = Call("redeem", 1, 2.5, 2.6, INFO, 503, "UNAVAILABLE", "1", action=ledger[2].action, player=ledger[2].player)
    history.calls.insert(2, lost)
    history.calls[3].status, history.attempts[2].unknown_since = 409, 2.6
    history.calls.append(Call("board", 0, 3.5, 3.6, OK, 200))
    history.faults.append(Fault(2.0, 2.7, kind="kill PostgreSQL", detail="…", served=0.2, board=0.3, points=150))
    first = Connection("quick 0", 0, 0.5, 2.1, 1012, [Picture(0.6, 1, 0, 1, True), Picture(1.2, 5, 100, 2, False)], [(ANN, 100)])
    second = Connection("quick 0", 1, 2.8, None, None, [Picture(2.9, 6, 150, 3, True), Picture(3.2, 7, 200, 4, False)])
    second.rows = [(ANN, 150), (BOB, 50)]
    history.connections += [first, second]
    return history


@pytest.fixture
def evidence() -> Evidence:
    """Of a run in which all went well."""
    ledger = [
        LedgerLine(1, ANN, 100, 100, "action 1", AT),
        LedgerLine(2, BOB, 50, 50, "action 2", AT),
        LedgerLine(3, ANN, 50, 150, "action 3", AT),
    ]
    order = [(ANN, 150), (BOB, 50)]
    sample = Sample(0.0, {"A": 10, "B": 10}, {"A": 40, "B": 40}, {"A": 100.0, "B": 100.0}, 6)
    return Evidence(
        history=honest_history(ledger),
        ledger=ledger,
        actions={line.action: (line.player, line.points) for line in ledger},
        totals={ANN: 150, BOB: 50},
        order=order,
        shown={"REST A": list(order), "new socket B": list(order)},
        disagreements=[],
        doubled=[],
        deaf_longest=40.0,
        baseline=sample,
        final=copy.deepcopy(sample),
    )


def failing(evidence: Evidence) -> set[str]:
    return {verdict.name.split()[0] for verdict in judge(evidence) if not verdict.passed}


def test_an_honest_run_passes(evidence):
    assert failing(evidence) == set()


def lose_a_line(e: Evidence) -> None:
    lost = e.ledger.pop()
    e.totals[ANN] -= lost.points


def add_a_line(e: Evidence) -> None:
    e.ledger.append(LedgerLine(4, BOB, 50, 100, "action 9", AT))
    e.actions["action 9"] = (BOB, 50)
    e.totals[BOB] += 50


def double_a_line(e: Evidence) -> None:
    e.ledger.append(dataclasses.replace(e.ledger[1], id=4, score_after=100))
    e.totals[BOB] += 50


def tell_twice(e: Evidence) -> None:
    e.history.calls.append(dataclasses.replace(e.history.calls[0], what="again"))


def hang_up(e: Evidence) -> None:
    e.history.calls.append(Call("board", 0, 3.0, 3.1, INFO, 0, "ConnectionResetError"))


def hang_up_when_asked_to_stop(e: Evidence) -> None:
    e.history.troubles[0].append(Window(3.05, 4.0, graceful=True))
    hang_up(e)


def answer(call: Call) -> Callable[[Evidence], None]:
    return lambda e: e.history.calls.append(call)


# Checker, what is wrong, how it is done to the evidence of an honest run.
BROKEN: list[tuple[str, str, Callable[[Evidence], object]]] = [
    ("C1", "a lost line", lose_a_line),
    ("C1", "an unexpected line", add_a_line),
    ("C1", "paid after a no", lambda e: setattr(e.history.attempts[1], "outcome", "fail")),
    ("C1", "nothing acknowledged", lambda e: e.history.calls.clear()),
    ("C2", "a doubled line", double_a_line),
    ("C2", "doubled by PostgreSQL's count", lambda e: e.doubled.append("2 ledger lines of action 1")),
    ("C2", "200 twice", lambda e: answer(dataclasses.replace(e.history.calls[0], what="again"))(e)),
    ("C3", "paid too much", lambda e: e.actions.update({"action 2": (BOB, 49)})),
    ("C3", "a miscounted score", lambda e: e.totals.update({BOB: 51})),
    ("C4", "another board by REST", lambda e: e.shown["REST A"].reverse()),
    ("C4", "disorder in Redis", lambda e: e.disagreements.append("place 1: PostgreSQL has ann with 150, the board nobody")),
    ("C4", "healed late", lambda e: setattr(e.history.faults[0], "board", 5.1)),
    ("C4", "never healed", lambda e: setattr(e.history.faults[0], "board", None)),
    ("C5", "seq back on a connection", lambda e: setattr(e.history.connections[1].pictures[1], "seq", 5)),
    ("C5", "seq standing still", lambda e: setattr(e.history.connections[1].pictures[1], "seq", 6)),
    (
        "C5",
        "an older seq of a newer picture",
        lambda e: setattr(e.history.connections[1].pictures[0], "seq", 4),
    ),
    ("C5", "an old last picture", lambda e: setattr(e.history.connections[1], "rows", [(ANN, 100)])),
    ("C6", "never definite", lambda e: setattr(e.history.attempts[2], "settled", None)),
    ("C6", "definite late", lambda e: setattr(e.history.attempts[2], "settled", 13.0)),
    ("C6", "serving late", lambda e: setattr(e.history.faults[0], "served", 5.1)),
    ("C6", "frozen screens", lambda e: setattr(e.history.faults[0], "points", 201)),
    ("C7", "a lying receipt", lambda e: e.history.calls[0].receipt.update(newScore=101)),
    ("C7", "a broken promise of points", lambda e: setattr(e.history.attempts[0], "points", 101)),
    ("C8", "a 500", answer(Call("board", 0, 3.0, 3.1, INFO, 500, "INTERNAL_ERROR"))),
    ("C8", "a needless 503", answer(Call("board", 0, 8.0, 8.1, INFO, 503, "UNAVAILABLE", "1"))),
    ("C8", "no Retry-After", lambda e: setattr(e.history.calls[2], "retry_after", None)),
    ("C8", "an unearned refusal", answer(Call("complete", 0, 3.0, 3.1, "fail", 401, "UNAUTHORIZED"))),
    ("C8", "a slow answer", answer(Call("board", 0, 3.0, 6.1, OK, 200))),
    ("C8", "a hang-up", hang_up),
    ("C8", "a hang-up by a graceful stop", hang_up_when_asked_to_stop),
    ("C8", "a server that died", lambda e: e.history.surprises.append("server A ended by itself")),
    ("C9", "leaked threads", lambda e: e.final.threads.update(B=27)),
    ("C9", "leaked backends", lambda e: setattr(e.final, "backends", 23)),
    ("C9", "nothing measured", lambda e: setattr(e, "final", None)),
    ("C9", "a deaf socket kept", lambda e: setattr(e, "deaf_longest", 61.0)),
]


@pytest.mark.parametrize(("checker", "doctor"), [pytest.param(c, d, id=f"{c} {what}") for c, what, d in BROKEN])
def test_a_broken_promise_is_found(evidence: Evidence, checker: str, doctor: Callable[[Evidence], object]):
    doctor(evidence)
    assert checker in failing(evidence)


def test_a_server_in_trouble_may_be_slow_and_silent(evidence):
    hang_up(evidence)
    answer(Call("board", 0, 3.5, 8.0, OK, 200))(evidence)
    evidence.history.troubles[0].append(Window(2.9, 6.0))
    assert failing(evidence) == set()


def test_time_under_a_fault_is_no_waiting_time():
    history = History()
    history.faults += [Fault(1.0, 3.0), Fault(2.0, 4.0), Fault(6.0, None)]
    assert history.calm_since(0.0, 10.0) == 1.0 + 2.0
    assert history.calm_since(1.5, 5.0) == 1.0


PAYS = b"WITH claim AS MATERIALIZED (SELECT 1) INSERT INTO leaderboard_scoreentry"
STARTUP = (8 + 5).to_bytes(4) + (196608).to_bytes(4) + b"user\0"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def test_a_payment_is_seen_in_whatever_pieces_it_comes():
    prepare = message(b"P", b"_pg3_1\0" + PAYS + b"\0\0\0") + message(b"P", b"_pg3_2\0SELECT 1\0\0\0")
    other, pays = message(b"B", b"\0_pg3_2\0rest"), message(b"B", b"\0_pg3_1\0rest")
    whole = WriteSpotter()
    assert [whole.feed(data) for data in (STARTUP + prepare, other, pays, pays + other)] == ["", "", "payment", "payment"]
    pieces = WriteSpotter()
    seen = [pieces.feed(bytes([byte])) for byte in (8).to_bytes(4) + (80877103).to_bytes(4) + STARTUP + prepare + pays]
    assert seen.count("payment") == 1 and seen[-1] == "payment"


def test_an_answer_ends_with_ready_for_query():
    end = AnswerEnd()
    assert not end.feed(message(b"C", b"INSERT 0 1\0") + b"Z\0\0")
    assert end.feed(b"\0\5I")


@contextlib.asynccontextmanager
async def echo_behind_a_proxy():
    """(proxy, connect): whatever is sent through the proxy comes back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    engine = await asyncio.start_server(echo, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    proxy = Proxy(port, engine.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
        engine.close()


async def test_the_proxy_holds_delays_and_resets():
    async with echo_behind_a_proxy() as proxy:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        async def ask(text: bytes) -> float:
            began = loop.time()
            writer.write(text)
            assert await asyncio.wait_for(reader.readexactly(len(text)), 5) == text
            return loop.time() - began

        assert await ask(b"one") < 0.1
        proxy.delay = 0.2
        assert 0.2 <= await ask(b"two") < 0.5
        proxy.delay = 0.0
        proxy.set(Mode.BLACKHOLE)
        loop.call_later(0.3, proxy.set, Mode.PASS)
        assert await ask(b"three") >= 0.3  # held, not lost
        proxy.set(Mode.RESET)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        newcomer, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await newcomer.read()
