"""timm's layout: timm alone loads it and gives the same numbers; it is pushed to a hub, here a local server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from tests.helpers import files, refusal
from tests.prediction.models import save

import largedrop as ld
from largedrop.export.hub import push, write_timm


@pytest.fixture
def network(tmp_path: Path) -> Any:
    return ld.load_model(save(tmp_path / "model.safetensors", 0))


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The models that timm alone makes of a folder: from a hub that has its files, and from the folder."""

    def download(repo_id: str, filename: str, **options: Any) -> str:
        assert repo_id == "me/model"
        return str(folder / filename)

    with monkeypatch.context() as patch:
        patch.setattr(timm.models._hub, "hf_hub_download", download)
        yield timm.create_model("hf-hub:me/model", pretrained=True).eval()
    if tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 16):  # those before load no folders
        yield timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_timm_alone_loads_it(network: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub"
    assert write_timm(network, folder, "# A card") < 1e-6
    assert files(folder) == ["README.md", "config.json", "model.safetensors"]
    data: Any = timm.data
    for model in loaded(folder, monkeypatch):
        assert model.pretrained_cfg["label_names"] == ["red", "green", "blue"]
        transform = data.create_transform(**data.resolve_data_config(model=model))
        with torch.inference_mode(), Image.open(toy / "ink" / "red" / "0.png") as image:
            theirs = model(transform(image)[None])
            ours = network(network.transform(toy / "ink" / "red" / "0.png")[None])
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["largedrop"]["temperature"] == 1.5
    assert (config["architecture"], config["num_classes"]) == ("test_efficientnet", 3)


def test_a_head_that_timm_has_not(network: Any, tmp_path: Path) -> None:
    network.head = torch.nn.Linear(7, 3)
    said = refusal(write_timm, network, tmp_path / "hub", "")
    assert said.startswith("timm's test_efficientnet has another head than a linear layer on its representation")
    assert not (tmp_path / "hub").exists()


class Hub(BaseHTTPRequestHandler):
    """The part of a model hub that a push talks to."""

    asked: list[tuple[str, Any]]
    refuses: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        content: Any = [json.loads(line) for line in body.splitlines()] if "commit" in self.path else json.loads(body)
        self.asked.append((self.path, content))
        if self.refuses or self.headers.get("Authorization") != "Bearer made-up":
            self.answer(403, {"error": "not allowed"})
        elif self.path == "/api/repos/create":
            self.answer(200, {"url": f"{self.server.address}/me/model", "name": "me/model"})  # type: ignore[attr-defined]
        elif "preupload" in self.path:
            modes = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in content["files"]
            ]
            self.answer(200, {"files": modes})
        elif "validate-yaml" in self.path:
            self.answer(200, {"errors": [], "warnings": []})
        else:
            self.answer(200, {"commitUrl": f"{self.server.address}/me/model/commit/0", "commitOid": "0" * 40})  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self.answer(200, {"id": "me/model", "sha": "0" * 40, "siblings": []})

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *text: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"asked": [], "refuses": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)  # type: ignore[attr-defined]
    # Where its first versions have the address that they took from there when they were imported.
    monkeypatch.setattr(huggingface_hub.hf_api, "ENDPOINT", server.address, raising=False)  # type: ignore[attr-defined]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "made-up")
    monkeypatch.setenv("HF_TOKEN", "made-up")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_folder_is_pushed(network: Any, tmp_path: Path, hub: type[Hub]) -> None:
    folder = tmp_path / "hub"
    write_timm(network, folder, "# A card\n")
    (folder / "secret.txt").write_text("not for the hub")
    assert push(folder, "me/model").endswith("/me/model")
    made = next(content for path, content in hub.asked if path == "/api/repos/create")
    assert made.get("visibility") == "private" or made.get("private") is True
    commit = next(content for path, content in hub.asked if "/commit/" in path)
    sent = {
        each["value"]["path"]: base64.b64decode(each["value"]["content"]) for each in commit if each["key"] == "file"
    }
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]
    assert sent["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    hub.asked.clear()
    push(folder, "me/model", public=True)
    made = next(content for path, content in hub.asked if path == "/api/repos/create")
    assert made.get("visibility") != "private"
    assert made.get("private") is not True


def test_a_hub_that_refuses(network: Any, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuses = True
    said = refusal(push, tmp_path, "me/model")
    assert said.startswith("cannot push to me/model (HfHubHTTPError: ")
    assert "\n" not in said
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    asked = len(hub.asked)
    assert refusal(push, tmp_path, "me/model") == (
        "the hub needs a token: log in with 'hf auth login', or set HF_TOKEN"
    )
    assert len(hub.asked) == asked
