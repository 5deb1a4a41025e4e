"""docker/ describes services that check themselves, hold no secret and lose nothing when built
anew. Read as Compose reads it; no container is started."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import environment

DOCKER = Path(__file__).parents[1] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|AUTH_STRING")
REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")
LOCAL = re.compile(r"127\.0\.0\.1:\d+:\d+")
VERSION = re.compile(r":v?\d+\.\d+[\w.-]*$")

services = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
dockerfiles = pytest.mark.parametrize(
    "path", sorted(DOCKER.glob("*Dockerfile")), ids=lambda p: p.name
)


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and their arguments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def dockerfile(service: dict[str, Any]) -> Path:
    build = service["build"]
    return (DOCKER / build["context"] / build["dockerfile"]).resolve()


def variables(service: dict[str, Any]) -> dict[str, str]:
    """What a container's environment names: the image's variables, then the service's."""
    found = {}
    for word, rest in instructions(dockerfile(service)) if "build" in service else ():
        if word == "ENV":
            found |= dict(pair.split("=", 1) for pair in rest.split())
    return found | service["environment"]


def mounts(service: dict[str, Any]) -> dict[Path, str]:
    """The named volume at each path."""
    pairs = (volume.split(":") for volume in service.get("volumes", ()))
    return {Path(path): name for name, path, *_ in pairs}


@services
def test_every_service_checks_itself_and_runs_without_rights(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"  # with CMD-SHELL a missing shell would fail it
    assert {"interval", "retries"} <= set(check)
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    for needed in service.get("depends_on", {}).values():
        assert needed == {"condition": "service_healthy"}


@services
def test_ports_are_open_on_loopback_only(service: dict[str, Any]) -> None:
    for port in service.get("ports", ()):
        assert LOCAL.fullmatch(port), port
    assert "network_mode" not in service


@services
def test_secrets_come_from_the_environment(service: dict[str, Any]) -> None:
    for name, value in service["environment"].items():
        if SECRET.search(name):
            reference = REFERENCE.fullmatch(value)
            assert reference, f"{name} is written out"
            rest = reference["rest"]
            assert rest in ("", ":-") or rest.startswith(":?"), f"{name} has a default"


def test_each_secret_is_asked_for_and_listed_without_a_value() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    asked = {found["name"] for found in REFERENCE.finditer(text) if found["rest"][:2] == ":?"}
    plain = {found["name"] for found in REFERENCE.finditer(text) if not found["rest"]}
    assert plain <= asked  # asked for once is enough: Compose reads the whole file
    listed = dict(
        line.split("=", 1)
        for line in (DOCKER / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert set(listed) == asked
    assert set(listed.values()) == {""}


def test_files_with_secrets_are_never_committed() -> None:
    for name in ("docker/.env", "docker/keys.env"):
        done = subprocess.run(["git", "check-ignore", "--quiet", name], cwd=DOCKER.parent)
        assert done.returncode == 0, f"{name} is not in .gitignore"


def test_no_address_holds_a_password() -> None:
    """One with '@', '/' or '%' would end the user's part, or be decoded."""
    text = (DOCKER / "compose.yaml").read_text()
    for address in re.findall(r"\w+://[^\s\"']*", text):
        assert "$" not in address, address
        assert "@" not in address, address


def test_the_servers_ask_who_is_there() -> None:
    assert variables(SERVICES["prefect"])["PREFECT_SERVER_API_AUTH_STRING"]
    assert "--app-name=basic-auth" in SERVICES["mlflow"]["command"]
    worker = variables(SERVICES["worker"])
    assert worker["PREFECT_API_AUTH_STRING"] == "${PREFECT_AUTH}"
    admin = variables(SERVICES["mlflow"])
    assert worker["MLFLOW_TRACKING_USERNAME"] == admin["MLFLOW_AUTH_ADMIN_USERNAME"]
    for name in ("vllm-cpu", "vllm-gpu"):
        assert variables(SERVICES[name])["VLLM_API_KEY"]


def test_settings_of_prefect_and_mlflow_exist() -> None:
    """A misspelt name would be passed over in silence, authentication with it."""
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    known = {name.upper() for name in _get_settings_fields(Settings)}
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    text = Path(found.origin).with_name("environment_variables.py").read_text()  # without importing
    known |= set(re.findall(r"^(MLFLOW_\w+) = ", text, re.MULTILINE)) | {"MLFLOW_TRACKING_URI"}
    for service in SERVICES.values():
        for name in variables(service):
            if name.startswith(("PREFECT_", "MLFLOW_")):
                assert name in known, name


@dockerfiles
def test_images_are_pinned_and_without_root(path: Path) -> None:
    found = instructions(path)
    bases = [rest for word, rest in found if word == "FROM"]
    assert all(VERSION.search(base) for base in bases), bases
    users = [rest for word, rest in found if word == "USER"]
    assert users, f"{path.name} runs as its base's user"
    assert users[-1].partition(":")[0] not in ("root", "0")


@services
def test_an_image_that_is_not_ours_is_pinned_and_without_root(service: dict[str, Any]) -> None:
    if "build" in service:
        assert dockerfile(service).is_file()
        assert "user" not in service
    else:
        assert VERSION.search(service["image"])
        assert service["user"] not in ("root", "0")


def test_what_a_run_keeps_lies_in_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path that a run's environment names is in the worker's volume: Prefect's results, which
    are the cache, too."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "SAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    before = dict(os.environ)
    monkeypatch.setattr(os, "environ", before)
    environment.prepare(quiet=False)
    paths = {name for name, value in before.items() if value.startswith(str(tmp_path))}
    assert {"SAGE_HOME", "PREFECT_HOME"} <= paths
    worker = SERVICES["worker"]
    for name in paths:
        path = Path(variables(worker)[name])
        assert any(path.is_relative_to(mount) for mount in mounts(worker)), f"{name}={path}"
    assert not {name for name in variables(worker) if "STORAGE_PATH" in name}


def test_leases_lie_in_a_volume() -> None:
    server = variables(SERVICES["prefect"])
    storage = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
    assert server[storage] == "prefect.server.concurrency.lease_storage.filesystem"
    assert Path(server["PREFECT_HOME"]) in mounts(SERVICES["prefect"])


def test_volumes_are_named_and_used() -> None:
    used = {name for service in SERVICES.values() for name in mounts(service).values()}
    assert used == set(COMPOSE["volumes"])


def test_keys_of_any_name_reach_the_worker() -> None:
    assert SERVICES["worker"]["env_file"] == [{"path": "keys.env", "required": False}]


def test_vllm_starts_only_where_it_is_asked_for() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles["vllm-cpu"] == ["cpu"]
    assert profiles["vllm-gpu"] == ["gpu"]
    assert {name for name, value in profiles.items() if value} == {"vllm-cpu", "vllm-gpu"}
    data = [path for path in mounts(SERVICES["vllm-gpu"]) if path == Path("/data")]
    assert data, "checkpoints are loaded by the path that the worker sees"


def test_a_password_of_any_characters_reaches_prefects_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.settings.models.root import Settings
    from sqlalchemy.engine import make_url

    password = "p@ss/w:rd%40 #?"
    for name, value in SERVICES["prefect"]["environment"].items():
        if name.startswith("PREFECT_SERVER_DATABASE_"):
            monkeypatch.setenv(name, value.replace("${POSTGRES_PASSWORD}", password))
    connection = Settings().server.database.connection_url
    assert connection is not None
    url = make_url(connection.get_secret_value())
    assert (url.host, url.port, url.username, url.password) == (
        "postgres", 5432, "sage", password,
    )  # fmt: skip
