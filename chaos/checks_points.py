"""C1, C2, C3, C7: every acknowledged point is in the ledger, once, and every answer told the truth."""

from collections import Counter, defaultdict

from chaos.evidence import Evidence, LedgerLine, Verdict
from chaos.history import FAIL, OK


def c1_set(evidence: Evidence) -> Verdict:
    """Acknowledged ⊆ ledger ⊆ attempted; and nothing was paid after a definite no."""
    verdict = Verdict("C1 set", "what was acknowledged is in the ledger, what is there was attempted")
    history = evidence.history
    attempted = {attempt.action for attempt in history.attempts}
    acknowledged = {call.action for call in history.calls if call.what in ("redeem", "again") and call.outcome == OK}
    refused = {attempt.action for attempt in history.attempts if attempt.outcome == FAIL}
    paid = {line.action for line in evidence.ledger}
    verdict.numbers |= {"attempted": len(attempted), "acknowledged": len(acknowledged), "in the ledger": len(paid)}
    verdict.count("lost", [f"lost: action {action}" for action in sorted(acknowledged - paid)])
    verdict.count("unexpected", [f"in the ledger, never attempted: action {action}" for action in sorted(paid - attempted)])
    verdict.count("paid after a no", [f"refused for good, and paid: action {action}" for action in sorted(refused & paid)])
    unknown = {attempt.action for attempt in history.attempts if attempt.unknown_since is not None}
    verdict.numbers["once unknown"] = len(unknown)
    redeemed = [call for call in history.calls if call.what == "redeem" and call.outcome == OK]
    # Paid by a call whose answer was lost; the client learned it by asking again.
    verdict.numbers["learned from a 409"] = sum(call.status != 200 for call in redeemed)
    if not acknowledged:
        verdict.violations.append("nothing was acknowledged: this run says nothing")
    return verdict


def c2_once(evidence: Evidence) -> Verdict:
    """No action and no token counts twice, by PostgreSQL's count, by ours, and by what clients were told."""
    verdict = Verdict("C2 once", "no token raised a score twice")
    lines = Counter(line.action for line in evidence.ledger)
    doubled = [f"{times} ledger lines for action {action}" for action, times in lines.items() if times > 1]
    verdict.count("doubled", [*evidence.doubled, *doubled])
    redeemed = [call for call in evidence.history.calls if call.what in ("redeem", "again")]
    said = Counter(call.action for call in redeemed if call.status == 200)
    verdict.count("told twice", [f"{times} answers 200 for action {action}" for action, times in said.items() if times > 1])
    verdict.numbers["redeemed again"] = sum(call.what == "again" and call.outcome == OK for call in redeemed)
    return verdict


def c3_books(evidence: Evidence) -> Verdict:
    """Score = sum of the ledger, line by line; each line pays what the completion on record is worth, to its player."""
    verdict = Verdict("C3 books", "each score is the sum of its ledger lines, each line what its action is worth")
    running: defaultdict[str, int] = defaultdict(int)
    wrong = []
    for line in evidence.ledger:
        running[line.player] += line.points
        if running[line.player] != line.score_after:
            wrong.append(f"ledger line {line.id}: score {line.score_after}, but the lines add up to {running[line.player]}")
        known = evidence.actions.get(line.action)
        if known != (line.player, line.points):
            wrong.append(f"ledger line {line.id} pays {line.points} to {line.player}; its action on record: {known}")
    for player, total in evidence.totals.items():
        if total != running[player]:
            wrong.append(f"player {player}: score {total}, but the ledger adds up to {running[player]}")
    verdict.numbers |= {"lines": len(evidence.ledger), "points": sum(line.points for line in evidence.ledger)}
    verdict.count("wrong", wrong)
    return verdict


def c7_truth(evidence: Evidence) -> Verdict:
    """Each receipt (of a 200, a 409, a late 403) is what the ledger says, and each promise of points was kept."""
    verdict = Verdict("C7 truth", "each receipt equals its ledger line")
    lines = {line.action: line for line in evidence.ledger}
    lies, receipts = [], 0
    for call in evidence.history.calls:
        if call.receipt is not None:
            receipts += 1
            if problem := _lie(call.receipt, lines.get(call.action)):
                lies.append(f"{call.status} at {call.ended:.2f} s for action {call.action}: {problem}")
    for attempt in evidence.history.attempts:
        line = lines.get(attempt.action)
        if line is not None and (line.points, line.player) != (attempt.points, attempt.player):
            lies.append(f"action {attempt.action} promised {attempt.points} to {attempt.player}; the ledger has {line}")
    verdict.numbers["receipts"] = receipts
    verdict.count("lies", lies)
    return verdict


def _lie(receipt: dict[str, object], line: LedgerLine | None) -> str:
    """What is wrong with a receipt; empty where nothing is."""
    if line is None:
        return "it is not in the ledger"
    true = {
        "userId": line.player,
        "previousScore": line.score_after - line.points,
        "pointsAwarded": line.points,
        "newScore": line.score_after,
        "timestamp": line.at,
    }
    wrong = [f"{name} {receipt.get(name)!r}, in truth {value!r}" for name, value in true.items() if receipt.get(name) != value]
    return "; ".join(wrong)
