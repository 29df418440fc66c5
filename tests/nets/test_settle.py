"""Folded norms get statistics and the network keeps its answers."""

import pytest
import torch
from torch import nn

from making import patches, settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, SeparableRow, UniversalRow
from mobilenets.arch.spec import Norm
from mobilenets.errors import UsageError
from mobilenets.nets import Network, load_tensors
from mobilenets.nets.settle import settle_norms
from mobilenets.train.loader import normalise

SPEC = ArchSpec(
    name="some",
    paper="none",
    rows=(
        ConvRow(out=8, stride=2, act="hard_swish"),
        SeparableRow(out=16),
        BottleneckRow(out=16, expanded=32, squeezed=8),
        UniversalRow(out=24, expanded=32, start_kernel=3, middle_kernel=3, stride=2),
    ),
    head=ClassifierHead(classes=5, hidden=16, hidden_norm=True, act="relu"),
    norm=Norm(eps=1e-3, momentum=0.1),
    resolution=32,
)


def folded_network() -> tuple[Network, torch.Tensor]:
    """A network whose norms only add, as an imported one's do; and images."""
    bundle = settled_bundle(SPEC)
    network = Network(SPEC)
    load_tensors(network, bundle.tensors)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                owner = network.get_submodule(name.rsplit(".", 1)[0])
                conv = owner.hidden if name == "head.norm" else owner.conv
                scale = module.weight / torch.sqrt(module.running_var + module.eps)
                conv.weight.mul_(scale.reshape(-1, *[1] * (conv.weight.ndim - 1)))
                module.bias.sub_(module.running_mean * scale)
                module.weight.fill_(1)
                module.running_mean.fill_(0)
                module.running_var.fill_(1 - module.eps)
    images = normalise(torch.from_numpy(patches(96, 32)), bundle.preprocess)
    return network.eval(), images


def answers(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(images)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.std(dim=0).max())


def test_settling_keeps_the_answers_of_evaluation() -> None:
    network, images = folded_network()
    before = answers(network, images)
    assert settle_norms(network, images.split(32)) == 96
    assert apart(answers(network.eval(), images), before) < 1e-4
    unseen = images.flip(3) * 1.3  # not only of the images that it saw
    other, _ = folded_network()
    assert apart(answers(network, unseen), answers(other, unseen)) < 1e-4


def test_a_settled_network_trains_from_what_it_evaluates_to_and_a_folded_one_does_not() -> None:
    network, images = folded_network()
    before = answers(network, images)
    network.head.dropout.p = 0.0
    settle_norms(network, [images])
    assert apart(answers(network.train(), images), before) < 1e-3
    folded, _ = folded_network()
    folded.head.dropout.p = 0.0
    assert apart(answers(folded.train(), images), before) > 0.3


def test_norms_hold_the_mean_and_variance_of_what_they_are_given() -> None:
    network, images = folded_network()
    settle_norms(network, images.split(17))  # batches of different sizes count by their images
    norm, conv = network.rows[0].conv.norm, network.rows[0].conv
    given = answers(nn.Sequential(conv.pad, conv.conv), images)
    torch.testing.assert_close(norm.running_mean, given.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, given.var((0, 2, 3), correction=0), atol=1e-5, rtol=1e-4)


def test_a_channel_that_never_moves_keeps_its_answer() -> None:
    network, images = folded_network()
    with torch.no_grad():
        network.rows[0].conv.conv.weight[3] = 0
    before = answers(network, images)
    settle_norms(network, [images])
    after = answers(network, images)
    assert torch.isfinite(after).all()
    assert apart(after, before) < 1e-4
    assert float(network.rows[0].conv.norm.running_var[3]) == 0
    network.train()
    loss = network(images).square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_part_is_as_before(training: bool) -> None:
    network, images = folded_network()
    network.train(training)
    network.rows[1].eval()
    modes = [module.training for module in network.modules()]
    settle_norms(network, [images])
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_settling_needs_images() -> None:
    network, _ = folded_network()
    with pytest.raises(UsageError, match="no image"):
        settle_norms(network, [])


def test_settling_twice_changes_nothing_more() -> None:
    network, images = folded_network()
    settle_norms(network, [images])
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settle_norms(network, [images])
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, first[name], atol=1e-4, rtol=1e-4)
