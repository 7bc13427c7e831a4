"""What more players cost, and what the scoreboard needs before anybody comes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Row, Run
from benchmarks.measuring import go, issue, prepare, run, warm
from benchmarks.plan import Plan
from benchmarks.processes import memory
from benchmarks.stage import BenchmarkError, Server, Stage, free_port, own_environment, serve

SIZES = ((1_000, "1 thousand"), (100_000, "100 thousand"), (1_000_000, "1 million"))
WARM = 3_000
WHO_PLAY = 4_000  # drawn from all
BESIDE = 100  # redemptions a second while the board is rebuilt
LOAD_SECONDS = 60  # after that a rebuild goes on alone
LONGEST_REBUILD = 600


def growth(stage: Stage, plan: Plan) -> Iterator[Row]:
    """The same redemptions and reads among ever more players; then the board of all of them is rebuilt under load."""
    for players, name in SIZES:
        stage.say(f"seeding {name} players")
        stage.seed(plan.operations(players))
        with stage.serving() as server:
            stage.cast(min(WHO_PLAY, plan.operations(players)))
            warm(stage, server, plan.operations(WARM))
            redeem, read = Row("growth", f"redeem among {name}"), Row("growth", f"read, signed in, among {name}")
            for _ in range(plan.runs):
                issue(stage, server, plan.operations(4_000))
                redeem.runs.append(run(stage, server, "redeem", plan.operations(4_000), 64))
                read.runs.append(run(stage, server, "read_me", plan.operations(4_000), 64))
            yield redeem
            yield read
            if players == SIZES[-1][0]:
                yield rebuild(stage, server, plan, name)
                more = {"server_mib": memory(server.process.pid), "database_mib": stage.database_mib()}
                more |= {f"{part}_mib": memory(pid) for part, pid in stage.engine_pids().items()}
                yield Row("size", f"memory and disk with {name} players", [Run(0, 0, more=more)])


def rebuild(stage: Stage, server: Server, plan: Plan, name: str) -> Row:
    """`rebuild_leaderboard`, once, while redemptions go on; the latencies are theirs."""
    load_seconds = 5 if plan.quick else LOAD_SECONDS
    issue(stage, server, BESIDE * load_seconds)
    began, errors = time.monotonic(), 0
    latencies: list[float] = []
    log = stage.folder / "rebuild.log"
    rebuilding = stage.start("manage.py", "rebuild_leaderboard", log=log)
    ended = ThreadPoolExecutor(max_workers=1).submit(lambda: (rebuilding.wait(LONGEST_REBUILD), time.monotonic())[1])
    while rebuilding.poll() is None and load_seconds:
        prepare(stage, server, "redeem", BESIDE, connections=16, rate=BESIDE)
        part, _told = go(stage, server)
        latencies += part.latencies
        errors += part.errors
        load_seconds -= 1
    seconds = ended.result() - began
    if rebuilding.returncode:
        raise BenchmarkError(f"rebuild_leaderboard failed: {log.read_text(errors='replace').strip()[-800:]}")
    measured = Run(len(latencies), seconds, errors, latencies=latencies, more={"rebuild_seconds": seconds})
    return Row("rebuild", f"rebuild of {name}, {BESIDE} redemptions/s meanwhile", [measured])


def start_up(stage: Stage, plan: Plan) -> Iterator[Row]:
    """`manage.py serve` with engines of its own until it answers: the first time, and again; and what it then holds in memory."""
    environment = own_environment() | {"DATA_DIR": str(stage.folder / "start")}
    for name, runs in (("first start: makes database, tables, static files", 1), ("next start", plan.runs)):
        row = Row("start-up", name)
        for _ in range(runs):
            port = free_port()
            with serve(environment | {"PORT": str(port)}, stage.folder / "start.log", port) as server:
                more = {"start_seconds": server.start_seconds, "all_mib": memory(server.process.pid)}
                row.runs.append(Run(0, 0, more=more))
        yield row
