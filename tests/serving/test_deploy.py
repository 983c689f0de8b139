"""The files of deploy/: they name only flags, routes and metrics that the server has."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from armorm import RewardModel
from armorm.cli.application import app as armorm
from armorm.serving import ServerOptions, Service, create_app, running
from armorm.serving.metrics import Metrics
from armorm.serving.ray_serve import RayServeSettings, build
from armorm.serving.reception import OPEN_PATHS
from armorm.serving.running import ServeSettings
from tests.serving.direct import DirectScorer
from tests.tiny_models import make_heads

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINER = (DEPLOY / "Containerfile").read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def unit() -> Mapping[str, str]:
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "armorm.service")
    return parser["Service"]


def pod() -> dict[str, Any]:
    [deployment] = documents("kubernetes/deployment.yaml")
    return deployment["spec"]["template"]["spec"]


def commands() -> dict[str, list[str]]:
    """Return the arguments of `armorm` by the file that gives them."""
    entry, command = re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", CONTAINER, re.MULTILINE)
    return {
        "Containerfile": [*json.loads(entry), *json.loads(command)][1:],
        "armorm.service": shlex.split(unit()["ExecStart"])[1:],
        "deployment.yaml": ["serve", *pod()["containers"][0]["args"]],
    }


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, ServeSettings]:
    """The settings that each command line stands for."""
    found: dict[str, ServeSettings] = {}
    for file, arguments in commands().items():
        monkeypatch.setattr(
            running,
            "serve",
            lambda settings, announce: found.update({file: settings}),  # noqa: B023
        )
        armorm(arguments, standalone_mode=False)
    return found


def test_command_lines_are_those_of_armorm_serve(parsed):
    assert set(parsed) == {"Containerfile", "armorm.service", "deployment.yaml"}
    for file in ("Containerfile", "deployment.yaml"):
        assert (parsed[file].model, parsed[file].server.host) == ("/model", "0.0.0.0")
    assert parsed["armorm.service"].server.is_loopback
    for file in ("armorm.service", "deployment.yaml"):
        assert parsed[file].server.api_key_file.name == "api-key"


def test_orchestrators_wait_longer_than_the_server_drains(parsed):
    assert int(unit()["TimeoutStopSec"]) > parsed["armorm.service"].server.drain_timeout
    pause = int(pod()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = parsed["deployment.yaml"].server.drain_timeout
    assert pod()["terminationGracePeriodSeconds"] > pause + drain


def test_probes_ask_routes_that_need_no_key(tiny_backbone):
    paths = {
        pod()["containers"][0][probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    paths |= set(re.findall(r"http://127.0.0.1:8000(/[\w/]*)", CONTAINER))
    assert paths == {"/health/live", "/health/ready"} <= OPEN_PATHS
    app = create_app(
        Service(DirectScorer(RewardModel(tiny_backbone, make_heads())), ServerOptions())
    )
    assert paths <= set(app.openapi()["paths"])


def test_the_container_is_offline_and_not_root():
    assert "HF_HUB_OFFLINE=1" in CONTAINER
    assert re.findall(r"^USER (\d+):", CONTAINER, re.MULTILINE) == ["10001"]
    assert pod()["securityContext"]["runAsUser"] == 10001
    for variant in ("cpu", "cuda", "vllm"):
        assert f" AS {variant}\n" in CONTAINER
        assert re.search(rf"^ +{variant}\) ", CONTAINER, re.MULTILINE)
    kept = re.findall(r"^!(\S+)", (DEPLOY / "Containerfile.dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", CONTAINER, re.MULTILINE)
    assert set(" ".join(copied).split()) == set(kept)


def exported() -> Iterator[str]:
    """Yield the names of all series that Prometheus reads from the server."""
    for family in Metrics().registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        yield from (family.name + ending for ending in endings.get(family.type, [""]))


def expressions() -> Iterator[tuple[str, str]]:
    [rules] = documents("prometheus/alerts.yaml")
    for group in rules["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    dashboard = json.loads((DEPLOY / "grafana" / "armorm.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    [adapter] = documents("kubernetes/monitoring/adapter-values.yaml")
    for rule in adapter["rules"]["custom"]:
        yield "adapter", rule["seriesQuery"]
    [scaler] = documents("kubernetes/autoscaler.yaml")
    for metric in scaler["spec"]["metrics"]:
        yield "autoscaler", metric["pods"]["metric"]["name"]


def test_rules_and_dashboard_ask_for_series_that_the_server_exports():
    names = set(exported())
    asked = set()
    for place, expression in expressions():
        found = set(re.findall(r"\barmorm_\w+", expression))
        assert found <= names, place
        assert found or place == "ArmormDown", place
        asked |= found
        for pair in ("()", "[]", "{}"):
            assert expression.count(pair[0]) == expression.count(pair[1]), place
    unused = {re.sub("_(bucket|count|sum)$", "", name) for name in names - asked}
    assert unused <= {re.sub("_(bucket|count|sum)$", "", name) for name in asked}


def test_each_alert_says_what_to_do():
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    [rules] = documents("prometheus/alerts.yaml")
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Armorm\w+)` \|", page, re.MULTILINE) == alerts


def test_kubernetes_objects_are_all_applied_and_select_the_pods():
    [kustomization] = documents("kubernetes/kustomization.yaml")
    files = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml"}
    [labels] = kustomization["labels"]
    for name in ("kubernetes/disruption.yaml", "kubernetes/monitoring/service-monitor.yaml"):
        [item] = documents(name)
        assert item["spec"]["selector"]["matchLabels"] == labels["pairs"]


def test_the_file_for_ray_serve_is_one_application():
    [config] = documents("ray-serve.yaml")
    [application] = config["applications"]
    assert application["import_path"] == f"{build.__module__}:{build.__name__}"
    settings = RayServeSettings.validated(application["args"])
    assert settings.replicas.max_replicas == 8
