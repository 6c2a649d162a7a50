"""The files in `deploy/`: their commands exist, they keep what docs/deploy.md promises, and what can run runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from documents import parse_command
from places import ROOT, SHIPPED_BUNDLE

from tbps_infer.data.synth import write_people

DEPLOY = ROOT / "deploy"
DOCKERFILES = (DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.nvidia")
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def own_services() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose()["services"].items() if service["image"] == "tbps-infer"}


def instructions(file: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, continuation lines joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_small_and_its_process_is_nobody(file: Path) -> None:
    found = instructions(file)
    last = dict(found)
    assert last["USER"] == "10001:10001" and last["ENTRYPOINT"] == '["tbps"]'
    assert "/healthz" in last["HEALTHCHECK"] and last["WORKDIR"] == "/data"
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line}
    copied = {
        name for kind, rest in found if kind == "COPY" and "--from" not in rest for name in shlex.split(rest)[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"EXTRAS=(\S+)", file.read_text(encoding="utf-8"))
    assert extras is not None
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))


def test_services_cannot_write_to_their_root_nor_gain_rights() -> None:
    services = compose()["services"]
    assert set(own_services()) == {"crop", "embed", "serve"} and set(services) - set(own_services()) == {"proxy"}
    for service in services.values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for service in own_services().values():
        assert service["user"] == "${TBPS_UID:-10001}:${TBPS_GID:-10001}" and service["tmpfs"] == ["/tmp"]
        assert service["volumes"][0].endswith(":/data:ro")
        parse_command(service["command"])
    words = services["serve"]["command"]
    assert compose()["networks"]["page"]["ipam"]["config"][0]["subnet"] == words[words.index("--proxy") + 1]
    assert "ports" not in services["serve"], "the proxy alone is reached from outside"


@pytest.mark.parametrize("unit", UNITS, ids=lambda file: file.name)
def test_units_run_commands_that_there_are_and_nothing_else_may_be_written(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=/opt/tbps/bin/tbps (.*)$", text, re.MULTILINE)
    parse_command(shlex.split(command))
    for line in ("User=search", "ProtectSystem=strict", "ReadWritePaths=/srv/tbps", "NoNewPrivileges=yes"):
        assert f"\n{line}\n" in text
    assert "TOKEN=" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/tbps/bin/tbps", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *tmp_path.iterdir()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def tool(name: str) -> Path:
    """A linter or server that a package of [dev] brings."""
    file = Path(sys.executable).parent / name
    if not file.exists():
        pytest.skip(f"{name} is not installed")
    return file


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    done = subprocess.run([tool("hadolint"), file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def running(command: list[Any], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def eventually(attempt: Any, log: Path, seconds: float = 120) -> Any:
    ends = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (OSError, subprocess.CalledProcessError):
            if time.monotonic() > ends:
                raise AssertionError(log.read_text(errors="replace")[-2000:]) from None
            time.sleep(0.5)


@pytest.mark.slow
def test_a_box_is_set_up_from_nothing(tmp_path: Path) -> None:
    """The Dockerfile's installation on the files that it copies, its health check, compose's commands, and Caddy."""
    box, source, data = tmp_path / "box", tmp_path / "source", tmp_path / "data"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, tmp_path / "clone"], check=True)
    found = instructions(DEPLOY / "Dockerfile")
    source.mkdir()
    for kind, rest in found:
        if kind == "COPY" and "--from" not in rest:
            for name in shlex.split(rest)[:-1]:
                subprocess.run(["cp", "-r", tmp_path / "clone" / name, source], check=True)
    (install,) = (rest for kind, rest in found if kind == "RUN")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "EXTRAS": "cpu,search,serve,watch"}
    script = install.replace("/opt/tbps", str(box))
    subprocess.run(["bash", "-ec", script], cwd=source, env={**os.environ, **environment}, check=True)

    (data / "galleries").mkdir(parents=True)
    shutil.copytree(SHIPPED_BUNDLE, data / "bundle")
    write_people(data / "pictures", 3, seed=3)
    port, page, log = free_port(), free_port(), tmp_path / "log"

    def command(name: str) -> list[Any]:
        # As compose does where a variable is not set: its default.
        words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in own_services()[name]["command"]]
        words = [word.replace("/data/", f"{data}/") for word in words]
        return [box / "bin" / "tbps", *words]

    probe = re.search(r'"(from urllib[^"]*)"', dict(found)["HEALTHCHECK"])
    assert probe is not None
    healthy = [box / "bin" / "python", "-c", probe[1].replace("8321", str(port))]
    serve = [*command("serve"), "--port", port, "--proxy", "127.0.0.1"]
    # What a test must not do: take the ports 80 and 2019, and install a root certificate on this machine.
    apart = f"{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {free_port()}\n}}\n"
    (tmp_path / "Caddyfile").write_text(apart + (DEPLOY / "Caddyfile").read_text(encoding="utf-8"), encoding="utf-8")
    caddy = [tool("caddy"), "run", "--config", tmp_path / "Caddyfile", "--adapter", "caddyfile"]
    site = {"TBPS_SITE": f"https://localhost:{page}", "TBPS_UPSTREAM": f"127.0.0.1:{port}"}
    site |= {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with running(command("embed"), {}, tmp_path / "embed.log"):
        gallery = data / "galleries" / "main" / "gallery.json"
        eventually(gallery.stat, tmp_path / "embed.log")
        with (
            running(list(map(str, serve)), {"TBPS_SERVE_TOKEN": "a-token-of-some-length"}, log),
            running(caddy, site, tmp_path / "caddy.log"),
        ):
            eventually(lambda: subprocess.run(healthy, check=True, capture_output=True), log)
            trust = ssl.create_default_context()
            root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
            eventually(root.stat, tmp_path / "caddy.log")
            trust.load_verify_locations(root)
            question = Request(
                f"https://localhost:{page}/api/v1/search",
                b'{"texts": ["a man in a red coat"], "k": 3}',
                {"Content-Type": "application/json", "Authorization": "Bearer a-token-of-some-length"},
            )
            answer = eventually(lambda: urlopen(question, context=trust, timeout=30).read(), log)
    assert answer.count(b'"rank"') == 3, answer[:500]
