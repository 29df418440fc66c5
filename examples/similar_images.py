"""Images that look alike: what a network's classifier reads of each, and its nearest neighbours.

python examples/similar_images.py BUNDLE QUERY FOLDER [--top K]

BUNDLE is any trained network: `runs/train/NAME/best`, or what `mobilenets import` made of published weights, whose
ImageNet classes do not matter here. QUERY is an image, FOLDER is searched. Prints the K nearest by cosine similarity.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets.bundle import Bundle, read_bundle
from mobilenets.images import load
from mobilenets.nets import Network, build, load_tensors
from mobilenets.runtime import find_images

BATCH = 32


def network_of(bundle: Bundle) -> Network:
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    return network.eval()


@torch.inference_mode()
def embeddings(network: Network, bundle: Bundle, files: list[Path]) -> NDArray[np.float32]:
    """(N, D), each of length 1."""
    mean, std = (torch.tensor(values) for values in (bundle.preprocess.mean, bundle.preprocess.std))
    parts = []
    for begin in range(0, len(files), BATCH):
        # Decoded, turned upright, resized and cropped as everywhere in mobilenets: uint8 (n, R, R, C).
        pixels = np.stack([load(path, bundle.preprocess) for path in files[begin : begin + BATCH]])
        images = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
        for row in network.rows:
            images = row(images)
        parts.append(torch.nn.functional.normalize(network.head.embedding(images)))
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--top", type=int, default=5)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    network = network_of(bundle)
    files = [path for path in find_images(given.folder) if isinstance(path, Path)]
    query, known = embeddings(network, bundle, [given.query]), embeddings(network, bundle, files)
    likeness = known @ query[0]
    for place in np.argsort(-likeness, kind="stable")[: given.top]:
        print(f"{likeness[place]:.3f}  {files[place]}")


if __name__ == "__main__":
    main()
