"""The benchmark's arithmetic, where a mistake would be silent, and one quick look at whether it runs."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import bars, cli, processes, report
from benchmarks.figures import Bar, Row, Run, percentile, ratio, spread
from benchmarks.plan import Plan
from benchmarks.stage import BenchmarkError
from benchmarks.watchers import Picture, answers_to_frames, whole_frame

ROOT = Path(__file__).resolve().parent.parent


def test_a_percentile_is_a_value_that_was_measured():
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert percentile([7], 0.5) == percentile([7], 0.99) == 7
    assert percentile([1, 2, 3], 0.99) == 3
    assert math.isnan(percentile([], 0.5))


def test_a_spread_sorts_first():
    assert spread([3, 1, 2], "x_") == {"x_p50": 2, "x_p95": 3, "x_p99": 3, "x_max": 3}


def test_cpu_is_told_for_ten_thousand_operations_and_the_client_is_not_in_the_total():
    run = Run(operations=5_000, seconds=2.0, cpu={"server": 2.0, "postgres": 0.4, "redis": 0.1, "client": 1.0}, latencies=[1.0])
    figures = run.figures()
    assert figures["rate"] == 2_500
    assert (figures["server"], figures["postgres"], figures["redis"], figures["client"]) == (4.0, 0.8, 0.2, 2.0)
    assert figures["total"] == pytest.approx(5.0)


def test_a_row_has_medians_but_every_error():
    row = Row("x", "x", [Run(10, seconds, errors) for seconds, errors in ((1.0, 0), (10.0, 2), (2.0, 1))])
    assert row.figures()["rate"] == 5
    assert row.figures()["errors"] == 3


def test_a_ratio_needs_both_rows():
    def of(name: str, cpu: float) -> Row:
        return Row("x", name, [Run(10_000, 1.0, cpu={"server": cpu, "postgres": 0.0, "redis": 0.0})])

    assert ratio([of("big", 6.0), of("small", 4.0)], "big", "small", "total") == pytest.approx(1.5)
    assert ratio([of("big", 6.0)], "big", "small", "total") is None


def test_a_bar_is_met_at_its_limit_and_no_further():
    most, least = Bar("x", "y", 2.0, "most"), Bar("x", "y", 2.0, "least", least=True)
    assert (most.met(2.0), most.met(2.01)) == (True, False)
    assert (least.met(2.0), least.met(1.99)) == (True, False)
    assert not most.met(math.nan) and not least.met(math.nan)  # what was never seen is not met


def test_a_bar_that_was_not_run_says_so():
    assert {verdict.word for verdict in bars.judged([])} == {"not run"}
    met, missed = (Row("x", "read the leaderboard, anonymous", [Run(10, 1.0, more={"total": cpu})]) for cpu in (2.5, 2.6))
    assert [[v.word for v in bars.judged([row]) if v.value] for row in (met, missed)] == [["met"], ["MISSED"]]


STAT = "4711 (postgres: a) b) S 12 4711 4711 0 -1 4194560 2049 0 0 0 250 50 30 20 20 0 1 0 8833 219 85 0"


def test_a_stat_line_is_read_from_its_last_parenthesis():
    assert processes.parse(STAT) == processes.Stat(parent=12, ticks=350)


def test_a_tree_is_a_process_and_all_below_it():
    among = {pid: processes.Stat(parent, 100) for pid, parent in ((1, 0), (5, 1), (6, 5), (7, 6), (8, 1))}
    assert sorted(processes.tree(5, among)) == [5, 6, 7]
    assert processes.cpu_seconds(5, among) == 300 / processes.TICKS
    assert processes.tree(99, among) == []


BURN = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
if os.fork() == 0:  # a child that ends
    burn(0.3)
    os._exit(0)
os.wait()
if os.fork() == 0:  # one that stays
    burn(0.2)
    print("burnt", flush=True)
    time.sleep(60)
    os._exit(0)
burn(0.1)
print("burnt", flush=True)
sys.stdin.read()
"""


def test_cpu_of_children_counts_whether_they_have_ended_or_not():
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for _ in range(2):
                process.stdout.readline()
            among = processes.snapshot()
            measured = processes.cpu_seconds(process.pid, among)
            assert 0.53 < measured < 1.0  # whole ticks of 10 ms are less than 0.6, and starting Python is more
            assert len(processes.tree(process.pid, among)) == 2
            assert processes.memory(process.pid) > 2
        finally:
            for pid in processes.tree(process.pid, processes.snapshot()):
                os.kill(pid, 9)


def test_a_frame_is_whole_or_nothing():
    short, long = b"\x81\x02{}", b"\x81\x7e\x01\x00" + b"x" * 256
    assert whole_frame(short + long) == short
    assert whole_frame(long) == long
    assert whole_frame(long[:-1]) == whole_frame(b"\x81") == b""


def test_a_redemption_is_seen_in_the_first_picture_that_has_its_score():
    def picture(seq: int, score: int, *seen: float) -> Picture:
        return Picture(seq, 0.0, {"amy": score}, array("d", seen))

    pictures = [picture(1, 50, 1.0, 1.0), picture(2, 150, 2.0, 2.5), picture(3, 200, 3.0, 0.0)]
    latencies, unseen = answers_to_frames(pictures, [(1.9, "amy", 100), (2.9, "amy", 200), (3.0, "bob", 50)], [0, 1])
    assert [round(latency) for latency in latencies] == [100, 600, 100]  # the last one's second viewer has not had it
    assert unseen == 1


def test_tables_show_only_columns_that_a_scenario_has():
    rows = [Row("read", "read", [Run(10, 2.0, latencies=[1.0])]), Row("size", "size", [Run(0, 0, more={"redis_mib": 3.0})])]
    text = report.tables(rows)
    assert "a second" in text and "Redis MiB" in text and "rebuild s" not in text
    assert "| read | 5 |" in report.tables(rows, markdown=True)


def test_results_take_the_place_of_the_last_ones_and_of_nothing_else():
    page = f"# Title\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nmore\n"
    once = report.spliced(page, "new")
    assert "old" not in once and once.startswith("# Title\n") and once.endswith("\nmore\n")
    assert report.spliced(once, "new") == once
    assert report.spliced("", "new") == "new\n"
    assert all(mark in (ROOT / "docs" / "performance.md").read_text() for mark in report.MARKS)


def test_a_scenario_that_cannot_be_measured_costs_the_others_nothing(monkeypatch):
    def broken(_stage: object, _plan: object) -> Iterator[Row]:
        yield Row("broken", "its first row")
        raise BenchmarkError("the server does not start")

    monkeypatch.setattr(cli, "set_stage", lambda _say: contextlib.nullcontext())
    monkeypatch.setattr(cli, "SCENARIOS", {"broken": broken, "fine": lambda _stage, _plan: iter([Row("fine", "a row")])})
    problems: list[str] = []
    rows = list(cli.measured(["broken", "fine"], Plan(quick=True), 0.0, problems))
    assert [row.name for row in rows] == ["its first row", "a row"]
    assert problems == ["broken: the server does not start"]
    assert cli.not_measured(problems) == 2


@pytest.mark.timeout(300)  # 13 s alone; other runs may share the machine
def test_a_quick_look_at_the_whole_way(tmp_path):
    """Real engines, a real server, real clients; the figures mean nothing, but everything must have been answered and seen."""
    result = tmp_path / "result.json"
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "redeem", "--only", "fan-out", "--json", str(result)]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(result.read_text())
    assert 1 < told["seconds"] < time.monotonic() - began
    rows = {row["name"]: row["median"] for row in told["rows"]}
    assert {bar.row for bar in bars.BARS if bar.row.startswith("redeem,")} <= rows.keys()
    assert rows["redeem, 64 at once"]["operations"] == 50
    assert rows["redeem, 64 at once"]["p50"] > 0
    watched = rows["fan-out to 1000, 10 redemptions/s"]
    assert watched["operations"] >= 10 and watched["delivered"] == 1 and watched["errors"] == 0
    assert 0 < watched["frame_p50"] < 1_000
