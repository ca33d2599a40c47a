"""Random numbers of shares are the rows of those of the whole step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn

from richkd.data.shares import Share, shares_of
from richkd.models.joint_batch import JointBatch

IMAGES = 10
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def windows(x: Tensor) -> Tensor:
    """Dropout where each image has several rows, as in networks of windows."""
    return F.dropout(x.flatten(0, 1), 0.5).view_as(x)


def in_place(x: Tensor) -> Tensor:
    return x * torch.empty_like(x).bernoulli_(0.5) + torch.empty(len(x), 1, 1, 1, device=x.device).normal_()


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.3)


def causal(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.3, is_causal=True)


DRAWING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout of channels": lambda x: F.dropout2d(x, 0.4),
    "dropout module": nn.Dropout(0.3),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "alpha dropout of channels": lambda x: F.feature_alpha_dropout(x, 0.3, training=True),
    "stochastic depth": DropPath(0.5),
    "dropout of patches": lambda x: PatchDropout(0.5, num_prefix_tokens=0)(x.flatten(2)),
    "in place": in_place,
    "windows": windows,
    "attention": attention,
    "causal attention": causal,
    "noise like": lambda x: x + torch.randn_like(x) + torch.rand_like(x),
    "noise of a shape": lambda x: x * torch.rand(len(x), 1, 1, 1, device=x.device),
    "noise of a size": lambda x: x * torch.randn(size=(len(x), 1, 1, 1), device=x.device),
    "masks of probabilities": lambda x: torch.bernoulli(x.sigmoid()),
    "channels last": lambda x: F.dropout(x.to(memory_format=torch.channels_last), 0.4),
    "batch in the memory's middle": lambda x: F.dropout(x.transpose(0, 1).contiguous().transpose(0, 1), 0.4),
    "attention dropout alone": lambda x: x + 0 * F.dropout(x.softmax(-1), 0.1),
}


def drawn(call: Callable[[Tensor], Tensor], x: Tensor, share: Share | None = None) -> Tensor:
    torch.manual_seed(3)
    if share is None:
        return call(x)
    with JointBatch(share):
        return call(x[share.start + share.first :][: share.computed])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize(("parts", "world"), [(1, 2), (1, 3), (2, 1), (2, 2)])
def test_a_share_has_the_numbers_of_its_images(name: str, parts: int, world: int, device: str) -> None:
    if device == "cuda" and "attention" in name:
        pytest.skip("fused kernels draw masks of their own")
    x = torch.randn(IMAGES, 4, 6, 5, generator=torch.Generator().manual_seed(0)).to(device)
    call = DRAWING[name]
    whole = drawn(call, x)
    assert name == "attention dropout alone" or not torch.equal(whole, x)
    shares = [share for rank in range(world) for share in shares_of(torch.arange(IMAGES), parts, rank, world)]
    places = torch.cat([torch.arange(s.start + s.first, s.start + s.first + s.count) for s in shares])
    joined = torch.cat([drawn(call, x, share)[: share.count] for share in shares])
    assert torch.allclose(joined, whole[places], atol=1e-6)


def test_nothing_is_drawn_in_evaluation_and_without_probability() -> None:
    x = torch.randn(4, 3)
    (share,) = shares_of(torch.arange(8), 1, 0, 2)
    state = torch.get_rng_state()
    with JointBatch(share):
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(F.dropout(x, 0.0), x)
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
        norm = nn.BatchNorm1d(3).eval()
        assert torch.allclose(norm(x), x, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_in_place_changes_its_input() -> None:
    (share,) = shares_of(torch.arange(8), 1, 1, 2)
    whole = drawn(lambda x: F.dropout(x, 0.5), torch.ones(8, 3))
    part = torch.ones(4, 3)
    torch.manual_seed(3)
    with JointBatch(share):
        result = F.dropout(part, 0.5, inplace=True)
    assert result.data_ptr() == part.data_ptr()
    assert torch.equal(part, whole[4:])


def test_gradients_pass_through_the_masks() -> None:
    (share,) = shares_of(torch.arange(8), 1, 1, 2)
    part = torch.ones(4, 3, requires_grad=True)
    torch.manual_seed(3)
    with JointBatch(share):
        result = F.dropout(part, 0.5)
    result.sum().backward()
    assert part.grad is not None
    assert torch.equal(part.grad, result.detach())
