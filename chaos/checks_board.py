"""C4, C5: all boards show the same truth, soon, and none went back on the way."""

from collections import defaultdict

from chaos.evidence import Evidence, Rows, Verdict
from chaos.history import Connection, Picture

TOP = 10
BOARD_WITHIN = 5.0  # s after Redis answers again


def c4_board(evidence: Evidence) -> Verdict:
    """Top 10 of REST, sockets and SQL, the whole order in Redis, and how long Redis was behind after each fault."""
    verdict = Verdict(
        "C4 board", f"REST, sockets, Redis and SQL show one board, {BOARD_WITHIN:.0f} s after a fault at the latest"
    )
    truth = evidence.order[:TOP]
    wrong = [f"{place} shows {_difference(rows, truth)}" for place, rows in evidence.shown.items() if rows != truth]
    verdict.numbers |= {"players": len(evidence.order), "boards compared": len(evidence.shown)}
    verdict.count("wrong boards", wrong)
    verdict.count("wrong places in Redis", evidence.disagreements)
    measured = [fault.board for fault in evidence.history.faults if fault.board is not None]
    verdict.numbers["worst s"] = max(measured, default=0.0)
    for fault in evidence.history.faults:
        if fault.board is None or fault.board > BOARD_WITHIN:
            took = "never" if fault.board is None else f"{fault.board:.1f} s"
            verdict.violations.append(f"board = ledger took {took} after {fault.kind} at {fault.began:.1f} s ({fault.detail})")
    if not evidence.shown:
        verdict.violations.append("no board was seen")
    return verdict


def c5_stream(evidence: Evidence) -> Verdict:
    """`seq` grows on each connection, and a newer picture has the greater one on a watcher's next connection too."""
    verdict = Verdict("C5 stream", "seq never goes back on a screen, and the last picture is the truth")
    by_watcher: defaultdict[str, list[Connection]] = defaultdict(list)
    for connection in evidence.history.connections:
        by_watcher[connection.watcher].append(connection)
    within = [sentence for connection in evidence.history.connections for sentence in _back_within(connection)]
    between = [sentence for connections in by_watcher.values() for sentence in _back_between(connections)]
    verdict.numbers["connections"] = len(evidence.history.connections)
    verdict.numbers["pictures"] = sum(len(connection.pictures) for connection in evidence.history.connections)
    verdict.count("back on a connection", within)
    verdict.count("back after a reconnect", between)
    last = {watcher: connections[-1].rows for watcher, connections in by_watcher.items()}
    truth = evidence.order[:TOP]
    stale = [f"last picture of {watcher}: {_difference(rows, truth)}" for watcher, rows in last.items() if rows != truth]
    verdict.count("wrong last pictures", stale)
    older = [_older_pictures(connections) for name, connections in by_watcher.items() if name.startswith("quick")]
    verdict.numbers["older pictures"] = sum(count for count, _ in older)
    verdict.numbers["longest s"] = max((seconds for _, seconds in older), default=0.0)
    return verdict


def _back_within(connection: Connection) -> list[str]:
    found = []
    pairs = zip(connection.pictures, connection.pictures[1:], strict=False)
    for before, after in pairs:
        if after.seq < before.seq or (after.seq == before.seq and after.rows != before.rows):
            whose = f"{connection.watcher} on server {'AB'[connection.server]}"
            found.append(f"{whose} at {after.at:.2f} s: seq {after.seq} after {before.seq}")
    return found


def _back_between(connections: list[Connection]) -> list[str]:
    """Newer pictures that came with a lower `seq` than an earlier connection's; one sentence a connection.

    A lower `seq` with the same picture, or an older one, is in order: the other server had not looked yet.
    """
    found = []
    newest: Picture | None = None
    for connection in connections:
        for picture in connection.pictures:
            if newest is not None and picture.seq <= newest.seq and picture.points > newest.points:
                found.append(
                    f"{connection.watcher} came back to server {'AB'[connection.server]}: at {picture.at:.2f} s a newer picture "
                    f"with seq {picture.seq}, {newest.seq - picture.seq} less than that of {newest.at:.2f} s"
                )
                break
        newest = max([*connection.pictures, *([newest] if newest else [])], key=lambda picture: picture.seq, default=None)
    return found


def _older_pictures(connections: list[Connection]) -> tuple[int, float]:
    """How often a screen fell back to an older state of the board, and the longest time until it had caught up again."""
    count, longest, most, since = 0, 0.0, 0, None
    for picture in (picture for connection in connections for picture in connection.pictures):
        if picture.points < most:
            count += since is None
            since = picture.at if since is None else since
        else:
            longest = max(longest, picture.at - since) if since is not None else longest
            most, since = picture.points, None
    return count, longest


def _difference(rows: Rows, truth: Rows) -> str:
    if not rows:
        return "nothing"
    for place, (shown, true) in enumerate(zip(rows, truth, strict=False), start=1):
        if shown != true:
            return f"{shown} on place {place}, in truth {true}"
    return f"{len(rows)} rows, in truth {len(truth)}"
