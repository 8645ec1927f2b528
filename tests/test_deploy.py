"""Files of `deploy/`, checked by the programs that read them."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: scripts/install-test-packages")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    folder = shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    (tmp_path / "token").touch()
    config = folder / "prometheus.yml"
    config.write_text(re.sub(r"/etc\S+token", str(tmp_path / "token"), config.read_text()))
    for command in ("check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"):
        done = subprocess.run(["promtool", *command.split()], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    alerts = re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    assert {
        alert for alert in alerts if not re.search(rf"alertname: {alert}\b.*\n +eval_time", tests)
    } == set()


def unit(tmp_path: Path, command: str = sys.executable) -> Path:
    """Return a copy of the unit whose command exists."""
    path = tmp_path / "idol-deploy.service"
    path.write_text((DEPLOY / path.name).read_text().replace("/opt/idol-deploy/bin/idol-deploy", command))
    return path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd: scripts/install-test-packages")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    command = ["systemd-analyze", "verify", str(unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd is older than 250")
    assert done.returncode == 0, done.stdout[-500:]


def commands() -> dict[str, list[str]]:
    """Return the arguments of the service, and of each image."""
    service = (DEPLOY / "idol-deploy.service").read_text().replace("\\\n", " ")
    start = re.findall(r"^ExecStart=(.*)", service, re.M)[0].replace(
        "$IDOL_DEPLOY_OPTIONS", "--http 127.0.0.1:9"
    )
    found = {"service": shlex.split(start)[1:]}
    for path in (DEPLOY / "docker").glob("*.Dockerfile"):
        lines = path.read_text().replace("\\\n", " ")
        found[path.stem] = json.loads(re.findall(r"^CMD (.*)", lines, re.M)[0])
    return found


@pytest.mark.parametrize("place", ["service", "cpu", "cuda", "jetpack6", "jetpack7"])
def test_the_command_line_accepts_the_arguments(place: str) -> None:
    from idol_deploy.cli import build_parser

    options = build_parser().parse_args(commands()[place])
    assert options.bundle == Path("model.idol")
    assert options.streams == Path("streams.json")
    assert (options.rotate, options.retain) == ("1h", "7d,5GB"), "a disk must not fill up"


def test_images_are_pinned_and_run_without_root() -> None:
    paths = list((DEPLOY / "docker").glob("*.Dockerfile"))
    assert len(paths) == 4
    for path in paths:
        text = path.read_text()
        assert text.startswith(("# Built and run", "# Not built, not run")), path
        bases = re.findall(r"^FROM (\S+)", text, re.M)
        assert len(bases) == 2
        assert all(re.search(r":\D*\d+\.\d", base) for base in bases), f"{path}: name a tag"
        assert re.search(r"^USER 10001$", text, re.M)
        assert "/healthz" in text.partition("HEALTHCHECK")[2]
