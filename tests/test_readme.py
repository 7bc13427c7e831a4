"""The README's commands, run as they stand there, so that they cannot rot."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Iterator[dict[str, str]]:
    """`python3 run.py`, with a folder and a port of its own: {base, password}."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = Path(f"/tmp/readme-{os.getpid()}")  # noqa: S108 (socket paths must be short)
    keep = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"}}
    environment = keep | {"DATA_DIR": str(folder), "PORT": str(port), "PYTHONUNBUFFERED": "1"}
    command = next(block for block in BLOCKS if block.strip() == "python3 run.py")
    log = tmp_path_factory.mktemp("readme") / "log"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=ROOT, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"as sample / (\S+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield {"base": f"127.0.0.1:{port}", "password": found[1]}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def run(block: str, board: dict[str, str], *, seconds: float = 30) -> str:
    script = block.replace("127.0.0.1:8000", board["base"])
    environment = os.environ | {"PASSWORD": board["password"], "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_five_calls_earn_points_and_end_in_the_409(board):
    block = next(block for block in BLOCKS if "/auth/token" in block)
    redeemed, leaderboard, again = [json.loads(part) for part in run(block, board).replace("}{", "}\n{").splitlines()]
    assert redeemed["data"]["pointsAwarded"] == 50
    assert len(leaderboard["data"]["leaderboard"]) == 3
    assert leaderboard["data"]["currentUser"]["score"] == redeemed["data"]["newScore"]
    assert again["error"]["code"] == "TOKEN_ALREADY_USED"
    assert again["error"]["details"]["redemption"]["newScore"] == redeemed["data"]["newScore"]


@pytest.mark.timeout(180)
def test_one_line_watches_the_live_socket(board):
    block = next(block for block in BLOCKS if "ws://" in block).strip().replace(".venv/bin/python", sys.executable)
    shown = run(f"timeout 5 {block} < <(sleep 4) || true", board)
    assert '"event":"leaderboard:initial"' in shown
    assert '"event":"leaderboard:update"' in shown  # the sample players score by themselves


def test_the_test_command_is_the_one_that_ci_runs():
    assert any(block.strip() == "python3 run.py test" for block in BLOCKS)
    assert "python3 run.py test" in (ROOT / ".ci" / "run").read_text()


def test_every_file_that_the_documents_link_to_exists():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)|src(?:set)?=\"([^\":]+)\"", document.read_text()):
            name = target[0] or target[1]
            assert (document.parent / name).exists(), f"{document.name}: {name}"


def proofs(text: str) -> Iterator[tuple[str, str]]:
    """(file, part of a test's name, or nothing) of each proof in a table: `test_x: part…`, then `…more of the same file…`."""
    for cell in re.findall(r"\| ([^|\n]*) \|$", text, re.MULTILINE):
        file = ""
        for quoted in re.findall(r"`([^`]+)`", cell):
            if named := re.fullmatch(r"(test_\w+)(?:: (\S+))?", quoted):
                file = named[1]
                yield file, (named[2] or "").strip("…")
            elif file and quoted.startswith("…"):
                yield file, quoted.strip("…")


def test_every_proof_that_the_security_page_names_is_a_test():
    found = list(proofs((ROOT / "docs" / "security.md").read_text()))
    assert len(found) > 40
    for file, part in found:
        names = re.findall(r"^(?:async )?def test_(\w+)", (ROOT / "tests" / f"{file}.py").read_text(), re.MULTILINE)
        assert any(part in name for name in names), f"{file}: {part}"
