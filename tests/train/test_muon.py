from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch

from mobilenets.arch import compose
from mobilenets.data import Dataset
from mobilenets.nets import DepthwiseConv2d, build
from mobilenets.nets.parts import SqueezeExcite
from mobilenets.train import Recipe, muon
from mobilenets.train.muon import Muon, orthogonal
from mobilenets.train.recipe import Optimizer
from mobilenets.train.run import train_run
from mobilenets.train.update import make_optimizer

RECIPE = Recipe(epochs=2, batch_size=16, optimizer="muon", precision="fp32")


def values(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix.float())


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (40, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_directions_of_a_matrix_get_nearly_one_length(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    made = orthogonal(matrix.to(dtype))
    assert (made.dtype, made.shape) == (dtype, matrix.shape)
    lengths = values(made)
    # A random square matrix has directions next to nothing, which five rounds do not lift all the way.
    low = 0.6 if shape[0] != shape[1] else 0.2
    assert low < lengths.min() <= lengths.max() < 1.3
    assert values(matrix).max() / values(matrix).min() > 1.5 * (lengths.max() / lengths.min())
    # The same directions: U'M V' of the result is diagonal where U, V are the matrix's own.
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ made.float() @ vt.T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < (0.01 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("shape", [(24, 48), (24, 200), (200, 24), (128, 1152)])
def test_a_wide_matrix_gets_what_the_rounds_one_by_one_give(shape: tuple[int, int]) -> None:
    """Directions next to nothing included, for which the rounds multiply by hundreds."""
    generator = torch.Generator().manual_seed(0)
    small = min(shape)
    u, _, vt = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    matrix = u * torch.logspace(0, -5, small, dtype=torch.float64) @ vt
    plain = orthogonal(matrix)  # float64 goes round by round
    assert (orthogonal(matrix.float()).double() - plain).norm(2) < 5e-3
    assert values(plain).max() / values(plain).min() > 5  # the smallest are not there yet, in either way


@pytest.mark.parametrize(("shape", "dtype"), [((128, 2304), torch.float32), ((130, 2304), torch.bfloat16)])
def test_only_large_matrices_are_made_in_the_lower_format(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    seen: list[torch.dtype] = []

    def told(matrix: torch.Tensor) -> torch.Tensor:
        seen.append(matrix.dtype)
        return torch.zeros_like(matrix)

    monkeypatch.setattr(muon, "orthogonal", told)
    matrix = torch.nn.Parameter(torch.zeros(shape))
    groups = [{"params": [matrix], "orthogonal": True, "shrink": 0.0}]
    optimizer = Muon(groups, lr=0.1, momentum=0.9, dtype=torch.bfloat16)
    matrix.grad = torch.ones(shape)
    optimizer.step()
    assert seen == [dtype]


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(4, 8)).any()


def test_a_step_of_matrices_knows_no_size_of_gradients_and_the_rest_is_plain_sgd() -> None:
    moved = []
    for size in (1.0, 1000.0):
        matrix, vector = torch.nn.Parameter(torch.zeros(16, 4, 1, 1)), torch.nn.Parameter(torch.zeros(3))
        groups = [{"params": [matrix], "orthogonal": True, "shrink": 0.0}, {"params": [vector]}]
        optimizer = Muon(groups, lr=0.1, momentum=0.9)
        matrix.grad = size * torch.randn(16, 4, 1, 1, generator=torch.Generator().manual_seed(1))
        vector.grad = torch.full((3,), size)
        optimizer.step()
        moved.append(matrix.detach().clone())
        assert torch.allclose(vector.detach(), torch.full((3,), -0.1 * 1.9 * size))  # Nesterov: 1 + momentum
        assert matrix.grad is None
    assert torch.allclose(*moved, atol=1e-5)
    # Tall: longer by sqrt(outputs / inputs) = 2.
    assert 0.1 * 2 * 0.6 < values(moved[0].flatten(1)).min() <= values(moved[0].flatten(1)).max() < 0.1 * 2 * 1.3


def test_a_large_matrix_moves_in_parts_of_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "LARGEST", 8)
    matrix = torch.nn.Parameter(torch.zeros(20, 32))
    optimizer = Muon([{"params": [matrix], "orthogonal": True, "shrink": 0.0}], lr=1.0, momentum=0.9)
    gradient = torch.randn(20, 32, generator=torch.Generator().manual_seed(2))
    matrix.grad = gradient.clone()
    optimizer.step()
    for part in (slice(8), slice(8, 16), slice(16, 20)):
        assert torch.allclose(matrix.detach()[part], -orthogonal(1.9 * gradient[part]), atol=1e-5)


def test_matrices_shrink_by_their_rate() -> None:
    matrix = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([{"params": [matrix], "orthogonal": True, "shrink": 0.5}], lr=0.2, momentum=0.9)
    matrix.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.allclose(matrix.detach(), torch.full((4, 4), 0.9))


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_small"])
def test_matrices_are_the_convolutions_of_whole_maps_over_all_channels(name: str) -> None:
    network = build(compose(name, alpha=0.25, resolution=32, classes=3))
    groups = make_optimizer(network, RECIPE).param_groups
    found = {p for group in groups if group.get("orthogonal") for p in group["params"]}
    gates = {c for m in network.modules() if isinstance(m, SqueezeExcite) for c in m.modules()}
    assert len(gates) > 1 or name != "mobilenet_v3_small"
    for module in network.modules():
        if isinstance(module, DepthwiseConv2d | torch.nn.Linear | torch.nn.BatchNorm2d):
            assert not found & set(module.parameters())
        elif isinstance(module, torch.nn.Conv2d):
            assert (module.weight in found) == (module not in gates)
    together = [p for group in groups for p in group["params"]]
    assert len(together) == len(set(together)) == len(list(network.parameters()))


def test_rates_of_matrices_fall_towards_the_stem_as_well() -> None:
    network = build(compose("mobilenet_v1", alpha=0.1, resolution=32, stride="small", classes=2))
    falling = msgspec.structs.replace(RECIPE, layer_decay=0.5, matrix_scale=0.2)
    scales = {p: g["scale"] for g in make_optimizer(network, falling).param_groups for p in g["params"]}
    assert scales[network.rows[-1].project.conv.weight] == 0.2 * 0.5
    assert scales[network.rows[-2].project.conv.weight] == 0.2 * 0.25
    assert scales[network.rows[-2].project.norm.weight] == 0.25


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw", "rmsprop"])
def test_a_part_of_the_result_learns_as_the_network_does_and_may_begin_later(name: Optimizer) -> None:
    wide, narrow = (compose("mobilenet_v3_small", alpha=alpha, resolution=32, classes=3) for alpha in (0.5, 0.25))
    network, part = build(wide), build(narrow)
    optimizer = make_optimizer(network, msgspec.structs.replace(RECIPE, optimizer=name), beside=[part])
    scales = {p: g["scale"] for g in optimizer.param_groups for p in g["params"]}
    assert len(scales) == len([*network.parameters(), *part.parameters()])
    theirs = dict(part.named_parameters())
    for key, parameter in network.named_parameters():
        assert scales[theirs[key]] == scales[parameter]
    for learning in ([network], [network, part], [network]):
        before = [p.clone() for module in (network, part) for p in module.parameters()]
        for module in learning:
            for p in module.parameters():
                p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = [p for module in (network, part) for p in module.parameters()]
        moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
        assert moved == [any(p is q for module in learning for q in module.parameters()) for p in after]


def test_it_learns_what_can_be_learned(tiny_run: ModuleType, colours: Dataset, tmp_path: Path) -> None:
    outcome = train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path)
    assert outcome.rows[-1].eval_top1 > 90


def test_a_run_that_goes_on_ends_bit_equal(
    tiny_run: ModuleType, colours: Dataset, tmp_path: Path, ctrl_c_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    whole = train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path / "whole")
    with ctrl_c_at(3):
        assert not train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path / "part").finished
    rest = train_run(tiny_run.tiny_spec(), colours, RECIPE, out=tmp_path / "part", resume="must")
    assert rest.finished
    assert all(np.array_equal(rest.last.tensors[k], whole.last.tensors[k]) for k in whole.last.tensors)
