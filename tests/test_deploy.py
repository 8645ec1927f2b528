"""Files of `deploy/`, checked by the programs that read them."""

import os
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


def test_the_server_exposes_every_metric_of_the_alerts() -> None:
    pytest.importorskip("starlette")
    parser = pytest.importorskip("prometheus_client.parser")
    from idol_runtime.serve.hub import Hub
    from idol_runtime.serve.messages import FrameMessage, Hello, StreamInfo

    door = StreamInfo("door", "rtsp://door", True, "connected", 1.0)
    start = "0.1.0", os.getpid(), 1.0, "openvino", "fp32", "cpu", "model.idol", ["cat"], False, False, "", []
    hub = Hub(Hello(*start, [door]), lambda _: None)
    hub.receive(FrameMessage("door", 0, 0.0, 1.0, (8, 8), [], [], [], [], {"network": 0.1}, 0.1, 1, 0, 0))
    families = parser.text_string_to_metric_families(hub.metrics.text().decode())
    exposed = {sample.name for family in families for sample in family.samples}
    used = set(re.findall(r"idol_\w+", (PROMETHEUS / "alerts.yml").read_text()))
    assert len(used) >= 9
    assert used - exposed == set()
