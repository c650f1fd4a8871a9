from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transfuse.data import Split, ten_crop
from transfuse.errors import TrainingError
from transfuse.training import predict


def test_probabilities_do_not_depend_on_the_batch_size(network: Callable[..., nn.Module], split: Split) -> None:
    model = network()
    model(split.train.normalise(split.train.tensors(np.arange(32))))  # batch-norm statistics that are not the identity
    whole = predict(model, split.train)
    assert whole.shape == (len(split.train), 3)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert np.ptp(whole[:, 0]) > 1e-3
    for batch_size in (1, 7, len(split.train)):
        np.testing.assert_allclose(predict(model, split.train, batch_size=batch_size), whole, atol=1e-6)


def test_nothing_of_the_network_changes(network: Callable[..., nn.Module], split: Split) -> None:
    model = network()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    predict(model, split.val)
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)


def test_probabilities_follow_the_order_of_the_part(network: Callable[..., nn.Module], split: Split) -> None:
    model = network().eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in split.test.batches(8)])
    np.testing.assert_allclose(predict(model, split.test), torch.softmax(logits, 1), atol=1e-6)
    np.testing.assert_allclose(predict(model, split.test, probabilities="sigmoid"), torch.sigmoid(logits), atol=1e-6)


def test_multilabel_data_get_sigmoids(network: Callable[..., nn.Module], multilabel_split: Split) -> None:
    model = network(classes=2)
    automatic = predict(model, multilabel_split.val)
    np.testing.assert_array_equal(automatic, predict(model, multilabel_split.val, probabilities="sigmoid"))
    with pytest.raises(TrainingError, match="'softmax' needs one class an image, and the data are multilabel"):
        predict(model, multilabel_split.val, probabilities="softmax")


@pytest.mark.parametrize("batch_size", [256, 10, 1])
def test_ten_crops_are_the_mean_of_ten_probabilities(
    network: Callable[..., nn.Module], split: Split, batch_size: int
) -> None:
    model = network().eval()
    crops = ten_crop(split.test.tensors(np.arange(len(split.test))), 14)  # 7/8 of 16
    with torch.no_grad():
        each = []
        for i in range(10):
            images = F.interpolate(crops[:, i], (16, 16), mode="bilinear", antialias=True)
            each.append(torch.softmax(model(split.test.normalise(images)), 1))
    ten = predict(model, split.test, crops="ten", batch_size=batch_size)
    np.testing.assert_allclose(ten, torch.stack(each).mean(0), atol=1e-6)
    assert not np.allclose(ten, predict(model, split.test), atol=1e-4)


def test_a_named_device_is_left_again(network: Callable[..., nn.Module], split: Split) -> None:
    model = network()
    np.testing.assert_array_equal(predict(model, split.val, device="cpu"), predict(model, split.val))
    assert next(model.parameters()).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crops": "tenn"}, r"the crops 'tenn' are unknown: did you mean 'ten'\? Choices: center, ten"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more images"),
        ({"probabilities": "softmaxx"}, "the loss 'softmaxx' is unknown: did you mean 'softmax'"),
        ({"device": "gpu"}, "the device 'gpu' is unknown"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    network: Callable[..., nn.Module], split: Split, arguments: dict, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        predict(network(), split.val, **arguments)


def test_an_empty_part_and_a_wrong_head_are_refused(
    network: Callable[..., nn.Module], split: Split, part_of: Callable
) -> None:
    with pytest.raises(TrainingError, match="the part to predict is empty: expected at least one image"):
        predict(network(), part_of(0))
    message = (
        r"output for 16 images has shape \(16, 5\); expected \(16, 3\), one logit a class: create_model\(\.\.\., clas"
    )
    with pytest.raises(TrainingError, match=message):
        predict(network(classes=5), part_of(16))
