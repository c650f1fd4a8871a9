from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from transfuse.data import class_weights
from transfuse.errors import TrainingError
from transfuse.training.losses import loss_for, loss_name, probabilities_of, sigmoid_loss, softmax_loss

NAN = float("nan")


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def target() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 2, 0, 1, 1, 0])


def test_softmax_loss_is_the_log_loss_of_the_probabilities(logits: torch.Tensor, target: torch.Tensor) -> None:
    scores = probabilities_of(logits.double(), "softmax").detach()
    assert softmax_loss(logits, target).item() == pytest.approx(log_loss(target, scores), abs=1e-6)


def test_class_weights_are_sample_weights(logits: torch.Tensor, target: torch.Tensor) -> None:
    weights = np.array([0.5, 1.0, 4.0])
    scores = probabilities_of(logits.double(), "softmax").detach()
    loss = loss_for("softmax", task="multiclass", classes=3, class_weights=weights)
    expected = log_loss(target, scores, sample_weight=weights[target.numpy()])
    assert loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_sigmoid_loss_of_grades_is_the_mean_of_one_binary_loss_a_grade(
    logits: torch.Tensor, target: torch.Tensor
) -> None:
    scores = probabilities_of(logits, "sigmoid").detach().double().numpy()
    expected = np.mean([log_loss(target.numpy() == grade, scores[:, grade]) for grade in range(3)])
    assert sigmoid_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_sigmoid_loss_weighs_images_by_their_class(logits: torch.Tensor, target: torch.Tensor) -> None:
    weight = torch.tensor([0.5, 1.0, 4.0])
    each = torch.stack([sigmoid_loss(logits[i : i + 1], target[i : i + 1]) for i in range(8)])
    expected = (each * weight[target]).sum() / weight[target].sum()
    torch.testing.assert_close(sigmoid_loss(logits, target, weight), expected)


def test_unlabelled_outputs_take_no_part() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    target = torch.tensor([[1.0, NAN], [NAN, 0.0]])
    loss = sigmoid_loss(logits, target)
    loss.backward()
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [True, False]]


def test_a_batch_without_any_label_has_no_loss_and_no_gradient() -> None:
    logits = torch.ones(2, 2, requires_grad=True)
    loss = sigmoid_loss(logits, torch.full((2, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_balanced_multilabel_weights_give_both_sides_the_same_pull() -> None:
    target = np.array([[1.0], [0.0], [0.0], [0.0], [NAN]], dtype=np.float32)
    weights = class_weights(target, "multilabel", ("finding",))
    logits = torch.zeros(5, 1, requires_grad=True)
    loss_for("auto", task="multilabel", classes=1, class_weights=weights)(logits, torch.from_numpy(target)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].item() == pytest.approx(-logits.grad[1:4].sum().item())


def test_sigmoid_probabilities_do_not_compete(logits: torch.Tensor) -> None:
    scores = probabilities_of(logits, "sigmoid")
    torch.testing.assert_close(scores, 1 / (1 + torch.exp(-logits)))
    assert not torch.allclose(scores.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("name", "task", "weights", "message"),
    [
        (
            "softmaxx",
            "multiclass",
            None,
            r"loss 'softmaxx' is unknown: did you mean 'softmax'\? Choices: auto, softmax",
        ),
        ("softmax", "multilabel", None, "'softmax' needs one class an image, and the data are multilabel: use 'sigm"),
        ("sigmoid", "segmentation", None, "'sigmoid' is for labels of images, and the data are masks .*'dice_ce'"),
        ("dice_ce", "binary", None, "'dice_ce' needs masks, and the task of the data is 'binary'"),
        ("dice", "segmentation", None, r"loss 'dice' is unknown: did you mean 'dice_ce'\?"),
        ("auto", "multiclass", [1.0, 2.0], r"class_weights has shape \(2,\); expected one number for each of the 3"),
        ("auto", "multiclass", [1.0, 2.0, -1.0], r"class_weights is \[1.0, 2.0, -1.0\]; expected finite numbers above"),
        ("auto", "multiclass", [1.0, 2.0, NAN], "expected finite numbers above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, task: str, weights: list[float] | None, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        loss_for(name, task=task, classes=3, class_weights=weights)


def test_auto_follows_the_task() -> None:
    assert [loss_name("auto", task) for task in ("binary", "ordinal", "multilabel", "segmentation")] == [
        "softmax",
        "softmax",
        "sigmoid",
        "dice_ce",
    ]
