"""C6, C8, C9: it comes back, it refuses politely and in time, and it does not grow."""

from chaos.evidence import Evidence, Verdict
from chaos.history import FAIL, OK, Call, Fault, History
from chaos.watchers import DEAF_KEPT

DEFINITE_WITHIN = 10.0  # s without a fault, for an unknown outcome to become known
SERVED_WITHIN = 5.0  # s after a fault's end until both servers answer 200
SCREENS_WITHIN = 10.0  # s after a fault's end until each screen shows what PostgreSQL had then
SLOWEST = 3.0  # s for any answer of a server that was not itself frozen or killed
GRACE = 5.0  # s after a fault in which 503 is in order
HANG_UP_GRACE = 1.0  # s after a server's trouble in which a connection may still turn out to be dead
THREADS, DESCRIPTORS, BACKENDS, MEBIBYTES = 16, 48, 16, 64  # what may be there more than before the first fault


def c6_recovery(evidence: Evidence) -> Verdict:
    """Each outcome becomes definite, both servers serve again, all screens move again; time under other faults is free."""
    verdict = Verdict("C6 recovery", "unknown outcomes become definite, servers serve and screens move again by themselves")
    history = evidence.history
    unsettled, waits = [], [0.0]
    for attempt in history.attempts:
        if attempt.unknown_since is None and attempt.settled is not None:
            continue
        wait = history.calm_since(attempt.unknown_since or attempt.began, attempt.settled or history.now())
        waits.append(wait)
        if attempt.settled is None:
            unsettled.append(f"action {attempt.action} of {attempt.began:.1f} s is still not definite")
        elif wait > DEFINITE_WITHIN:
            unsettled.append(f"action {attempt.action} of {attempt.began:.1f} s was unknown for {wait:.1f} s without a fault")
    verdict.count("not definite in time", unsettled)
    verdict.numbers["longest unknown s"] = max(waits)
    served = [_late("an answer 200 of both servers", fault, fault.served, SERVED_WITHIN) for fault in history.faults]
    verdict.count("servers late", [text for text in served if text])
    verdict.numbers["worst server s"] = max((fault.served or 0.0 for fault in history.faults), default=0.0)
    screens = {id(fault): screens_after(history, fault) for fault in history.faults}
    late = [_late("a true picture on each screen", fault, screens[id(fault)], SCREENS_WITHIN) for fault in history.faults]
    verdict.count("screens late", [text for text in late if text])
    verdict.numbers["worst screen s"] = max((seconds or 0.0 for seconds in screens.values()), default=0.0)
    return verdict


def screens_after(history: History, fault: Fault) -> float | None:
    """Seconds without a fault until the last quick watcher saw what PostgreSQL had at the fault's end; None: never."""
    if fault.points is None or fault.ended is None:
        return None
    watchers = {connection.watcher for connection in history.connections if connection.watcher.startswith("quick")}
    seen: dict[str, float] = {}
    for connection in history.connections:
        if connection.watcher in watchers and connection.watcher not in seen:
            for picture in connection.pictures:
                if picture.points >= fault.points:
                    seen[connection.watcher] = picture.at
                    break
    if len(seen) < len(watchers):
        return None
    return max((history.calm_since(fault.ended, max(fault.ended, at)) for at in seen.values()), default=0.0)


def c8_manners(evidence: Evidence) -> Verdict:
    """No 500; 503 only around faults, with Retry-After; no slow answer; no hang-up by a server that nobody touched."""
    verdict = Verdict("C8 manners", f"no 500, no needless 503, nothing slower than {SLOWEST:.0f} s")
    history, calls = evidence.history, evidence.history.calls
    verdict.numbers["calls"] = len(calls)
    verdict.count("500", [_told(call) for call in calls if call.status >= 500 and call.status != 503])
    refusals = [call for call in calls if call.status == 503]
    verdict.numbers["503"] = len(refusals)
    needless = [call for call in refusals if history.fault_in(call.began, call.ended, GRACE) is None]
    verdict.count("needless 503", [_told(call) for call in needless])
    verdict.count("without Retry-After", [_told(call) for call in refusals if not _says_when(call)])
    verdict.count("wrong refusals", [_told(call) for call in calls if _wrong_refusal(call)])
    silent = [call for call in calls if not call.status]
    verdict.numbers["no answer"] = len(silent)
    verdict.count("hung up", [_told(call) for call in silent if not _excused(history, call)])
    slow = [call for call in calls if _seconds(history, call) > SLOWEST and not _in_trouble(history, call)]
    verdict.count("slow", [f"{_told(call)}, during {_fault_of(history, call)}" for call in slow])
    healthy = [_seconds(history, call) for call in calls if call.status and not _in_trouble(history, call)]
    verdict.numbers["slowest s"] = max(healthy, default=0.0)
    verdict.count("surprises", history.surprises)
    return verdict


def c9_bounds(evidence: Evidence) -> Verdict:
    """Threads, descriptors, memory and PostgreSQL's backends are near where they were before the first fault."""
    verdict = Verdict("C9 bounds", "threads, descriptors, memory and PostgreSQL connections are back where they were")
    before, after = evidence.baseline, evidence.final
    if before is None or after is None:
        verdict.violations.append("a server or PostgreSQL could not be measured")
        return verdict
    grown = [("backends", before.backends, after.backends, BACKENDS)]
    for name in after.threads:
        grown.append((f"{name} threads", before.threads[name], after.threads[name], THREADS))
        grown.append((f"{name} descriptors", before.descriptors[name], after.descriptors[name], DESCRIPTORS))
        grown.append((f"{name} MiB", round(before.mebibytes[name]), round(after.mebibytes[name]), MEBIBYTES))
    for what, then, now, limit in grown:
        verdict.numbers |= {f"{what} before": then, f"{what} after": now}
        if now > then + limit:
            verdict.violations.append(f"{what}: {then} before, {now} after")
    verdict.text = "; ".join(f"{what} {then} → {now}" for what, then, now, _ in grown)
    verdict.numbers["longest deaf socket s"] = evidence.deaf_longest
    verdict.text += f"; longest deaf socket {evidence.deaf_longest:.0f} s"
    if evidence.deaf_longest > DEAF_KEPT:
        verdict.violations.append(f"a socket that never reads was kept for {evidence.deaf_longest:.0f} s")
    return verdict


def _says_when(call: Call) -> bool:
    return (call.retry_after or "").isdigit() and 1 <= int(call.retry_after or "") <= 60


def _wrong_refusal(call: Call) -> bool:
    """A refusal that this load never earns: nothing is limited, nobody is suspended, each token is its player's."""
    if call.status == 429:
        return True
    if call.what == "again":
        return bool(call.status) and call.status < 500 and call.outcome != OK
    if call.what == "redeem":
        return call.outcome == FAIL and call.code != "TOKEN_EXPIRED"
    return call.outcome == FAIL


def _in_trouble(history: History, call: Call) -> bool:
    """Whether its server was frozen, killed or starting during the call."""
    return any(window.touches(call.began, call.ended) for window in history.troubles[call.server])


def _excused(history: History, call: Call) -> bool:
    """Whether no answer could be had; a server that is asked to stop must still answer what it had been asked before."""
    windows = history.troubles[call.server]
    excuses = [window for window in windows if not (window.graceful and call.began < window.began)]
    return any(window.touches(call.began, call.ended, HANG_UP_GRACE) for window in excuses)


def _seconds(history: History, call: Call) -> float:
    """What the call took, without what this process itself was late by."""
    return call.ended - call.began - history.lag_in(call.began, call.ended)


def _fault_of(history: History, call: Call) -> str:
    fault = history.fault_in(call.began, call.ended, GRACE)
    return f"{fault.kind} at {fault.began:.1f} s ({fault.detail})" if fault else "no fault"


def _told(call: Call) -> str:
    answer = f"{call.status or 'no answer'} {call.code} after {call.ended - call.began:.2f} s"
    return f"{call.what} at {call.began:.2f} s: {answer} from server {'AB'[call.server]}"


def _late(what: str, fault: Fault, seconds: float | None, limit: float) -> str:
    if seconds is not None and seconds <= limit:
        return ""
    took = "never came" if seconds is None else f"took {seconds:.1f} s"
    return f"{what} {took} after {fault.kind} at {fault.began:.1f} s ({fault.detail})"
