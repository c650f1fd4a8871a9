"""Cuts ranked without training: what is measured at a cut, a planted depth, real weights, degenerate input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis import CutRanking, rank_cuts
from transfuse.analysis.before_head import before_head
from transfuse.analysis.cut_ranking import _one_pass, cut_points
from transfuse.analysis.logme import logme
from transfuse.errors import AnalysisError, AnalysisWarning, BlocksError, DataError, SpecError
from transfuse.models import Block, Blocks, blocks_of, create_model, truncate
from transfuse.models.complexity import complexity
from transfuse.models.create import import_timm


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(name: str) -> nn.Module:
    import_timm()
    tiny: dict[str, Any] = {"num_classes": 3, "img_size": 64, "embed_dim": 24, "depth": 3, "num_heads": 2}
    if name.startswith("vit"):
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(patch_size=16, **tiny, **({"global_pool": "avg"} if name == "vit_average" else {}))
    if name == "distilled":
        from timm.models.deit import VisionTransformerDistilled

        return VisionTransformerDistilled(patch_size=16, **tiny)
    if name == "swin":
        from timm.models.swin_transformer import SwinTransformer

        sizes: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 2, 4)}
        return SwinTransformer(img_size=64, window_size=4, num_classes=3, **sizes)
    if name == "convnext":
        from timm.models.convnext import ConvNeXt

        return ConvNeXt(depths=(1, 2, 2, 1), dims=(8, 12, 16, 20), num_classes=3)
    if name == "resnet_3d":
        pytest.importorskip("monai")
        from monai.networks.nets.resnet import ResNet

        return ResNet("basic", [1, 2, 1, 1], [4, 8, 12, 16], n_input_channels=3, num_classes=3, bias_downsample=False)
    return create_model(name, classes=3)


def seen_by_the_head(model: nn.Module, head: str, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    return seen[-1].flatten(1)


FAMILIES = (
    *("cbr_demo", "test_resnet", "test_efficientnet", "vit", "vit_average", "distilled", "swin", "convnext"),
    "resnet_3d",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_is_measured_by_what_the_head_of_the_truncated_network_sees(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small(name)
        for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)  # norms that stay are seen
    images = draw((4, 3, 32, 32, 32) if name == "resnet_3d" else (4, 3, 64, 64))
    blocks, modes = blocks_of(model, "block"), [module.training for module in model.modules()]
    depths = cut_points(blocks)
    vectors, target, macs = _one_pass(model, [(images[:3], [0, 1, 0]), (images[3:], [1])], blocks, depths, None)
    assert [module.training for module in model.modules()] == modes
    assert target.tolist() == [0, 1, 0, 1]
    assert macs == 4 * complexity(model, images.shape[-1]).macs
    for depth in depths:
        short = model if depth == len(blocks) else truncate(model, blocks, depth, 3, image_size=images.shape[-1])
        expected = seen_by_the_head(copy.deepcopy(short), blocks.head[0], images)
        torch.testing.assert_close(torch.cat(vectors[blocks[depth - 1].name]), expected, rtol=1e-4, atol=1e-5)


class Planted(nn.Module):
    """Four layers, the third of which loses the channel that tells the label."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1, bias=False) for _ in range(4)])
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.eye(4)[:, :, None, None])
            self.layers[2].weight[0] = 0

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images)
        return self.head(images.mean((2, 3)))


PLANTED = Blocks("block", tuple(Block(f"l{i}", (f"layers.{i}",), f"layers.{i}") for i in range(4)), ("head",))


def planted(count: int = 120, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Images whose first channel says the label; two images a patient, of one label."""
    images = draw((count, 4, 3, 3), seed)
    labels = np.arange(count) // 2 % 2
    images[:, 0] += 2 * torch.from_numpy(labels)[:, None, None] - 1
    return images, labels, np.arange(count) // 2


def ranked(model: nn.Module, images: Tensor, labels: np.ndarray, patients: np.ndarray, **options: Any) -> CutRanking:
    return rank_cuts(model, [(images, torch.from_numpy(labels))], PLANTED, patients, k=9, **options)


def test_all_three_find_the_depth_from_which_the_label_is_lost() -> None:
    found = ranked(Planted(), *planted())
    for score in ("probe", "knn"):
        values = [getattr(cut, score) for cut in found.cuts]
        assert min(values[:2]) > 0.9
        assert max(values[2:]) < 0.7
    evidences = [cut.logme for cut in found.cuts]
    assert min(evidences[:2]) > max(evidences[2:]) + 0.1
    assert {found.order(by)[0] for by in ("probe", "knn", "logme")} == {"l0"}  # of equal ones the lower
    assert [cut.depth for cut in found.cuts] == [1, 2, 3, 4]
    frame = found.frame()
    assert list(frame) == ["block", "depth", "width", "metric", "probe", "knn", "logme"]
    assert frame["width"].tolist() == [4, 4, 4, 4]
    assert found.macs == found.forward_macs + found.scoring_macs
    assert found.forward_macs == 120 * (4 * 4 * 4 * 9 + 8)
    interval = found.interval("l0")
    assert interval.low < found.cuts[0].probe <= interval.high
    assert interval.value == pytest.approx(found.cuts[0].probe)
    assert interval.n == 60


def test_batches_do_not_matter_and_the_same_is_found_again() -> None:
    images, labels, patients = planted()
    first = ranked(Planted(), images, labels, patients)
    parts = list(zip(images.split(7), torch.from_numpy(labels).split(7), strict=True))
    again = rank_cuts(Planted().train(), parts, PLANTED, [f"p{one:03d}" for one in patients], k=9)
    np.testing.assert_allclose(
        first.frame()[["probe", "knn", "logme"]], again.frame()[["probe", "knn", "logme"]], atol=1e-6
    )
    assert first.cuts[0].logme == pytest.approx(logme(images.mean((2, 3)), labels), abs=1e-5)


def test_labels_with_gaps_many_classes_and_grades() -> None:
    images, labels, patients = planted()
    many = np.column_stack([labels, np.arange(120) % 3 == 0]).astype(float)
    many[::5, 0] = np.nan
    found = ranked(Planted(), images, many, patients)
    assert found.scores["l1"].shape == (120, 2)
    assert found.cuts[1].probe > found.cuts[2].probe + 0.1
    grades = labels + (images[:, 1].mean((1, 2)).numpy() > 0.3)
    graded = ranked(Planted(), images, grades, patients, metric="kappa")
    assert graded.cuts[0].probe > graded.cuts[3].probe + 0.2
    assert graded.scores["l0"].shape == (120, 3)
    worse = ranked(Planted(), images, grades, patients, metric="brier")
    assert worse.order()[0] in ("l0", "l1")  # a lower score is better
    assert worse.cuts[0].probe < worse.cuts[3].probe


def test_a_class_of_one_patient_is_left_out_everywhere() -> None:
    images, labels, patients = planted()
    labels = labels.copy()
    labels[:2] = 2
    with pytest.warns(AnalysisWarning, match=r"class 2 \(1 patient\)"):
        found = ranked(Planted(), images, labels, patients)
    assert len(found.held.rows) == 118
    rest = ranked(Planted(), images[2:], labels[2:], patients[2:])
    assert found.cuts[0].logme == pytest.approx(rest.cuts[0].logme, abs=1e-6)


def test_a_cut_of_dead_features_has_no_score_and_the_others_have() -> None:
    images, labels, patients = planted(40)
    dead = copy.deepcopy(Planted())
    nn.init.zeros_(dead.layers[2].weight)
    with pytest.warns(AnalysisWarning, match="at l2.* no feature varies over the images, so these cuts have no score"):
        found = ranked(dead, images, labels, patients)
    whole = ranked(Planted(), images, labels, patients)
    scored = [cut for cut in found.cuts if not np.isnan(cut.probe)]
    assert [cut.block for cut in scored] == ["l0", "l1"]
    assert scored == list(whole.cuts[:2])
    assert found.order() == tuple(block for block in whole.order() if block in ("l0", "l1"))
    assert set(found.scores) == {"l0", "l1"}


def test_what_cannot_be_ranked() -> None:
    images, labels, patients = planted(40)
    model = Planted()
    gone = images.clone()
    gone[3, 0, 0, 0] = torch.nan
    with pytest.raises(AnalysisError, match="at no cut does a feature vary over 40 images"):
        ranked(model, torch.ones_like(images), labels, patients)
    with pytest.raises(AnalysisError, match=r"'l0' has .* activations that are NaN"):
        ranked(model, gone, labels, patients)
    with pytest.raises(AnalysisError, match="expected at least two classes"):
        ranked(model, images, np.zeros(40, int), patients)
    with pytest.raises(AnalysisError, match=r"patients have shape \(39,\) for 40 targets"):
        ranked(model, images, labels, patients[1:])
    with pytest.raises(AnalysisError, match="a batch of the training images is a Tensor"):
        rank_cuts(model, [images], PLANTED)
    with pytest.raises(AnalysisError, match="training images: there are no batches"):
        rank_cuts(model, [], PLANTED)
    with pytest.raises(AnalysisError, match="unknown view 'clss' of a cut: did you mean 'cls'"):
        ranked(model, images, labels, patients, view="clss")
    with pytest.raises(AnalysisError, match="needs a class token"):
        ranked(model, images, labels, patients, view="cls")
    with pytest.raises(AnalysisError, match="k is 0"):
        rank_cuts(model, [(images, labels)], PLANTED, k=0)
    with pytest.raises(SpecError, match="unknown metric 'aurok'"):
        ranked(model, images, labels, patients, metric="aurok")
    with pytest.raises(DataError, match="ranked by referable_auroc"):
        ranked(model, images, labels, patients, metric="referable_auroc")
    with pytest.raises(BlocksError, match="no owner"):
        rank_cuts(model, [(images, labels)], Blocks("block", PLANTED.items[:2], ("head",)))
    found = ranked(model, images, labels, patients)
    with pytest.raises(AnalysisError, match="no cut at 'l9': Choices: l0, l1"):
        found.interval("l9")
    with pytest.raises(AnalysisError, match="unknown score 'log' of cuts"):
        found.order("log")


def test_a_head_that_sees_something_else_needs_a_view() -> None:
    class Highest(Planted):
        def forward(self, images: Tensor) -> Tensor:
            for layer in self.layers:
                images = layer(images)
            return self.head((images * torch.ones(4)[:, None, None]).amax((2, 3)))  # made here: no pass without data

    images, labels, patients = planted(40)
    with pytest.raises(
        AnalysisError, match=r"of this Highest sees is no mean over space and no class token.*view='pooled'"
    ):
        ranked(Highest(), images, labels, patients)
    found = ranked(Highest(), images, labels, patients, view="pooled")
    assert found.cuts[0].probe > 0.9
    assert found.forward_macs == 40 * (4 * 4 * 4 * 9 + 8)
    assert before_head(Planted(), PLANTED, images).view == "pooled"


def test_norms_on_top_are_no_cut_of_their_own() -> None:
    blocks = blocks_of(small("vit"), "block")
    assert blocks[-1].stays
    assert [blocks[depth - 1].name for depth in cut_points(blocks)][-1] == "blocks.2"


def test_real_weights_rank_the_middle_of_a_network_above_its_ends(real_data: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(real_data / "weights" / "mobilenetv2_100" / "mobilenetv2_100_imagenet1k.safetensors")
    arrays = np.load(real_data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz")
    rows = np.random.default_rng(0).permutation(4708)[:200]
    small_images = torch.from_numpy(arrays["train_images"][rows]).float()[:, None] / 127.5 - 1
    images = nn.functional.interpolate(small_images, size=64, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.from_numpy(arrays["train_labels"][rows].ravel().astype(int))
    model = create_model("mobilenetv2_100", classes=2)
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    model.load_state_dict(body, strict=False)
    batches = list(zip(images.split(50), labels.split(50), strict=True))
    found = rank_cuts(model, batches, blocks_of(model, "stage")).frame().set_index("block")
    assert found["width"].iloc[-1] == 1280
    assert found["probe"].iloc[0] < 0.85  # the stem
    assert found["probe"].max() > 0.94
    for score in ("probe", "knn", "logme"):
        assert found[score].idxmax() not in (found.index[0], found.index[-1]), score
