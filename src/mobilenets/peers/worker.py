"""One peer in a process of its own, timed on request: `python -m mobilenets.peers.worker`. See `bench.serve`."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..bench.serve import OpenRequest, Subject, serve
from ..errors import UsageError
from ..images import scaled_side
from ..records import Preprocess
from ..runtime import default_threads
from .models import Peer, create

__all__ = ["main"]


def main() -> None:
    """Answer requests until standard input closes."""
    warnings.simplefilter("ignore")  # of other people's exporters and compilers
    serve(_open)


def _open(request: OpenRequest) -> Subject:
    peer = Peer.of_entry(request.path)
    threads = request.threads or default_threads()
    torch.set_num_threads(threads)
    network = create(peer)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    run, engine, version = _runner(peer, network, threads=threads, batch_size=request.batch_size)
    side, channels = peer.preprocess.resolution, peer.preprocess.channels
    # Already scaled and turned, which is more than an artifact is given.
    images = torch.randn((request.batch_size, channels, side, side), generator=torch.Generator().manual_seed(0))
    files = itertools.cycle(request.images)
    read = _reader(peer.preprocess)

    def from_files() -> Any:
        batch = torch.stack([read(Path(next(files))) for _ in range(request.batch_size)])
        return torch.as_tensor(run(batch)).argmax(1).tolist()

    return Subject(
        engine=engine,
        version=version,
        threads=threads,
        once=from_files if request.images else lambda: run(images),
        answer=lambda: torch.as_tensor(run(images)).tolist(),
        facts={"parameters": float(parameters), "resolution": float(side)},
    )


def _runner(
    peer: Peer, network: torch.nn.Module, *, threads: int, batch_size: int
) -> tuple[Callable[[torch.Tensor], Any], str, str]:
    """What answers normalised images (N, C, R, R), and its engine's name and version.

    Raises:
        UsageError: there is no such way.
    """
    torch_version = torch.__version__
    if peer.way == "onnxruntime":
        import onnxruntime

        side, channels = peer.preprocess.resolution, peer.preprocess.channels
        example = torch.zeros((batch_size, channels, side, side))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "model.onnx")
            torch.onnx.export(network, (example,), path, input_names=["images"], dynamo=False)
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images.numpy()})[0], "onnxruntime", onnxruntime.__version__
    if peer.way == "eager":
        return _inferring(network), "torch", torch_version
    network = network.to(memory_format=torch.channels_last)
    if peer.way == "channels_last":
        return _inferring(network, memory_format=torch.channels_last), "torch", torch_version
    if peer.way == "bf16":
        network = network.to(torch.bfloat16)
        return _inferring(network, memory_format=torch.channels_last, dtype=torch.bfloat16), "torch", torch_version
    if peer.way == "compile":
        compiled = torch.compile(network)
        return _inferring(compiled, memory_format=torch.channels_last), "torch.compile", torch_version
    raise UsageError(f"way {peer.way!r}", wanted="a way of running a peer", do="use one of peers.models.Way")


def _inferring(
    network: Callable[[torch.Tensor], torch.Tensor],
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return network(images.to(dtype=dtype, memory_format=memory_format)).float()

    return run


def _reader(preprocess: Preprocess) -> Callable[[Path], torch.Tensor]:
    """A file to a normalised image (C, R, R), as torchvision's references do it."""

    def read(path: Path) -> torch.Tensor:
        from PIL import Image
        from torchvision import transforms

        steps = transforms.Compose(
            [
                transforms.Resize(scaled_side(preprocess)),
                transforms.CenterCrop(preprocess.resolution),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )
        with Image.open(path) as image:
            image_tensor: torch.Tensor = steps(image.convert("RGB" if preprocess.channels == 3 else "L"))
        return image_tensor

    return read


if __name__ == "__main__":
    main()
