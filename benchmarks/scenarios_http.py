"""Calls of the API: completing and redeeming, redeeming alone, reading; one server process against two."""

from collections.abc import Iterator

from benchmarks.figures import Row
from benchmarks.measuring import issue, run, warm
from benchmarks.plan import Plan
from benchmarks.stage import HIGH_LIMITS, Stage

PLAYERS = 1_000
WARM = 3_000


def flows(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Complete an action, then redeem its token: two durable steps. Each player waits for the first answer."""
    stage.seed(PLAYERS)
    with stage.serving() as server:
        stage.cast(PLAYERS)
        warm(stage, server, plan.operations(WARM))
        for connections, total in ((1, 400), (16, 3_000), (64, 4_000), (128, 4_000)):
            row = Row("complete + redeem", f"complete + redeem, {connections} at once")
            for _ in range(plan.runs):
                row.runs.append(run(stage, server, "both", plan.operations(total), connections))
            yield row
    stage.raise_caps()
    with stage.serving(settings=HIGH_LIMITS) as server:
        warm(stage, server, plan.operations(WARM))
        row = Row("complete + redeem", "complete + redeem, 64 at once, limits counted")
        for _ in range(plan.runs):
            row.runs.append(run(stage, server, "both", plan.operations(4_000), 64))
        yield row


def redemptions(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Redeem score tokens that were issued before."""
    stage.seed(PLAYERS)
    with stage.serving() as server:
        stage.cast(PLAYERS)
        warm(stage, server, plan.operations(WARM))
        for connections, total in ((1, 500), (32, 5_000), (64, 5_000), (128, 5_000)):
            row = Row("redeem", f"redeem, {connections} at once")
            for _ in range(plan.runs):
                issue(stage, server, plan.operations(total))
                row.runs.append(run(stage, server, "redeem", plan.operations(total), connections))
            yield row


def reads(stage: Stage, plan: Plan) -> Iterator[Row]:
    """The leaderboard: anonymous, and with `currentUser`."""
    stage.seed(PLAYERS)
    with stage.serving() as server:
        stage.cast(PLAYERS)
        for flow, who, total in (("read", "anonymous", 16_000), ("read_me", "signed in", 8_000)):
            run(stage, server, flow, plan.operations(1_000), 64)
            row = Row("read", f"read the leaderboard, {who}")
            for _ in range(plan.runs):
                row.runs.append(run(stage, server, flow, plan.operations(total), 64))
            yield row


def two_processes(stage: Stage, plan: Plan) -> Iterator[Row]:
    """The same load against one server process and against two."""
    stage.seed(PLAYERS)
    for processes in (1, 2):
        with stage.serving(processes=processes) as server:
            stage.cast(PLAYERS)
            warm(stage, server, plan.operations(WARM))
            redeem = Row("processes", f"redeem, 128 at once, WEB_PROCESSES={processes}")
            read = Row("processes", f"read, 128 at once, WEB_PROCESSES={processes}")
            for _ in range(plan.runs):
                issue(stage, server, plan.operations(5_000))
                redeem.runs.append(run(stage, server, "redeem", plan.operations(5_000), 128))
                read.runs.append(run(stage, server, "read", plan.operations(16_000), 128))
            yield redeem
            yield read
