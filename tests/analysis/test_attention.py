"""Mean attended distance: the weights are those the network uses, and the distances are pixels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.attention import mean_attended_distance
from transfuse.analysis.attention_weights import attention_weights
from transfuse.errors import AnalysisError
from transfuse.models import create_model
from transfuse.models.torchvision_operators import declare_operators

declare_operators()  # before timm is imported
from timm.models.beit import Beit  # noqa: E402
from timm.models.cait import Cait  # noqa: E402
from timm.models.eva import Eva  # noqa: E402
from timm.models.swin_transformer import SwinTransformer, window_partition  # noqa: E402
from timm.models.swin_transformer_v2 import SwinTransformerV2  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from timm.models.vision_transformer_hybrid import HybridEmbed  # noqa: E402

SMALL: dict[str, Any] = {"num_classes": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
vit = partial(VisionTransformer, img_size=32, patch_size=8, **SMALL)
swin = partial(
    SwinTransformer, img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4)
)  # fmt: skip
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "registers and norms of queries and keys": partial(vit, reg_tokens=3, qk_norm=True, init_values=0.1),
    "no class token": partial(vit, class_token=False, global_pool="avg"),
    "gated": partial(vit, scale_attn_norm=True),
    "rotary positions": partial(Eva, img_size=32, patch_size=8, use_rot_pos_emb=True, **SMALL),
    "relative positions": partial(Beit, img_size=32, patch_size=8, use_rel_pos_bias=True, **SMALL),
    "swin": swin,
    "swin v2": partial(
        SwinTransformerV2, img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4)
    ),
    "swin that pads": partial(swin, img_size=(24, 28), window_size=5),
    "one window": partial(swin, img_size=8, depths=(2,), num_heads=(2,)),
}
SIZES = {"swin that pads": (24, 28), "one window": (8, 8)}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    for parameter in model.parameters():  # weights that are far from uniform
        with torch.no_grad():
            parameter.normal_(0, 0.3)
    return model, torch.randn(3, 3, *SIZES.get(name, (32, 32)))


def values_of(attn: Any, x: Tensor) -> Tensor:
    """v (N, heads, tokens, channels), by the module's own projection."""
    if getattr(attn, "qkv", None) is None:
        flat = attn.v_proj(x)
    else:
        bias = getattr(attn, "q_bias", None)
        if bias is not None:  # BEiT, EVA and Swin V2 keep the biases of q and v apart, and k has none
            bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
            flat = nn.functional.linear(x, attn.qkv.weight, bias).chunk(3, -1)[2]
        else:
            flat = attn.qkv(x).chunk(3, -1)[2]
    return flat.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)


def mixed(attn: Any, weights: Tensor, x: Tensor) -> Tensor:
    """What comes out of the module if these are the weights."""
    values = (weights @ values_of(attn, x)).transpose(1, 2).flatten(2)
    norm = getattr(attn, "norm", None)
    return attn.proj(values if norm is None else norm(values))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_give_the_module_s_own_output(name: str) -> None:
    model, images = build(name)
    model.eval()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = {path.removesuffix(".attn"): m for path, m in model.named_modules() if path.endswith(".attn")}
    for path, module in modules.items():
        module.register_forward_hook(lambda m, args, out, path=path: seen.update({path: (args[0], out)}))
    with torch.no_grad():
        model(images)
        usual = dict(seen)
        found = attention_weights(model, images)
        assert list(found) == list(modules)
        for path, weights in found.items():
            attn: Any = modules[path]
            x, output = usual[path]  # of the usual, fused pass
            torch.testing.assert_close(mixed(attn, weights, x), output, atol=1e-5, rtol=1e-5)
            uniform = torch.full_like(weights, 1 / weights.shape[-1])
            assert (mixed(attn, uniform, x) - output).abs().max() > 1e-3  # so the weights do matter


def brute_force(weights: Tensor, places: list[tuple[float, float] | None]) -> np.ndarray:
    """(heads,): the definition, in four loops; None is no patch."""
    patches = [token for token, place in enumerate(places) if place is not None]
    totals = np.zeros(weights.shape[1])
    for image in weights.double():
        for head, rows in enumerate(image):
            for q in patches:
                mass = sum(rows[q, k].item() for k in patches)
                far = sum(rows[q, k].item() * math.dist(places[q], places[k]) for k in patches)  # type: ignore[arg-type]
                totals[head] += far / mass / len(patches) / len(weights)
    return totals


@pytest.mark.parametrize("name", ["vit", "registers and norms of queries and keys", "no class token"])
def test_the_distance_is_its_definition_in_loops(name: str) -> None:
    model, images = build(name)
    found = mean_attended_distance(model, [images])
    prefix: int = model.num_prefix_tokens  # type: ignore[assignment]
    places: list[Any] = [None] * prefix + [(8 * row, 8 * column) for row in range(4) for column in range(4)]
    for block, weights in attention_weights(model, images).items():
        np.testing.assert_allclose(found.heads[found.blocks.index(block)], brute_force(weights, places), rtol=1e-5)
    assert found.images == 3
    assert found.matrix.shape == (2, 2)
    np.testing.assert_allclose(found.values, found.matrix.mean(1))


@pytest.mark.parametrize("name", ["swin", "swin that pads", "one window"])
def test_the_distance_in_windows_is_its_definition_in_loops(name: str) -> None:
    """The tokens' numbers, as a map, go through timm's own partition: nothing of ours says where they are."""
    model, images = build(name)
    found = mean_attended_distance(model, [images])
    for number, (block, weights) in enumerate(attention_weights(model, images).items()):
        module: Any = model.get_submodule(block)
        high, wide = module.input_resolution
        step = 2 * 2 ** int(block.split(".")[1])
        numbers = torch.arange(1.0, 1 + high * wide).view(1, high, wide, 1)
        rolled = torch.roll(numbers, (-module.shift_size[0], -module.shift_size[1]), (1, 2))
        extra = [-side % window for side, window in zip((high, wide), module.window_size, strict=True)]
        padded = nn.functional.pad(rolled, (0, 0, 0, extra[1], 0, extra[0]))
        windows = window_partition(padded, module.window_size).flatten(1).long() - 1
        expected, tokens = np.zeros(weights.shape[1]), 0
        for window, inside in enumerate(windows.tolist()):
            places = [None if i < 0 else (step * (i // wide), step * (i % wide)) for i in inside]
            here = sum(place is not None for place in places)
            expected += here * brute_force(weights[window :: len(windows)], places)
            tokens += here
        assert tokens == high * wide
        np.testing.assert_allclose(found.heads[number], expected / tokens, rtol=1e-5)
    if name != "one window":
        assert any(any(model.get_submodule(block).shift_size) for block in found.blocks)  # type: ignore[arg-type]
        with pytest.raises(
            AnalysisError, match=r"different numbers of heads \(layers.0.blocks.0: 2, .*: 4\): use `heads`"
        ):
            _ = found.matrix


def level_attention(model: nn.Module) -> None:
    """Makes all logits of every attention 0."""
    for module in model.modules():
        if hasattr(module, "qkv"):
            for parameter in module.parameters():
                parameter.data.zero_()


def test_uniform_attention_is_the_mean_distance_of_the_grid() -> None:
    model, images = build("vit")
    level_attention(model)
    places = [(8 * row, 8 * column) for row in range(4) for column in range(4)]
    expected = np.mean([math.dist(a, b) for a in places for b in places])
    found = mean_attended_distance(model, [images])
    np.testing.assert_allclose(found.matrix, np.full((2, 2), expected), rtol=1e-6)
    np.testing.assert_allclose(found.uniform, [expected, expected], rtol=1e-6)
    kept = mean_attended_distance(model, [images], prefix="zero")
    np.testing.assert_allclose(kept.matrix, np.full((2, 2), expected * 16 / 17), rtol=1e-6)
    np.testing.assert_allclose(kept.uniform, kept.values, rtol=1e-6)
    mean = mean_attended_distance(model, [images], reduce="mean")
    np.testing.assert_allclose(mean.matrix, np.full((2, 2), expected / 16), rtol=1e-6)
    wide = mean_attended_distance(model, [images], patch_size=(16, 16))
    np.testing.assert_allclose(wide.values, 2 * found.values, rtol=1e-6)


def test_uniform_attention_in_windows_is_what_the_masks_leave() -> None:
    model, images = build("swin")
    level_attention(model)
    found = mean_attended_distance(model, [images])
    np.testing.assert_allclose(found.uniform, found.values, rtol=1e-5)
    plain = np.mean([math.dist((a // 4, a % 4), (b // 4, b % 4)) for a in range(16) for b in range(16)])
    np.testing.assert_allclose(found.uniform[[0, 2]], [2 * plain, 4 * plain], rtol=1e-5)  # pixels: 2, then 4 a token
    assert (found.uniform[[1, 3]] < found.uniform[[0, 2]]).all()  # cut windows are smaller


def test_attention_to_itself_is_no_distance() -> None:
    model = vit(class_token=False, global_pool="avg", depth=1)
    attn: Any = model.blocks[0].attn
    torch.manual_seed(0)
    with torch.no_grad():
        attn.qkv.weight.copy_(torch.eye(16).repeat(3, 1))  # q = k
        attn.qkv.bias.zero_()
    attn.q_norm = attn.k_norm = Long()  # so that the softmax is one-hot
    found = mean_attended_distance(model, [torch.randn(2, 3, 32, 32)])
    np.testing.assert_allclose(found.matrix, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["registers and norms of queries and keys", "swin that pads"])
def test_batches_of_any_size_give_the_same(name: str) -> None:
    model, _ = build(name)
    images = torch.randn(5, 3, *SIZES.get(name, (32, 32)))
    whole = mean_attended_distance(model, [images])
    for sizes in ([1] * 5, [4, 1], [2, 3]):
        parts = mean_attended_distance(model, ((part, torch.zeros(len(part))) for part in images.split(sizes)))
        assert parts.images == whole.images == 5
        for one, other in zip(whole.heads, parts.heads, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)
        np.testing.assert_allclose(parts.uniform, whole.uniform, rtol=1e-6)


def test_images_of_other_sizes_and_shapes() -> None:
    model = vit(dynamic_img_size=True)
    found = mean_attended_distance(model, [torch.randn(1, 3, 16, 64)])
    places = [(8 * row, 8 * column) for row in range(2) for column in range(8)]
    assert found.uniform[0] == pytest.approx(np.mean([math.dist(a, b) for a in places for b in places]))
    both = mean_attended_distance(model, [torch.randn(1, 3, 16, 64), torch.randn(1, 3, 64, 16)])
    assert both.uniform[0] == pytest.approx(found.uniform[0])


def test_distilled_networks_and_the_networks_of_the_papers() -> None:
    model = create_model("deit_tiny_distilled_patch16_224", classes=2)
    found = mean_attended_distance(model, [torch.randn(1, 3, 224, 224)])
    assert found.blocks == tuple(f"blocks.{number}" for number in range(12))
    assert found.matrix.shape == (12, 3)
    assert found.uniform[0] == pytest.approx(116.1, abs=2)  # 0.5214 of the side of a square, continuous
    frame = found.frame()
    assert len(frame) == 36
    assert frame.groupby("block", sort=False)["value"].mean().to_numpy() == pytest.approx(found.values)


def test_half_precision() -> None:
    model, images = build("vit")
    exact = mean_attended_distance(model, [images])
    half = mean_attended_distance(model.bfloat16(), [images])
    np.testing.assert_allclose(half.values, exact.values, rtol=0.05)


def test_a_block_that_is_called_twice_is_two() -> None:
    model, images = build("vit")
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[0])  # type: ignore[index]
    found = mean_attended_distance(model, [images])
    assert found.blocks == ("blocks.0", "blocks.0:2")
    assert not np.allclose(*found.heads)


def test_the_network_inside_another_module() -> None:
    model, images = build("vit")
    inside = mean_attended_distance(nn.Sequential(model, nn.Softmax(1)), [images])
    assert inside.blocks == ("0.blocks.0", "0.blocks.1")
    np.testing.assert_allclose(inside.matrix, mean_attended_distance(model, [images]).matrix)


@pytest.mark.parametrize("name", ["vit", "swin", "swin v2"])
@pytest.mark.parametrize("breaks", [False, True])
def test_the_network_is_left_as_it_was(name: str, breaks: bool) -> None:
    model, images = build(name)
    model.train()
    model.get_submodule("norm").eval()
    before = copy.deepcopy(model.state_dict())
    attributes = [dict(vars(module)) | {"_modules": 0} for module in model.modules()]
    random = torch.get_rng_state()
    if breaks:
        with pytest.raises(RuntimeError, match="channels"):
            mean_attended_distance(model, [images[:, :2]])
    else:
        mean_attended_distance(model, [images])
    assert torch.equal(random, torch.get_rng_state())
    assert attributes == [dict(vars(module)) | {"_modules": 0} for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_errors() -> None:
    model, images = build("vit")
    supported = r"Supported are timm's vision transformers .*registers.* Swin V2"
    with pytest.raises(AnalysisError, match=r"Unknown reduce 'men': did you mean 'mean'\? Choices: sum, mean"):
        mean_attended_distance(model, [images], reduce="men")
    with pytest.raises(AnalysisError, match=r"Unknown prefix 'keep': Choices: drop, zero"):
        mean_attended_distance(model, [images], prefix="keep")
    with pytest.raises(AnalysisError, match=r"there are no batches"):
        mean_attended_distance(model, [])
    with pytest.raises(AnalysisError, match=r"patch_size=0: expected pixels, at least 1"):
        mean_attended_distance(model, [images], patch_size=0)
    with pytest.raises(AnalysisError, match=r"images have shape \(3, 32, 32\); expected \(N, C, H, W\)"):
        mean_attended_distance(model, [images[0]])
    with pytest.raises(AnalysisError, match=r"Sequential has no attention over patches .*" + supported):
        mean_attended_distance(nn.Sequential(nn.Conv2d(3, 2, 3)), [images])
    with pytest.raises(AnalysisError, match=r"Cait has no attention over patches"):  # it mixes heads after the softmax
        mean_attended_distance(Cait(img_size=32, patch_size=8, **SMALL), [images])
    with pytest.raises(AnalysisError, match=r"attention weights of 'blocks.0' sum to NaN over the keys; expected 1"):
        mean_attended_distance(model, [images * torch.nan])

    class Doubled(nn.Softmax):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    windows, images = build("swin")
    windows.layers[0].blocks[0].attn.softmax = Doubled(-1)  # type: ignore[index,union-attr]
    with pytest.raises(AnalysisError, match=r"'layers.0.blocks.0' sum to 2 to 2 over the keys"):
        mean_attended_distance(windows, [images])


def test_errors_of_tokens_without_a_place() -> None:
    class Fewer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :9]

    model, images = build("vit")
    model.norm_pre = Fewer()
    with pytest.raises(
        AnalysisError, match=r"'blocks.0' has 9 tokens; expected 1 \+ 4 x 4, the grid .* PatchEmbed cuts"
    ):
        mean_attended_distance(model, [images])

    model, images = build("vit")
    with torch.no_grad():
        for module in model.blocks.modules():  # type: ignore[union-attr]
            if hasattr(module, "qkv"):
                module.qkv.weight.zero_()  # type: ignore[union-attr]
    attn: Any = model.blocks[0].attn  # type: ignore[index,union-attr]
    attn.k_norm = ToClassToken()
    attn.q_norm = Ones()
    with pytest.raises(AnalysisError, match=r"'blocks.0' a token attends to no patch at all.* use prefix='zero'"):
        mean_attended_distance(model, [images])
    assert mean_attended_distance(model, [images], prefix="zero").values[0] == 0


class Long(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 100 * nn.functional.normalize(x, dim=-1)


class Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


class ToClassToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x).index_fill(2, torch.arange(1, x.shape[2]), -1e4)


def test_a_hybrid_s_patches_are_as_large_as_what_they_see() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU())
    stem.num_features = 8  # type: ignore[assignment]
    model = vit(embed_layer=partial(HybridEmbed, backbone=stem, feature_size=(16, 16), feature_ratio=(2, 2)))
    found = mean_attended_distance(model, [torch.randn(1, 3, 32, 32)])
    other = mean_attended_distance(vit(img_size=32, patch_size=16), [torch.randn(1, 3, 32, 32)])
    assert found.uniform[0] == pytest.approx(other.uniform[0])
