"""What containers run exists: commands compose, and the two descriptions of the server agree."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml

from bmfm.cli import compose

DOCKER = Path(__file__).parents[2] / "docker"
STAGES = dict(re.findall(r"^FROM .* AS (\w+)\n(.*?)(?=^FROM|\Z)", (DOCKER / "Dockerfile").read_text(), re.M | re.S))


def test_the_server_that_the_image_starts_composes():
    stage = STAGES["serve"]
    program, command, *settings = json.loads(re.search(r"^ENTRYPOINT (.*)$", stage, re.M)[1])
    more = json.loads(re.search(r"^CMD (.*)$", stage, re.M)[1])
    config = compose(command, settings + more)
    assert program == "bmfm" and config.checkpoint == "/model" and config.host == "0.0.0.0"
    assert f"EXPOSE {config.port}\n" in stage
    (user,) = re.findall(r"^USER (\S+)$", stage, re.M)
    assert user.split(":")[0].isdigit() and user.split(":")[0] != "0"


@pytest.mark.parametrize(("more", "port"), [([], 8000), (["checkpoint=/model", "port=9321"], 9321)])
def test_the_health_check_asks_the_port_that_the_server_has(more, port, monkeypatch):
    """The line of the image, where process 1 is the entry point with what `docker run` adds; later settings replace earlier ones."""
    stage, asked = STAGES["serve"], []
    arguments = json.loads(re.search(r"^ENTRYPOINT (.*)$", stage, re.M)[1]) + more
    assert compose("serve", ["checkpoint=/model", *arguments[2:]]).port == port
    (line,) = re.findall(r"^    CMD (\[.*\])$", stage, re.M)
    monkeypatch.setattr("urllib.request.urlopen", lambda address, timeout: asked.append(address))
    exec(json.loads(line)[2], {"open": lambda path: io.StringIO("\0".join(arguments) if path == "/proc/1/cmdline" else "")})
    assert asked == [f"http://127.0.0.1:{port}/health"]


def test_the_composition_serves_a_model_that_it_cannot_change():
    (service,) = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].values()
    config = compose("serve", service["command"])
    (volume,) = service["volumes"]
    assert volume.endswith(f":{config.checkpoint}:ro") and service["read_only"] and service["build"]["target"] in STAGES
    assert all(port.startswith("127.0.0.1:") and port.endswith(f":{config.port}") for port in service["ports"])
    assert float(service["stop_grace_period"].removesuffix("s")) > config.shutdown_seconds
