"""By name. There is no network in these tests: a server on this machine stands for the hub and for torchvision's."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from mobilenets.errors import FileFormatError, UnknownNameError, UsageError
from mobilenets.fit.starts import Starts
from mobilenets.records import Preprocess
from mobilenets.weights import hub, import_weights
from mobilenets.weights.published import Named, Published, named, published, weights_of

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is in the extra [train]")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """Files by their path; counts what is asked for, and can break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.breaks_off = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                content = outer.files.get(self.path)
                outer.asked.append(f"{self.command} {self.path}")
                if content is None:
                    known = any(path.startswith("/".join(self.path.split("/")[:3]) + "/") for path in outer.files)
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    self.wfile.write(content[: len(content) // 2] if outer.breaks_off else content)

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run(self) -> None:
        self.server.serve_forever(poll_interval=0.02)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries


@pytest.fixture
def hub_here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub's own client, pointed at the server, with an empty cache."""
    point_at(server.url, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return server


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state dict of timm's mobilenetv3_small_050, as a file."""
    timm = pytest.importorskip("timm", reason="timm is in the extra [dev]")
    file = tmp_path_factory.mktemp("small") / "model.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), str(file))
    return file.read_bytes()


def test_a_timm_model_is_fetched_once_and_then_needs_no_network(hub_here: Server, small: bytes) -> None:
    at = "/timm/mobilenetv3_small_050.lamb_in1k/resolve/main"
    pinned = at.replace("main", COMMIT)
    hub_here.files = {f"{at}/model.safetensors": small}
    config = (
        b'{"architecture": "mobilenetv3_small_050", "pretrained_cfg": {"tag": "lamb_in1k", "license": "apache-2.0",'
    )
    config += (
        b' "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, "mean": [0.485, 0.456, 0.406],'
    )
    config += b' "std": [0.229, 0.224, 0.225]}}'
    hub_here.files[f"{pinned}/config.json"] = config
    bundle = import_weights("timm:mobilenetv3_small_050")
    told = bundle.history[0]
    assert (told["source"], told["revision"]) == ("hf:timm/mobilenetv3_small_050.lamb_in1k", COMMIT)
    assert (told["weights"], told["licence"]) == ("lamb_in1k", "apache-2.0")
    assert "assumed" not in told
    published_as = next(one for one in weights_of("timm") if one.name == "mobilenetv3_small_050.lamb_in1k")
    assert bundle.preprocess == published_as.preprocess
    assert bundle.labels[0] == "tench"
    hub_here.files = {}
    hub_here.asked.clear()
    hub_here.stop()  # from here on nothing answers
    again = import_weights("hf:timm/mobilenetv3_small_050.lamb_in1k")
    assert again.digest == bundle.digest
    assert hub_here.asked == []


def test_a_repository_with_the_older_file_only_is_read_from_that(hub_here: Server, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra [dev]")
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=1001, image_size=128)
    network = transformers.MobileNetV1ForImageClassification(config)
    torch.save(network.state_dict(), tmp_path / "weights.bin")
    at = "/google/mobilenet_v1_0.25_128/resolve"
    hub_here.files = {
        f"{at}/main/pytorch_model.bin": (tmp_path / "weights.bin").read_bytes(),
        f"{at}/{COMMIT}/config.json": config.to_json_string().encode(),
    }
    for name in ("hf:google/mobilenet_v1_0.25_128", "google/mobilenet_v1_0.25_128"):
        bundle = import_weights(name)
        assert bundle.spec.name == "mobilenet_v1_0.25_128"
        assert bundle.spec.head.classes == 1000
    hub_here.stop()
    assert import_weights("google/mobilenet_v1_0.25_128").digest == bundle.digest


def test_a_repository_that_is_not_there_says_which_are_near(hub_here: Server) -> None:
    with pytest.raises(UnknownNameError, match=r"google/mobilenet_v1_0\.75_192"):
        import_weights("hf:google/mobilenet_v1_0.75_129")
    with pytest.raises(UnknownNameError):
        import_weights("hf:just-a-name")


def test_a_repository_without_weights_is_told(hub_here: Server) -> None:
    hub_here.files = {"/someone/thing/resolve/main/README.md": b"hello"}
    with pytest.raises(FileFormatError, match=r"has none of model\.safetensors"):
        import_weights("hf:someone/thing")


def test_without_a_network_it_says_what_to_download_and_how_to_go_on(
    hub_here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    for name, repository in (
        ("timm:mobilenetv2_100", "timm/mobilenetv2_100.ra_in1k"),
        ("google/mobilenet_v2_1.4_224", "google/mobilenet_v2_1.4_224"),
    ):
        with pytest.raises(UsageError) as caught:
            import_weights(name)
        for part in ("model.safetensors", "config.json", f"https://huggingface.co/{repository}/tree/main"):
            assert part in str(caught.value)
        assert "mobilenets import FOLDER" in str(caught.value)


def test_offline_mode_of_the_hub_is_told_likewise(hub_here: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="mobilenets import FOLDER"):
        import_weights("timm:mobilenetv2_100")


def test_whether_the_hub_answers_is_found_out_with_one_question(
    hub_here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_here.files = {"/google/mobilenet_v1_0.75_192/resolve/main/config.json": b"{}"}
    assert hub.hub_answers("google/mobilenet_v1_0.75_192")
    assert len(hub_here.asked) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub.hub_answers("google/mobilenet_v1_0.75_192")


def test_a_hub_that_is_not_there_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    assert not hub.hub_answers("google/mobilenet_v1_0.75_192")


def test_the_cache_is_asked_for_weights_without_a_network(
    hub_here: Server, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = "timm/mobilenetv3_small_050.lamb_in1k"
    assert not hub.is_cached(repository)
    hub_here.files = {f"/{repository}/resolve/main/model.safetensors": small}
    import_weights("timm:mobilenetv3_small_050")
    asked = len(hub_here.asked)
    assert hub.is_cached(repository)
    assert not hub.is_cached("timm/mobilenetv2_100.ra_in1k")
    assert len(hub_here.asked) == asked


def test_a_fit_finds_and_fetches_what_the_hub_has(hub_here: Server, small: bytes) -> None:
    hub_here.files = {
        "/google/mobilenet_v1_0.75_192/resolve/main/config.json": b"{}",
        "/timm/mobilenetv3_small_050.lamb_in1k/resolve/main/model.safetensors": small,
    }
    starts = Starts("auto")
    (start,) = starts.had(("mobilenet_v3_small",), (0.5,), unasked=True)
    asked = len(hub_here.asked)
    bundle = starts.bundle(start.source)
    assert len(hub_here.asked) > asked
    assert bundle.spec == start.spec  # what was timed and promised is what came
    assert starts.bundle(start.source) is bundle


def record(server: Server, content: bytes, *, digest: str | None = None) -> Published:
    digest = hashlib.sha256(content).hexdigest()[:8] if digest is None else digest
    server.files = {f"/models/tiny-{digest}.pth": content}
    return Published(
        library="torchvision",
        model="tiny",
        weights="V1",
        default=True,
        preprocess=Preprocess(resolution=224),
        classes=1000,
        sha256=digest,
        url=f"{server.url}/models/tiny-{digest}.pth",
    )


def test_a_download_is_checked_kept_and_not_repeated(server: Server, tmp_path: Path) -> None:
    one = record(server, b"weights" * 1000)
    file = hub.download(one, folder=tmp_path)
    assert file.read_bytes() == b"weights" * 1000
    assert hub.download(one, folder=tmp_path) == file
    assert len(server.asked) == 1
    file.write_bytes(b"rotten")
    assert hub.download(one, folder=tmp_path).read_bytes() == b"weights" * 1000
    assert len(server.asked) == 2


def test_a_download_with_another_digest_is_thrown_away(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a digest that begins with deadbeef"):
        hub.download(record(server, b"weights", digest="deadbeef"), folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_download_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    one = record(server, b"weights" * 1000)
    server.breaks_off = True
    with pytest.raises(UsageError, match="cannot fetch"):
        hub.download(one, folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    server.breaks_off = False
    assert hub.download(one, folder=tmp_path / "cache").stat().st_size == 7000


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/m/tiny-00000000.pth", "{server}/gone/tiny-00000000.pth"])
def test_a_server_that_does_not_answer_or_refuses_is_told_with_what_to_do(
    url: str, server: Server, tmp_path: Path
) -> None:
    url = url.format(server=server.url)
    one = msgspec.structs.replace(record(server, b"x", digest="00000000"), url=url)
    with pytest.raises(UsageError) as caught:
        hub.download(one, folder=tmp_path)
    assert f"download {url}" in str(caught.value)
    assert "mobilenets import tiny-00000000.pth --as torchvision:tiny.V1" in str(caught.value)


def test_torchvisions_weights_come_by_name(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is in the extra [train]")
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    asked: list[Named] = []

    def found(name: Named) -> Published:
        asked.append(name)
        return msgspec.structs.replace(
            published(name),
            url=f"{server.url}/v3-{hashlib.sha256(content).hexdigest()[:8]}.pth",
            sha256=hashlib.sha256(content).hexdigest()[:8],
        )

    monkeypatch.setattr(hub, "published", found)
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    server.files = {f"/v3-{hashlib.sha256(content).hexdigest()[:8]}.pth": content}
    bundle = import_weights("torchvision:mobilenet_v3_small")
    told: dict[str, Any] = bundle.history[0]
    assert asked[0].weights is None
    assert told["weights"] == "IMAGENET1K_V1"
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert [file.parent.name for file in (tmp_path / "cache").rglob("*.pth")] == ["torchvision"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("timm:mobilenetv2_100.ra_in1k", Named(library="timm", model="mobilenetv2_100", weights="ra_in1k")),
        ("hf:timm/mobilenetv2_100.ra_in1k", Named(library="timm", model="mobilenetv2_100", weights="ra_in1k")),
        ("torchvision:mobilenet_v2", Named(library="torchvision", model="mobilenet_v2")),
        ("hf:google/mobilenet_v1_0.75_192", Named(library="transformers", model="google/mobilenet_v1_0.75_192")),
        ("weights.pth", None),
        ("C:\\weights.pth", None),
    ],
)
def test_names_are_told_from_paths(text: str, wanted: Named | None) -> None:
    assert named(text) == wanted


def test_the_default_weights_are_those_that_each_library_takes() -> None:
    assert published(Named(library="timm", model="mobilenetv3_large_100")).weights == "ra_in1k"
    assert published(Named(library="torchvision", model="mobilenet_v2")).weights == "IMAGENET1K_V2"
    every = weights_of("torchvision")
    assert len(every) == 5
    assert all(one.sha256 and one.url and f"-{one.sha256}.pth" in one.url for one in every)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("timm:mobilenetv3_large_100.ra_in2k", "mobilenetv3_large_100.ra_in1k"),
        ("timm:mobilenetv2_10", "mobilenetv2_100.ra_in1k"),
        ("torchvision:mobilenet_v3_smal", "mobilenet_v3_small.IMAGENET1K_V1"),
    ],
)
def test_an_unknown_name_says_what_is_near(text: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=near.replace(".", r"\.")):
        import_weights(text)


def test_what_is_neither_file_nor_name_says_so(tmp_path: Path) -> None:
    for text in ("nothing.pth", str(tmp_path / "a" / "b.safetensors"), f"{tmp_path}/weights"):
        with pytest.raises(FileFormatError, match="there is no file or folder"):
            import_weights(text)
    with pytest.raises(UsageError, match="names no model"):
        import_weights("timm:")
    with pytest.raises(UsageError, match="cannot be imported: it blurs"):
        import_weights("timm:mobilenetv4_conv_blur_medium.e500_r224_in1k")
    with pytest.raises(UsageError, match="there is no file"):
        import_weights("timm:mobilenetv2_100", known_as="timm:mobilenetv2_100")
