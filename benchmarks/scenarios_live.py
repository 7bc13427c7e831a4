"""Live sockets: pictures to many viewers while redemptions flow, and many viewers who come at once."""

import time
from collections.abc import Iterator

from benchmarks.figures import Row, Run
from benchmarks.measuring import go, issue, prepare, warm
from benchmarks.plan import Plan
from benchmarks.processes import memory
from benchmarks.stage import BenchmarkError, Helper, Server, Stage

PLAYERS = 1_000
WARM = 1_000
TOP = 10  # players who score: each redemption changes the picture and is seen in it
SETTLE_SECONDS = 0.5
# Viewers → redemptions a second.
FAN_OUTS = ((200, (50, 500)), (1_000, (10, 50, 500)), (2_000, (50, 500)))


def fan_out(stage: Stage, plan: Plan) -> Iterator[Row]:
    """One server process; every redemption is by one of the first ten, so the picture changes at each."""
    stage.seed(PLAYERS)
    with stage.serving() as server:
        stage.cast(TOP, top=True)
        warm(stage, server, plan.operations(WARM))
        for sockets, rates in FAN_OUTS:
            with Helper("benchmarks.watchers") as watchers:
                count = plan.sockets(sockets)
                connected = watchers.ask(do="connect", port=server.port, count=count)
                if connected["failed"]:
                    raise BenchmarkError(f"{connected['failed']} of {count} live sockets were not served.")
                for rate in plan.some(rates):
                    row = Row("fan-out", f"fan-out to {sockets}, {rate} redemptions/s")
                    for _ in range(plan.runs):
                        row.runs.append(watched(stage, server, watchers, rate, plan.seconds(3.0)))
                    yield row


def watched(stage: Stage, server: Server, watchers: Helper, rate: int, seconds: float) -> Run:
    """Redemptions at a steady rate; CPU is for 100,000 frames, the redemptions' own included."""
    total = int(rate * seconds)
    issue(stage, server, total)
    prepare(stage, server, "redeem", total, connections=32, rate=rate)
    time.sleep(SETTLE_SECONDS)  # the last pictures of before
    watchers.ask(do="watch")
    redeemed, told = go(stage, server)
    time.sleep(SETTLE_SECONDS)
    seen = watchers.ask(do="report", paid=told["paid"])
    more = {f"frame_{key}": value for key, value in seen["fan_out"].items()}
    more |= {f"seen_{key}": value for key, value in seen["answer_to_frame"].items()}
    more |= {"delivered": seen["frames"] / max(1, seen["expected"]), "pictures_a_second": seen["pictures"] / redeemed.seconds}
    more |= {"redemptions_a_second": redeemed.operations / redeemed.seconds}
    errors = redeemed.errors + seen["lost"] + seen["unseen"]
    return Run(seen["frames"], redeemed.seconds, errors, redeemed.cpu, redeemed.latencies, more, per=100_000)


def storm(stage: Stage, plan: Plan) -> Iterator[Row]:
    """2000 viewers who connect at the same moment; each one's time is until the first picture."""
    stage.seed(PLAYERS)
    with stage.serving() as server:
        empty = memory(server.process.pid)
        row = Row("storm", "2000 sockets connect at once")
        for _ in range(plan.runs):
            with Helper("benchmarks.watchers") as watchers:
                before = stage.cpu(server)
                told = watchers.ask(do="connect", port=server.port, count=plan.sockets(2_000))
                cpu = {part: used - before[part] for part, used in stage.cpu(server).items()}
                latencies = told["latencies"]
                more = {"kib_a_socket": (memory(server.process.pid) - empty) * 1024 / max(1, len(latencies))}
                row.runs.append(Run(len(latencies), told["seconds"], told["failed"], cpu, latencies, more))
            time.sleep(1.0)  # they have gone
        yield row
