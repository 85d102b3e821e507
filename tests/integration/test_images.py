"""The images and compose.yaml: valid, true to the settings, and what the containers would run."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic_settings import BaseSettings

from bot.settings import Settings
from services.worker.settings import WorkerSettings
from tests.callers.server import FOREIGN, ROOT, free_port

DOCKER = ROOT / "docker"
COMPOSE = ROOT / "compose.yaml"
OVERRIDE = DOCKER / "host-network.yaml"
ENTRYPOINT = DOCKER / "entrypoint.sh"
HEALTH_CHECK = DOCKER / "healthcheck.py"

WORKERS = ("tts-piper", "tts-cosyvoice")
OURS = ("bot", *WORKERS)

MODES = {"SERVICE_MODE", "TTS_ENGINE", "STT_ENGINE"}
"""What the entry point reads, and no setting is."""


def run(*command: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


def environment(**added: str) -> dict[str, str]:
    """The environment without anything that is a setting of ours."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return own | added


# What the validators say


def validate(tool: str, *arguments: str | Path) -> None:
    """Run a validator of the test environment; it has nothing to say."""
    done = run(Path(sys.executable).parent / tool, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_files_follow_the_specification(tmp_path: Path) -> None:
    """Both compose files are valid after the compose specification's schema."""
    plain = tmp_path / OVERRIDE.name
    # A tag of compose itself, which empties what it stands before.
    plain.write_text(OVERRIDE.read_text().replace("!reset ", ""))
    schema = ("--builtin-schema", "vendor.compose-spec")
    validate("check-jsonschema", *schema, COMPOSE, plain)


def test_recipe_has_no_lint() -> None:
    """Hadolint finds nothing in the recipe."""
    validate("hadolint", DOCKER / "Dockerfile")


def test_scripts_have_no_lint() -> None:
    """ShellCheck finds nothing in any of our shell scripts."""
    validate("shellcheck", *sorted(DOCKER.glob("*.sh")), *sorted((ROOT / "tools").glob("*.sh")))


# compose.yaml


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml, aliases and merges resolved."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def interpolated(text: str) -> set[str]:
    """The variables that a compose file takes from the environment or `.env`."""
    return set(re.findall(r"(?<!\$)\$\{(\w+)", text))


def default(text: str) -> str:
    """What `${NAME:-value}` stands for where nobody sets it."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def variables(settings: type[BaseSettings]) -> set[str]:
    """The environment variables of a class of settings."""
    prefix = str(settings.model_config["env_prefix"])
    return {
        str(field.validation_alias or prefix + name.upper())
        for name, field in settings.model_fields.items()
    }


def documented() -> set[str]:
    """The variables of .env.example, commented out or not."""
    text = (ROOT / ".env.example").read_text()
    return set(re.findall(r"^#?([A-Z][A-Z_]*)=", text, re.MULTILINE))


def test_every_variable_is_documented() -> None:
    """Whatever the compose files take from `.env` is in .env.example, with its meaning."""
    used = interpolated(COMPOSE.read_text()) | interpolated(OVERRIDE.read_text())
    assert used
    assert used <= documented()


def test_nothing_documented_is_dead() -> None:
    """Each line of .env.example is used by the compose files or is a setting of the agent."""
    used = interpolated(COMPOSE.read_text()) | interpolated(OVERRIDE.read_text())
    assert documented() <= used | variables(Settings)


def test_defaults_in_the_example_are_those_in_force() -> None:
    """A default that .env.example shows is the one that compose.yaml gives."""
    shown = dict(
        re.findall(r"^#([A-Z_]+)=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    given = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", COMPOSE.read_text()))
    assert given
    assert {name: shown[name] for name in given} == given


def test_containers_are_given_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """No variable of a container is misspelt: each is a setting of what runs in it."""
    known = {"bot": variables(Settings), **dict.fromkeys(WORKERS, variables(WorkerSettings))}
    for name in OURS:
        assert set(services[name]["environment"]) <= known[name] | MODES, name


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_starts_with_what_its_container_is_given(
    services: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that nobody set are empty, which leaves the worker's own defaults in force."""
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:\?[^}]*\}", "token", default(value)))
    settings = WorkerSettings(_env_file=None)
    assert settings.max_concurrent_sessions == 8
    assert settings.resident_cap is settings.ttl_ms is settings.tts_voice is None
    assert settings.redis == "redis://redis:6379"
    assert settings.worker_token


def test_no_secret_is_in_the_files(services: dict[str, dict[str, Any]]) -> None:
    """A token or a key is only ever a reference to the environment, and empty in the example."""
    secret = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]*)?\}", value), name
    for line in (ROOT / ".env.example").read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and secret.search(name):
            assert value == "", line


def test_only_the_agent_is_published_and_to_this_machine_alone(
    services: dict[str, dict[str, Any]],
) -> None:
    """Redis and the workers are reached from inside; the agent from the loopback by default."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["bot"]
    (port,) = published["bot"]
    assert default(port) == "127.0.0.1:7860:7860"


def test_ports_are_the_settings_own(services: dict[str, dict[str, Any]]) -> None:
    """The container's port is the agent's default, and the override publishes the worker's."""
    agent, worker = Settings.model_fields["port"].default, WorkerSettings.model_fields["port"]
    assert services["bot"]["ports"][0].endswith(f":{agent}")
    assert services["bot"]["environment"]["PARLEY_PORT"] == str(agent)
    for name in WORKERS:
        assert "PARLEY_PORT" not in services[name]["environment"]
    override = OVERRIDE.read_text()
    found = re.findall(r'"127\.0\.0\.1:(\d+):(\d+)"', override)
    assert [inner for _, inner in found] == [str(worker.default)] * len(WORKERS)
    addresses = ",".join(f"ws://127.0.0.1:{outer}" for outer, _ in found)
    assert f"PARLEY_TTS: {addresses}\n" in override


def test_one_voice_by_default_and_one_by_profile(services: dict[str, dict[str, Any]]) -> None:
    """`docker compose up` asks for no GPU; with the profile, CosyVoice gets one."""
    assert set(services) == {"bot", "redis", *WORKERS}
    assert [name for name, s in services.items() if "profiles" in s] == ["tts-cosyvoice"]
    assert services["tts-cosyvoice"]["profiles"] == ["cosyvoice"]
    (device,) = services["tts-cosyvoice"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in services["tts-piper"]


def test_workers_share_a_name_and_find_redis(services: dict[str, dict[str, Any]]) -> None:
    """Each worker answers to `tts`, and speaks with the engine that it is named after."""
    for name in WORKERS:
        service = services[name]
        assert service["networks"]["default"]["aliases"] == ["tts"]
        assert service["environment"]["SERVICE_MODE"] == "tts"
        assert f"tts-{service['environment']['TTS_ENGINE']}" == name
        assert (
            service["environment"]["PARLEY_REDIS"] == services["bot"]["environment"]["PARLEY_TTS"]
        )
        # Several of one kind run beside each other.
        assert "container_name" not in service


def test_containers_wait_for_health(services: dict[str, dict[str, Any]]) -> None:
    """Every container says whether it is well, and who needs another waits until it is."""
    for name, service in services.items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "start_period", "retries"} <= set(check), name
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy", (name, needed)
            assert "profiles" not in services[needed], (name, needed)
    for name in OURS:
        assert "redis" in services[name]["depends_on"]


def test_a_container_outlives_its_drain(services: dict[str, dict[str, Any]]) -> None:
    """Docker kills a container well after its calls and utterances had to be over."""
    for name in OURS:
        grace = float(default(services[name]["stop_grace_period"]).removesuffix("s"))
        drain = float(default(services[name]["environment"]["PARLEY_DRAIN_SECONDS"]))
        assert grace >= drain + 10
        assert drain == Settings.model_fields["drain_seconds"].default


def test_containers_may_do_little(services: dict[str, dict[str, Any]]) -> None:
    """Nothing writes to its image, has a capability, or could gain one."""
    for name, service in services.items():
        assert service["init"] is True, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert any(mount == "/tmp" for mount in service["tmpfs"]), name


def test_what_is_fetched_outlives_the_container(services: dict[str, dict[str, Any]]) -> None:
    """Each cache is a volume of its own, since they belong to different images."""
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    caches = [
        volume.removesuffix(":/cache")
        for name in OURS
        for volume in services[name]["volumes"]
        if volume.endswith(":/cache")
    ]
    assert len(set(caches)) == len(OURS)
    assert set(caches) == set(declared)


def test_images_hold_extras_that_exist_and_say_under_what_terms(
    services: dict[str, dict[str, Any]],
) -> None:
    """An image with Piper says GPL-3.0, and no other has it; the agent's has no Piper."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name in ("bot", "tts-piper"):
        args = services[name]["build"]["args"]
        held = set(args["EXTRAS"].split(","))
        assert held <= set(extras), name
        assert ("piper" in held) == ("GPL-3.0" in args["LICENSES"]) == (name == "tts-piper")


# The recipe


def instructions() -> list[tuple[str, str]]:
    """The recipe's instructions, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            found[arguments.split(" AS ")[1]] = []
        if found:
            found[list(found)[-1]].append((name, arguments))
    return found


def copied(stage: list[tuple[str, str]]) -> Iterator[tuple[list[str], str]]:
    """What a stage copies from the checkout, and where to."""
    for name, arguments in stage:
        if name == "COPY" and not arguments.startswith("--from="):
            *sources, target = shlex.split(arguments)
            yield sources, target


def test_recipe_copies_what_is_there() -> None:
    """Each file that the recipe copies exists, and .dockerignore lets it through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    left_out = {rule for rule in rules[1:] if not rule.startswith("!")}
    sources = {s for stage in stages().values() for found, _ in copied(stage) for s in found}
    assert {"bot", "services", "web", "pyproject.toml"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert Path(source).parts[0] in admitted, source
        assert source not in left_out, source
    assert admitted == {Path(source).parts[0] for source in sources}
    for secret in (".env", ".git", ".cache", ".venv"):
        assert secret not in admitted


def test_stages_exist_that_are_copied_from() -> None:
    """Each `--from` and each target of compose.yaml is a stage before it or of the recipe."""
    names = list(stages())
    for position, (name, stage) in enumerate(stages().items()):
        for instruction, arguments in stage:
            if instruction == "COPY" and arguments.startswith("--from="):
                origin = arguments.split()[0].removeprefix("--from=")
                assert origin in names[:position], name
    compose = yaml.safe_load(COMPOSE.read_text())["services"]
    assert {compose[name]["build"]["target"] for name in OURS} == {"runtime", "cosyvoice"}
    # What is built where no target is named.
    assert names[-1] == "runtime"


def test_images_run_as_a_user_with_a_number() -> None:
    """No process is root, and the folder of what is fetched belongs to who fetches it."""
    base = stages()["base"]
    (user,) = [arguments for name, arguments in base if name == "USER"]
    assert user == "10001:10001"
    made = " ".join(arguments for name, arguments in base if name == "RUN")
    assert "install -d -o 10001 -g 10001 /cache" in made
    for name in ("runtime", "cosyvoice"):
        assert ("FROM", f"base AS {name}") in stages()[name]
        assert not [arguments for i, arguments in stages()[name] if i == "USER"]


def test_image_and_compose_ask_for_health_the_same_way(services: dict[str, dict[str, Any]]) -> None:
    """`docker run` and `docker compose` run one health check."""
    (check,) = [arguments for name, arguments in stages()["base"] if name == "HEALTHCHECK"]
    command = yaml.safe_load(check.split(" CMD ")[1])
    assert command == ["python", "/app/docker/healthcheck.py"]
    for name in OURS:
        assert services[name]["healthcheck"]["test"] == ["CMD", *command]


def pins(lock: Path) -> dict[str, list[str]]:
    """The versions that a lock file gives each package; markers choose among several."""
    found: dict[str, list[str]] = {}
    for line in lock.read_text().splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)( ; .+)?", line)
        # Nothing else may be a constraint: no extras, no address.
        assert match, line
        found.setdefault(match[1], []).append(match[2])
    return found


def canonical(name: str) -> str:
    """A package's name as lock files spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_lock_pins_what_images_install() -> None:
    """As a constraint, the lock leaves no version open of what an image's extras name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pins(ROOT / "requirements.lock")
    named = [*project["dependencies"]]
    for extra in ("piper", "whisper", "pocketsphinx"):
        named += project["optional-dependencies"][extra]
    for text in named:
        assert canonical(Requirement(text).name) in locked, text


def test_cosyvoice_lock_serves_the_worker_too() -> None:
    """It has all that Parley depends on, at versions that it takes: if not, lock it anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [
        line.strip()
        for line in (DOCKER / "cosyvoice.in").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    locked = pins(DOCKER / "cosyvoice.lock")
    for text in [*project["dependencies"], *own]:
        requirement = Requirement(text)
        (version,) = locked[canonical(requirement.name)]
        assert version in requirement.specifier, text


# The scripts


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with a `python` that prints its process number, folder and arguments."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$$"\npwd\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return python.parent


def enter(stub: Path, *arguments: str, **env: str) -> tuple[int, list[str], str, int]:
    """Run the entry point: its status, what `python` printed, what it said, its own number."""
    path = f"{stub}:/usr/bin:/bin"
    with subprocess.Popen(
        ["sh", ENTRYPOINT, *arguments],
        env=environment(**env) | {"PATH": path},
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        out, error = process.communicate(timeout=10)
    return process.returncode, out.splitlines(), error, process.pid


@pytest.mark.parametrize(
    ("env", "command"),
    [
        ({}, ["bot/main.py"]),
        ({"SERVICE_MODE": ""}, ["bot/main.py"]),
        ({"SERVICE_MODE": "bot"}, ["bot/main.py"]),
        ({"SERVICE_MODE": "tts"}, ["-m", "services.worker", "--engine", "piper"]),
        (
            {"SERVICE_MODE": "tts", "TTS_ENGINE": "cosyvoice"},
            ["-m", "services.worker", "--engine", "cosyvoice"],
        ),
        ({"SERVICE_MODE": "asr"}, ["-m", "services.worker", "--stt", "whisper"]),
        (
            {"SERVICE_MODE": "asr", "STT_ENGINE": "pocketsphinx"},
            ["-m", "services.worker", "--stt", "pocketsphinx"],
        ),
    ],
)
def test_mode_chooses_what_runs(stub: Path, env: dict[str, str], command: list[str]) -> None:
    """The mode's program takes the script's place, in the folder of the code, with all flags."""
    status, printed, error, pid = enter(stub, "--tts-voice", "two words", **env)
    assert (status, error) == (0, "")
    assert printed == [str(pid), str(ROOT), *command, "--tts-voice", "two words"]


def test_unknown_mode_is_one_line(stub: Path) -> None:
    """A mode that does not exist starts nothing, and says which there are."""
    status, printed, error, _ = enter(stub, SERVICE_MODE="worker")
    assert status == 64
    assert printed == []
    assert error == "SERVICE_MODE: 'worker' is not one of bot, tts, asr\n"


@contextmanager
def health_page(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers every GET with `status`: its port, and the paths it was asked for."""
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


def check_health(port: int, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the health check as a container does, on a port of this machine."""
    env = {"PARLEY_HOST": "0.0.0.0", "PARLEY_PORT": str(port), **env}
    # A proxy is for the world outside.
    return run(
        *(sys.executable, HEALTH_CHECK),
        env=environment(http_proxy="http://127.0.0.1:1", **env),
    )


@pytest.mark.parametrize(
    ("mode", "path"), [("", "/health"), ("bot", "/health"), ("tts", "/ready"), ("asr", "/ready")]
)
@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_health_is_the_page_s_answer(mode: str, path: str, status: int, expected: int) -> None:
    """200 is well, everything else is not, and each mode is asked at its own path."""
    with health_page(status) as (port, asked):
        done = check_health(port, SERVICE_MODE=mode)
    assert asked == [path]
    assert done.returncode == expected
    assert done.stdout == f"{path} on port {port}: {status}\n"
    assert done.stderr == ""


def test_nobody_there_is_not_health() -> None:
    """Before the server listens the check fails on one line, without a traceback."""
    done = check_health(free_port())
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def git(folder: Path, *arguments: str) -> str:
    """What a git command in `folder` prints."""
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = run("git", *who, "-c", "protocol.file.allow=always", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_repository(folder: Path, file: str) -> str:
    """A repository with one file: its commit."""
    folder.mkdir()
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("first\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A CosyVoice with its submodule, both since changed: a commit, and the way there for git."""
    matcha, source = tmp_path / "matcha", tmp_path / "cosyvoice"
    make_repository(matcha, "matcha/__init__.py")
    make_repository(source, "cosyvoice/cli.py")
    address = "https://github.com/shivammehta25/Matcha-TTS.git"
    git(source, "submodule", "--quiet", "add", str(matcha), "third_party/Matcha-TTS")
    modules = (source / ".gitmodules").read_text().replace(str(matcha), address)
    (source / ".gitmodules").write_text(modules)
    git(source, "commit", "--quiet", "-am", "with Matcha")
    commit = git(source, "rev-parse", "HEAD")
    for folder, file in ((matcha, "matcha/__init__.py"), (source, "cosyvoice/cli.py")):
        (folder / file).write_text("second\n")
        git(folder, "commit", "--quiet", "-am", "second")
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[url "file://{source}"]\n\tinsteadOf = https://github.com/FunAudioLLM/CosyVoice.git\n'
        f'[url "file://{matcha}"]\n\tinsteadOf = {address}\n'
        '[protocol "file"]\n\tallow = always\n[uploadpack]\n\tallowAnySHA1InWant = true\n'
    )
    return commit, environment(GIT_CONFIG_GLOBAL=str(config), GIT_CONFIG_NOSYSTEM="1")


def test_cosyvoice_is_fetched_at_its_commit(
    upstream: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Source and submodule are those of the commit, not the newest, and no history comes along."""
    commit, env = upstream
    target = tmp_path / "with a space" / "fetched"
    done = run(
        *("sh", DOCKER / "fetch-cosyvoice.sh", target), env=env | {"COSYVOICE_COMMIT": commit}
    )
    assert done.returncode == 0, done.stderr
    assert (target / "cosyvoice/cli.py").read_text() == "first\n"
    assert (target / "third_party/Matcha-TTS/matcha/__init__.py").read_text() == "first\n"
    assert not list(target.rglob(".git"))


def test_a_commit_that_is_gone_fails_the_build(
    upstream: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Where the pinned commit cannot be had, nothing else is taken in its place."""
    _, env = upstream
    done = run(
        *("sh", DOCKER / "fetch-cosyvoice.sh", tmp_path / "fetched"),
        env=env | {"COSYVOICE_COMMIT": "0" * 40},
    )
    assert done.returncode != 0
    assert not (tmp_path / "fetched" / "cosyvoice").exists()


# What a container runs


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder /app as the recipe fills it, the built page aside."""
    app = tmp_path / "app"
    for sources, target in copied(stages()["app"]):
        for source in sources:
            # A folder's contents are copied, a file goes into a target that ends in a slash.
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, app / target, ignore=ignored)
            else:
                (app / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, app / target)
    return app


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait up to a minute, as long as the process lives."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("tts", []),
        ("asr", []),
        ("bot", ["--tts", "piper", "--stt", "pocketsphinx", "--llm", "builtin"]),
    ],
)
def test_the_files_of_an_image_serve(
    app: Path, tmp_path: Path, mode: str, flags: list[str]
) -> None:
    """From what the recipe copies alone, each mode becomes healthy and ends on SIGTERM with 0."""
    log = tmp_path / "log"
    port = free_port()
    env = environment(
        PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin",
        PYTHONDONTWRITEBYTECODE="1",
        SERVICE_MODE=mode,
        STT_ENGINE="pocketsphinx",
        # The image's own is 0.0.0.0, which a test must not open to the network.
        PARLEY_HOST="127.0.0.1",
        PARLEY_PORT=str(port),
        PARLEY_OFFLINE="1",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    check = [sys.executable, str(app / "docker" / "healthcheck.py")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", app / "docker" / "entrypoint.sh", *flags],
            env=env,
            cwd="/",
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: run(*check, env=env).returncode == 0, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
