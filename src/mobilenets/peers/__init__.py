"""What a user would otherwise run: the same network from timm and torchvision, to be timed beside an artifact.

The workshop's half: it needs torch. `bench` times a peer like an artifact, in a process of its own, in the same rounds.
"""

from .models import Peer, peers_of

__all__ = ["Peer", "peers_of"]
