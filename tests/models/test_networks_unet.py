"""U-Nets: an encoder that is torchvision's ResNet, and maps instead of logits."""

from __future__ import annotations

import sys

import pytest
import torch

from transfuse.errors import SpecError
from transfuse.models import create_model


@pytest.mark.parametrize(("encoder", "channels"), [("resnet18", 1), ("resnet34", 3), ("resnet50", 4)])
@pytest.mark.parametrize("side", [64, 50])
def test_one_map_a_class_in_the_size_of_the_images(encoder: str, channels: int, side: int) -> None:
    model = create_model(f"unet_{encoder}", 4, channels, device="meta").eval()
    assert model(torch.zeros(2, channels, side, side, device="meta")).shape == (2, 4, side, side)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50"])
def test_weights_of_a_resnet_fit_the_encoder(encoder: str) -> None:
    import torchvision.models

    weights = getattr(torchvision.models, encoder)().state_dict()
    model = create_model(f"unet_{encoder}", 2)
    missing, unexpected = model.load_state_dict(
        {f"encoder.{key}": value for key, value in weights.items()}, strict=False
    )
    assert unexpected == ["encoder.fc.weight", "encoder.fc.bias"]
    assert all(key.startswith(("decoder.", "segmentation_head.")) for key in missing)


def test_published_size_of_the_encoder_of_unet_resnet34() -> None:
    model = create_model("unet_resnet34", 1, device="meta")
    encoder = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoder."))
    assert encoder == 21_797_672 - 513_000  # torchvision's ResNet-34 without its 1000-way head


def test_without_the_package_the_error_holds_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(SpecError, match=r"'segmentation_models_pytorch' .*pip install 'transfuse\[segmentation\]'"):
        create_model("unet_resnet34", 2)


def test_padding_is_no_choice() -> None:
    with pytest.raises(SpecError, match=r"padding='same': 'unet_resnet34' has no choice of padding"):
        create_model("unet_resnet34", 2, padding="same")
