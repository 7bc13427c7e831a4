#!/usr/bin/env python3
"""Set-up and start of the live scoreboard; needs nothing but Python 3.11.

  python3 run.py              set up what is missing, then serve the board at http://127.0.0.1:8000/ until Ctrl-C
  python3 run.py --no-demo    the same without sample players
  python3 run.py test [...]   the same set-up, then every test; more arguments go to pytest
  python3 run.py lint         ruff, mypy, import rules, forgotten migrations, known holes in the packages
  python3 run.py lock [...]   pins the packages and their hashes anew; --upgrade takes the newest versions, -P NAME of one
  python3 run.py bench [...]  the benchmarks, as a table and as JSON
  python3 run.py chaos [...]  breaks it under load for a minute (--seconds N --seed S), then checks every promise
  python3 run.py help         this text

PORT=8001 python3 run.py listens elsewhere; docs/settings.md names every setting.
"""

import os
import sys

# Everything in this file must parse on Python 3.6, or the refusal below would be a SyntaxError.
if os.name == "nt":
    sys.exit("Windows itself is not supported: PostgreSQL and Valkey run here as Unix programs. Use WSL2.")
if sys.version_info < (3, 11):  # noqa: UP036 (this is where older ones are refused)
    sys.exit(f"This needs Python 3.11 or newer, and this is {sys.version.split()[0]}. Install it: python3.11 run.py")

import errno
import fcntl
import hashlib
import importlib.util
import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed-requirements.json"
OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Failed to establish|Temporary failure in name")
BESIDES = {"requirements-dev.txt": "requirements.txt"}  # what the one is installed together with
LOCK = [
    *("pip", "compile", "--quiet", "--no-config", "--universal", "--python-version=3.11"),
    *("--generate-hashes", "--no-annotate", "--custom-compile-command=python3 run.py lock"),
]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import rules": ["lint-imports"],
    "forgotten migrations": ["python", "-W", "ignore", "manage.py", "makemigrations", "--check", "--dry-run"],
}


def main(arguments: list[str]) -> None:
    os.chdir(ROOT)
    word, rest = (arguments[0], arguments[1:]) if arguments else ("serve", [])
    if word in ("help", "-h", "--help"):
        print((__doc__ or "").strip())
    elif word == "serve" or word.startswith("-"):
        refuse_a_taken_port()
        set_up("requirements.txt")
        run_instead("manage.py", "serve", *(rest if word == "serve" else arguments))
    elif word == "test":
        set_up("requirements-dev.txt")
        # All of them: in as many processes as two, each with engines of its own. A chosen file: in one, as debuggers want it.
        everything = not any(argument.startswith("tests") or argument in ("-n", "--pdb") for argument in rest)
        run_instead("-m", "pytest", *(["-n", "2", "--dist", "loadfile"] if everything else []), *rest)
    elif word == "lint":
        set_up("requirements-dev.txt")
        lint()
    elif word == "lock":
        set_up("requirements-dev.txt")
        lock(rest)
    elif word == "bench":
        if not (ROOT / "benchmarks").is_dir():
            sys.exit("There are no benchmarks in this checkout (no folder benchmarks/). Get the whole repository.")
        set_up("requirements-dev.txt")
        run_instead("-m", "benchmarks", *rest)
    elif word == "chaos":
        set_up("requirements.txt")
        run_instead("-m", "chaos", *rest)
    else:
        sys.exit(f"run.py does not know {word!r}. Try: python3 run.py help")


def run_instead(*arguments: str) -> None:
    """This process becomes the other: signals and the exit status need no relay."""
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), *arguments])  # noqa: S606 (our own Python; no shell is wanted)


def refuse_a_taken_port() -> None:
    """Before anything slow. Whatever else is wrong with HOST or PORT, `serve` says it."""
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    if not port.isdecimal() or not 0 < int(port) < 65_536 or is_free(host, int(port)):
        return
    for other in range(int(port) + 1, min(int(port) + 100, 65_536)):
        if is_free(host, other):
            sys.exit(f"Port {port} on {host} is taken. Use the next free one: PORT={other} python3 run.py")


def is_free(host: str, port: int) -> bool:
    """False only where another program listens there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        return problem.errno != errno.EADDRINUSE
    return True


def set_up(requirements: str) -> None:
    """The virtual environment with all that the file `requirements` asks for; nothing to do where it is there."""
    with Path(__file__).open() as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)  # two run.py at once: the second finds the work of the first
        make_environment()
        wanted = fingerprint(requirements)
        installed = read_stamp()
        if installed.get(requirements) != wanted:
            install(requirements)
            now = {name: fingerprint(name) for name in with_besides(requirements)}
            temporary = STAMP.with_suffix(".new")
            temporary.write_text(json.dumps(installed | now))
            temporary.replace(STAMP)


def make_environment() -> None:
    made_by = re.search(r"^version\s*=\s*(\d+)\.(\d+)", read(VENV / "pyvenv.cfg"), re.MULTILINE)
    usable = PYTHON.exists() and made_by is not None and (int(made_by[1]), int(made_by[2])) >= (3, 11)
    if usable and any(VENV.glob("lib/python*/site-packages/pip")):
        return
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make virtual environments (no ensurepip). "
            "On Debian and Ubuntu: apt install python3-venv. Then start again."
        )
    began = say(f"Making .venv with Python {sys.version.split()[0]}")
    fresh = [] if usable else ["--clear"]
    command = [sys.executable, "-m", "venv", *fresh, str(VENV)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        print(f"\n{made.stdout}{made.stderr}")
        sys.exit("The virtual environment could not be made. Mend what the lines above name, then start again.")
    done(began)


def install(requirements: str) -> None:
    """pip, quiet with a count of packages. Ends this process with pip's last lines where it fails."""
    files = with_besides(requirements)
    pinned = set(re.findall(r"^[\w.-]+(?=\S*\s*==)", "".join(read(ROOT / name) for name in files), re.MULTILINE))
    began = say(f"Installing {len(pinned) or 'the'} packages of {requirements}")
    command = [str(PYTHON), "-m", "pip", "install", "--prefer-binary", "--disable-pip-version-check", "--require-hashes"]
    command += [f"--requirement={name}" for name in files]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pip.stdout or []), daemon=True)
    reader.start()
    show_progress(reader, lines, began)
    if pip.wait() != 0:
        output = "".join(lines)
        print("\n" + output[-3000:])
        if OFFLINE.search(output):
            sys.exit(
                "pip cannot reach the package index. Connect to the network and start again, "
                "or name a folder of wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder python3 run.py"
            )
        if "DO NOT MATCH THE HASHES" in output:
            sys.exit(
                "A package is not the one that was locked: it was changed on its way, or the index has another file. Ask why."
            )
        sys.exit("pip failed; its last lines are above. Mend what they name, then start again.")
    done(began)


def show_progress(reader: threading.Thread, lines: list[str], began: float) -> None:
    on_terminal, told = sys.stdout.isatty(), 0.0
    while reader.is_alive():
        reader.join(0.25)
        seconds = time.monotonic() - began
        if seconds - told >= (0.25 if on_terminal else 10):
            told = seconds
            found = sum(line.startswith(("Collecting ", "Requirement already")) for line in list(lines))
            what = "unpacking" if lines and lines[-1].startswith("Installing") else f"{found} found"
            start, end = ("\r  ", "   ") if on_terminal else ("", " ")
            print(f"{start}{what}, {seconds:.0f} s …{end}", end="", flush=True)


def lint() -> None:
    failed = []
    for name, (program, *arguments) in CHECKS.items():
        began = say(name)
        command = [str(VENV / "bin" / program), *arguments]
        checked = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        done(began)
        if checked.returncode != 0:
            failed.append(name)
            print(checked.stdout)
    holes = audit()
    if holes:
        failed.append("known holes")
        print(holes)
    if failed:
        sys.exit(f"Not clean: {', '.join(failed)}.")


def lock(options: list[str]) -> None:
    """requirements*.txt from requirements*.in, for every Python from 3.11 on and every system. `options`: of `uv pip compile`."""
    for made, constraints in (("requirements.txt", []), ("requirements-dev.txt", ["--constraints=requirements.txt"])):
        began = say(f"Locking {made}")
        command = [str(VENV / "bin" / "uv"), *LOCK, *constraints, *options, made.replace(".txt", ".in"), f"--output-file={made}"]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            sys.exit(f"{made} stays as it was. Mend what the lines above name, then start again.")
        done(began)
    print("Look at the difference, run the tests, and commit all of it.")


def audit() -> str:
    """The packages with known holes, one a line; empty where there is none. What cannot be asked is said and no failure."""
    began = say("known holes")
    files = [f"--requirement={name}" for name in with_besides("requirements-dev.txt")]
    command = [str(VENV / "bin" / "pip-audit"), "--vulnerability-service=osv", "--format=json", "--progress-spinner=off"]
    command += ["--disable-pip", "--require-hashes", "--timeout=10", *files]
    asked = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    done(began)
    try:
        found = json.loads(asked.stdout)["dependencies"]
    except ValueError:
        found = []
    known = [package for package in found if "vulns" in package]
    if len(known) < len(found) or not found:
        print(
            f"  {len(known)} packages were checked: for the others api.osv.dev gave no answer. Lint once more with the network."
        )
    lines = [(one["name"], one["version"], hole["id"], hole["fix_versions"]) for one in known for hole in one["vulns"]]
    return "\n".join(f"  {name} {version}: {hole}, mended in {', '.join(mended) or '–'}" for name, version, hole, mended in lines)


def with_besides(requirements: str) -> list[str]:
    return [BESIDES[requirements], requirements] if requirements in BESIDES else [requirements]


def fingerprint(requirements: str) -> str:
    """Changes with the files' content and with what would read it."""
    told = "".join(read(ROOT / name) for name in with_besides(requirements)) + read(VENV / "pyvenv.cfg")
    return hashlib.sha256(told.encode()).hexdigest()


def read_stamp() -> dict[str, str]:
    try:
        return dict(json.loads(read(STAMP) or "{}"))
    except ValueError:
        return {}


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def say(what: str) -> float:
    print(f"{what} … ", end="", flush=True)
    return time.monotonic()


def done(began: float) -> None:
    print(f"{time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
