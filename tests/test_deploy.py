"""Files of `deploy/`, checked by the programs that read them."""

import re
import shutil
import subprocess
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
