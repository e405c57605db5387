"""Pretrained weights from the model hub: a server on this machine that says what the real one says.

It is asked from a process of its own, since huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.models.states import saved, state_of

REPOSITORY = "timm/test_resnet.r160_in1k"
ASK = """
import json, sys
from largedrop.errors import UserError
from largedrop.models.pretrained import create_backbone, find_weights
for line in sys.stdin:
    model = line.strip()
    try:
        weights = find_weights(model)
        backbone, units = create_backbone(model, weights, 160)
        total = float(sum(value.double().abs().sum() for value in backbone.state_dict().values()))
        print(json.dumps([weights.source, weights.digest, units, total]), flush=True)
    except UserError as error:
        print(json.dumps(str(error)), flush=True)
"""


class Hub(ThreadingHTTPServer):
    """Serves one repository with one file, and notes what it was asked for."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.content = content
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        found = self.path == f"/{REPOSITORY}/resolve/main/model.safetensors"
        body = self.server.content if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # or the last one would outlive the server
        if found:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not to the tests' output."""


@contextmanager
def hub(content: bytes) -> Iterator[Hub]:
    server = Hub(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asked(endpoint: str, home: Path) -> Iterator[Callable[..., list[Any]]]:
    """A process that says what it finds for each model: source, digest, units and sum of the weights, or the error."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and not key.startswith(("HF_", "TRANSFORMERS_"))
    }
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    with subprocess.Popen(
        [sys.executable, "-c", ASK],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:

        def ask(*models: str) -> list[Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            answers = []
            for model in models:
                process.stdin.write(f"{model}\n")
                process.stdin.flush()
                answers.append(json.loads(process.stdout.readline()))
            return answers

        yield ask
        _, said = process.communicate(timeout=100)
        assert "Retrying" not in said
    assert process.returncode == 0, said


@dataclass(frozen=True)
class Visit:
    """What a process found on the hub, and what it finds once the hub is gone."""

    address: str
    found: list[Any]
    later: list[Any]
    requests: list[str]
    expected: list[Any]


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("hub")
    state = state_of("test_resnet")
    path = Path(saved(folder / "net.safetensors", state))
    total = float(sum(value.double().abs().sum() for key, value in state.items() if not key.startswith("fc.")))
    with ExitStack() as process:
        with hub(path.read_bytes()) as server:
            address, ask = server.address, process.enter_context(asked(server.address, folder / "home"))
            found = ask("test_resnet.r160_in1k", "test_resnet", "test_vit")
            requests = [line for line in server.asked if "safetensors" in line]
        later = ask("test_resnet", "test_vit")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Visit(address, found, later, requests, [f"hub {REPOSITORY}", digest, 96, pytest.approx(total)])


def test_weights_are_downloaded_from_the_hub_once(visit: Visit) -> None:
    assert visit.found[:2] == [visit.expected, visit.expected]
    assert visit.requests.count(f"GET /{REPOSITORY}/resolve/main/model.safetensors") == 1
    last = visit.requests.index(f"GET /{REPOSITORY}/resolve/main/model.safetensors")
    assert visit.requests[last + 1 :] == ["HEAD /timm/test_vit.r160_in1k/resolve/main/model.safetensors"]


def test_downloaded_weights_need_no_hub(visit: Visit) -> None:
    assert visit.later[0] == visit.expected


@pytest.mark.parametrize(
    ("time", "reason"), [("found", r"RepositoryNotFoundError: 404 [^\n]*"), ("later", r"\w+: [^\n]*refused[^\n]*")]
)
def test_weights_that_the_hub_does_not_give_are_one_line(visit: Visit, time: str, reason: str) -> None:
    advice = (
        "; without a connection, use one that is installed (tf_efficientnet_lite0, tf_efficientnet_lite1, "
        "tf_efficientnet_lite2) or a local file: --weights FILE.safetensors"
    )
    start = f"cannot get the weights of 'test_vit' from {visit.address} ("
    assert re.fullmatch(f"{re.escape(start)}{reason}{re.escape(')' + advice)}", getattr(visit, time)[-1])
