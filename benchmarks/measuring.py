"""One measured run of the load against a server: CPU before and after, and what the client says."""

from typing import Any

from benchmarks.figures import Run
from benchmarks.stage import BenchmarkError, Server, Stage


def prepare(stage: Stage, server: Server, flow: str, total: int, **plan: Any) -> None:
    """Connect; the run begins with `go`. Plan: `connections`, `rate`."""
    stage.load.ask(do="run", flow=flow, total=total, port=server.port, **plan)


def go(stage: Stage, server: Server) -> tuple[Run, dict[str, Any]]:
    """Returns: the run, and all that the client said."""
    before = stage.cpu(server)
    told = stage.load.ask()
    after = stage.cpu(server)
    cpu = {part: after[part] - before[part] for part in after} | {"client": told["cpu"]}
    return Run(told["operations"], told["seconds"], sum(told["errors"].values()), cpu, told["latencies"]), told


def run(stage: Stage, server: Server, flow: str, total: int, connections: int, **plan: Any) -> Run:
    prepare(stage, server, flow, total, connections=connections, **plan)
    return go(stage, server)[0]


def warm(stage: Stage, server: Server, operations: int) -> None:
    """As after some minutes of service: threads and connections are there, and PostgreSQL's statistics know that the tables are
    not empty (a statement that was planned on empty ones scans them until autovacuum's first round, a minute later)."""
    run(stage, server, "both", operations, 16)
    stage.settle()
    run(stage, server, "both", max(20, operations // 10), 16)


def issue(stage: Stage, server: Server, count: int) -> None:
    """Score tokens for `redeem` to spend. Raises BenchmarkError."""
    issued = run(stage, server, "complete", count, 64)
    if issued.errors:
        raise BenchmarkError(f"{issued.errors} of {count} completions were refused.")
