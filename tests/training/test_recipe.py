from __future__ import annotations

import pytest
import torch

from transfuse.data import AUGMENTATIONS
from transfuse.errors import TrainingError
from transfuse.training import RECIPES, Recipe, Stopping


@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_recipes_augment_with_what_there_is(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.augmentation() is AUGMENTATIONS[str(recipe.augment)]


def test_the_papers_numbers() -> None:
    # METHODS OPT-1 to OPT-6b: optimiser, rate, batch, decay
    found = {
        name: (r.optimizer.name, r.optimizer.learning_rate, r.batch_size, r.optimizer.weight_decay, r.loss)
        for name, r in RECIPES.items()
    }
    assert found == {
        "retina": ("adam", 1e-3, 8, 0, "sigmoid"),
        "chexpert": ("sgd", 0.1 * 32 / 256, 32, 0, "sigmoid"),
        "chestxray14": ("adam", 1e-4, 128, 1e-5, "sigmoid"),
        "cifar": ("sgd", 0.1, 128, 5e-4, "auto"),
        "matsoukas": ("adam", 1e-4, 64, 1e-5, "auto"),
        "peng": ("adam", 1e-4, 64, 0, "auto"),
        "peng-code": ("adam", 1e-4, 64, 0, "auto"),
    }
    assert (RECIPES["peng"].stopping.min_learning_rate, RECIPES["peng-code"].stopping.min_learning_rate) == (1e-7, 1e-6)


def test_the_direction_of_the_monitor() -> None:
    assert [Recipe(monitor=name).higher_is_better for name in ("auroc", "loss", "ece")] == [True, False, False]


def test_no_augmentation_and_a_foreign_one() -> None:
    def darker(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images / 2

    assert Recipe().augmentation() is None
    assert Recipe(augment=darker).augmentation() is darker


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "sigmoyd"}, r"the loss 'sigmoyd' is unknown: did you mean 'sigmoid'\?"),
        ({"monitor": "aurocc"}, r"the monitor 'aurocc' is unknown: did you mean 'auroc'\? Choices: loss, auroc"),
        ({"precision": "fp8"}, r"the precision 'fp8' is unknown: .*Choices: no, bf16, fp16"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more images"),
        ({"validate_every": 0}, r"validate_every is 0; expected steps \(int\) or a fraction of an epoch \(float\)"),
        ({"validate_every": True}, "validate_every is True; expected steps"),
        ({"augment": "cifar", "augmentation_bank": 0}, "augmentation_bank is 0; expected 1 or more views, or None"),
        ({"augmentation_bank": 2}, "augmentation_bank holds views of an augmentation; give augment too"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Recipe(**arguments)


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"augmentation 'funduss' is unknown: did you mean 'fundus'\?"):
        Recipe(augment="funduss").augmentation()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience is 0; expected 1 or more validations, or None"),
        ({"min_learning_rate": -1.0}, "min_learning_rate is -1.0; expected 0 or more"),
    ],
)
def test_stopping_that_cannot_be_meant_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Stopping(**arguments)
