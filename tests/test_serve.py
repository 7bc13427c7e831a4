"""`serve` and `run.py` as their user has them: from one command to a board that answers, and to nothing left behind."""

import ast
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest

from scoreboard_project import engines
from tests.conftest import ROOT
from tests.test_engines import alive, eventually, new_folder

WEB, PLAY = "scoreboard_project.server", "sample_play"
BOARD = "/api/v1/scores/leaderboard?limit=100"


@dataclass
class Scoreboard:
    """A running `serve`: `seconds` it took until it said that it is ready."""

    process: psutil.Popen
    port: int
    data_dir: Path
    log: Path
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def said(self) -> str:
        return self.log.read_text()

    def children(self, name: str = "") -> list[psutil.Process]:
        """Alive, of all generations; `name` is a word of their command lines."""
        found = []
        for child in alive(self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                if any(name in word for word in child.cmdline()):
                    found.append(child)
        return found

    def call(self, path: str, body: dict | None = None, seconds: float = 10) -> tuple[int, bytes]:
        """(status, body) of a POST of `body`, else of a GET, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(40)


def environment(**given: str) -> dict[str, str]:
    """Nothing of the test session's own settings: it is always the embedded engines that are tested."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **given}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(data_dir: Path, *arguments: str, **settings: str) -> Iterator[Scoreboard]:
    """`manage.py serve`, ready; ended by SIGTERM at the latest at the end."""
    port = free_port()
    given = environment(DATA_DIR=str(data_dir), PORT=str(port), **settings)
    log = data_dir / "serve.log"
    with log.open("w") as output:
        command = [sys.executable, "manage.py", "serve", *arguments]
        # A pipe as stdin, so that nothing here depends on the terminal of who runs the tests.
        process = psutil.Popen(command, cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=output, stderr=output)
    board = Scoreboard(process, port, data_dir, log)
    try:
        eventually(lambda: "Ready in" in board.said() or process.poll() is not None, 60)
        assert process.poll() is None, board.said()
        board.seconds = time.monotonic() - board.began
        yield board
    finally:
        if process.poll() is None:
            board.stop()
        process.stdin.close()


def refused(*arguments: str, **settings: str) -> tuple[str, float]:
    """What a command says that must refuse to start, and the seconds until it did."""
    began = time.monotonic()
    command = [sys.executable, *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment(**settings), check=False, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode not in (0, None), ended.stdout
    assert "Traceback" not in ended.stderr
    return ended.stderr, time.monotonic() - began


@dataclass
class FirstStart:
    """What the first start in an empty DATA_DIR took, and the DATA_DIR that it left."""

    data_dir: Path
    seconds: float
    said: str


@pytest.fixture(scope="module")
def first_start() -> Iterator[FirstStart]:
    with new_folder() as folder:
        with serve(folder, "--no-demo") as board:
            assert board.call("/")[0] == 200
        yield FirstStart(folder, board.seconds, board.said())


@pytest.fixture(scope="module")
def copy(first_start: FirstStart) -> Iterator[Callable[[], Path]]:
    """Copies of the first start's DATA_DIR, so that each test that kills something has its own."""
    with contextlib.ExitStack() as folders:

        def make() -> Path:
            folder = folders.enter_context(new_folder())
            subprocess.run(["cp", "-a", f"{first_start.data_dir}/.", str(folder)], check=True)
            return folder

        yield make


@pytest.fixture(scope="module")
def quiet(copy: Callable[[], Path]) -> Iterator[Scoreboard]:
    """One web process, no sample players."""
    with serve(copy(), "--no-demo") as board:
        yield board


@pytest.fixture(scope="module")
def lively(copy: Callable[[], Path]) -> Iterator[Scoreboard]:
    """Two web processes and the sample players."""
    with serve(copy(), WEB_PROCESSES="2") as board:
        yield board


# --- From nothing to a board, and to nothing again --------------------------------------------------------------------


def test_the_first_start_makes_all_that_is_missing(first_start):
    print(f"first start: {first_start.seconds:.1f} s")
    for step in ("making the database's folder", "Migrating", "Collecting static files", "Starting 1 web", "Stopped."):
        assert step in first_start.said
    assert "Sign in as" not in first_start.said, "no sample players, no sample passwords"


def test_a_second_start_is_quick_and_a_stop_leaves_no_process(copy):
    with serve(copy(), "--no-demo") as board:
        print(f"second start: {board.seconds:.1f} s")
        assert board.seconds < 10
        assert "Collecting" not in board.said() and "making" not in board.said()
        started = board.children()
        assert len(board.children(WEB)) == 1 and len(started) >= 3
        board.stop()
    assert board.process.returncode == 0
    assert not alive(started)
    assert "Stopped." in board.said() and "Traceback" not in board.said()
    with pytest.raises(ConnectionRefusedError):
        board.call("/")


def test_the_board_the_pages_and_the_probes_answer(quiet):
    for path in ("/", "/sign-in/", "/healthz", "/readyz", "/metrics", "/api/v1/docs", BOARD):
        assert quiet.call(path)[0] == 200, path
    style = re.search(rb'href="(/static/[^"]+\.css)"', quiet.call("/")[1])[1].decode()
    assert quiet.call(style)[0] == 200


# --- What dies is replaced --------------------------------------------------------------------------------------------


def test_a_killed_web_process_is_replaced(quiet):
    (old,) = quiet.children(WEB)
    old.kill()
    eventually(lambda: [child for child in quiet.children(WEB) if child != old])
    assert quiet.call("/readyz")[0] == 200, "who calls meanwhile waits for the next one"
    assert "A web process died (signal SIGKILL)" in quiet.said()


def test_a_killed_postgresql_is_replaced_and_the_web_process_stays(quiet):
    web = quiet.children(WEB)
    os.kill(int((quiet.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    eventually(lambda: "PostgreSQL had died: started again." in quiet.said())
    eventually(lambda: quiet.call("/readyz")[0] == 200, 20)
    assert quiet.children(WEB) == web


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere engines outlive a killed owner")
def test_a_killed_serve_leaves_nothing_and_the_next_start_works(copy):
    folder = copy()
    with serve(folder) as board:
        eventually(lambda: board.children(PLAY))
        time.sleep(1)  # the sample players are at it
        started = board.children()
        board.stop(signal.SIGKILL)
        eventually(lambda: not alive(started))
    with serve(folder, "--no-demo") as next_board:
        print(f"start after kill -9: {next_board.seconds:.1f} s")
        assert len(json.loads(next_board.call(BOARD)[1])["data"]["leaderboard"]) == 40, "the ledger is still there"


def test_a_hang_up_replaces_the_web_processes_without_a_failed_request(lively):
    old, answers, done = lively.children(WEB), [], threading.Event()
    assert len(old) == 2

    def call_on_and_on() -> None:
        while not done.is_set():
            try:
                answers.append(lively.call(BOARD)[0])
            except OSError as problem:
                answers.append(problem)
            time.sleep(0.005)

    callers = [threading.Thread(target=call_on_and_on) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        lively.process.send_signal(signal.SIGHUP)
        eventually(lambda: lively.said().count("Replaced one in") == 2, 30)
        eventually(lambda: not alive(old), 20)
    finally:
        done.set()
        for caller in callers:
            caller.join()
    print(f"{len(answers)} requests while two web processes were replaced")
    assert len(answers) > 300
    assert set(answers) == {200}
    assert len(lively.children(WEB)) == 2


# --- Limits, several processes, sample players ------------------------------------------------------------------------


def test_no_request_waits_without_bound_for_a_locked_table(quiet):
    with psycopg.connect(engines.postgres_url(quiet.data_dir)) as other:
        other.execute("LOCK TABLE leaderboard_player IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        status, answer = quiet.call("/api/v1/auth/token", {"username": "sample", "password": "whatever"})
        waited = time.monotonic() - began
    print(f"locked table: {status} after {waited:.1f} s")
    assert (status, json.loads(answer)["error"]["code"]) == (503, "UNAVAILABLE")
    assert waited < 5
    assert quiet.call("/api/v1/auth/token", {"username": "sample", "password": "whatever"})[0] == 401


def test_the_figures_of_all_web_processes_are_summed(lively):
    def board_reads() -> float:
        figures = lively.call("/metrics")[1].decode()
        counted = re.findall(r"^scoreboard_requests_total\{.*Leaderboard.* (\S+)$", figures, re.MULTILINE)
        return sum(map(float, counted))

    before = board_reads()
    for _ in range(60):
        assert lively.call(BOARD)[0] == 200
    assert {board_reads() for _ in range(10)} == {before + 60}, "whichever process answers"
    counters = (lively.data_dir / "metrics").glob("counter_*.db")
    assert len({file.stem for file in counters}) >= 2


def test_the_sample_players_move_the_board(lively):
    def board() -> list:
        return json.loads(lively.call(BOARD)[1])["data"]["leaderboard"]

    before, began = board(), time.monotonic()
    assert len(before) == 40
    eventually(lambda: board() != before, 5)
    print(f"the board changed after {time.monotonic() - began:.1f} s")


def test_the_sign_ins_that_are_printed_are_good(lively):
    printed = re.findall(r"(sample|staff) +/ (\S+) \((player|staff)\)", lively.said())
    assert [(name, role) for name, _, role in printed] == [("sample", "player"), ("staff", "staff")]
    for name, password, _ in printed:
        status, answer = lively.call("/api/v1/auth/token", {"username": name, "password": password})
        assert (status, set(json.loads(answer)["data"])) == (200, {"access", "refresh"})
    assert lively.call("/api/v1/auth/token", {"username": "sample", "password": "wrong"})[0] == 401


# --- What is refused --------------------------------------------------------------------------------------------------


def test_a_taken_port_is_refused_with_the_next_free_one(quiet, short_path):
    for command in (["manage.py", "serve"], ["run.py"]):
        said, seconds = refused(*command, PORT=str(quiet.port), DATA_DIR=str(short_path / "data"))
        print(f"{command[0]} refused a taken port in {seconds:.1f} s")
        free = re.fullmatch(rf"Port {quiet.port} on 127\.0\.0\.1 is taken\..* PORT=(\d+) python3 run\.py\n", said)[1]
        assert quiet.port < int(free) < quiet.port + 100
        assert seconds < (5 if command[0] == "manage.py" else 2)
    assert not (short_path / "data" / "postgres").exists()


def test_a_second_serve_in_the_same_folder_is_refused(quiet):
    said, seconds = refused("manage.py", "serve", PORT=str(free_port()), DATA_DIR=str(quiet.data_dir))
    assert re.search(rf"\(pid {quiet.process.pid}\) is using DATA_DIR=.* Stop it, or set DATA_DIR\.", said)
    assert seconds < 5
    assert quiet.call("/readyz")[0] == 200


@pytest.mark.parametrize("version", [(3, 6, 9), (3, 10, 14)], ids=str)
def test_run_py_refuses_an_old_python_in_a_sentence(version):
    number = ".".join(map(str, version))
    pretend = (
        f"import sys; source = open('run.py').read(); sys.version_info = {version}; sys.version = '{number} (x)'\n"
        "exec(compile(source, 'run.py', 'exec'), {'__name__': '__main__', '__file__': 'run.py'})"
    )
    said, seconds = refused("-c", pretend)
    assert re.fullmatch(rf"This needs Python 3\.11 or newer, and this is {re.escape(number)}\. Install it: .*\n", said)
    assert seconds < 2


def test_an_old_python_can_parse_run_py_up_to_its_refusal():
    ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 6))


def test_run_py_explains_itself_and_refuses_what_it_does_not_know():
    told = subprocess.run([sys.executable, "run.py", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "python3 run.py --no-demo" in told.stdout
    said, _ = refused("run.py", "frobnicate")
    assert said == "run.py does not know 'frobnicate'. Try: python3 run.py help\n"
