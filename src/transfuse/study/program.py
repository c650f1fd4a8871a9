"""A trained network as a program that torch runs by itself: `network.pt2`, from images in [0, 1] to probabilities."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.errors import StoreError
from transfuse.results.store import Store, replacing

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "network.pt2"

HOW = """
## How to run it without transfuse

`network.pt2` is the whole network as a program of torch alone. It takes images `(N, {shape})` as
float32 in [0, 1], prepared as said above but for the normalisation, which it does itself, and gives probabilities
`(N, {probabilities})`:

```python
import torch

network = torch.export.load("network.pt2").module()
probabilities = network(torch.rand(2, {shape}))
```
"""


def write_program(store: Store, run_id: str, folder: Path) -> Path:
    """Write a finished run's network as a program beside its exported weights, and say so in their card.

    The program is traced by `torch.export` in eval mode, for any number of images; it is checked against the network
    before it is left there.

    Args:
        store: where the run is.
        run_id: of a finished run.
        folder: where `results.export` wrote weights and card.

    Raises:
        StoreError: the file cannot be written, or what it holds does not give the network's output.
    """
    import torch

    from transfuse.models.torchvision_operators import declare_operators

    declare_operators()
    network, example = _with_normalisation(store, run_id)
    network.requires_grad_(False)
    batch = torch.export.Dim("batch", min=1, max=65536)
    with torch.no_grad():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        except Exception as error:  # whatever torch says of a network that it cannot trace
            raise StoreError(
                f"torch cannot write the network of run {run_id} as a program ({type(error).__name__}: {error}); its "
                f"weights and card are in {folder}"
            ) from error
        before, after = network(example[:1]), program.module()(example[:1])
    if not torch.allclose(before, after, atol=1e-5):
        raise StoreError(f"the program of run {run_id} does not give its network's output; use the weights instead")
    path = folder / PROGRAM
    content = io.BytesIO()
    torch.export.save(program, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
    card = folder / "README.md"
    if card.exists():
        shape = ", ".join(map(str, example.shape[1:]))
        with replacing(card) as temporary:
            probabilities = ", ".join(map(str, before.shape[1:]))
            said = HOW.format(shape=shape, probabilities=probabilities)
            temporary.write_text(card.read_text(encoding="utf-8").rstrip() + "\n" + said, encoding="utf-8")
    return path


def _with_normalisation(store: Store, run_id: str) -> tuple[Any, Tensor]:
    """The network of a run between its normalisation and its probabilities, and two images."""
    import torch

    from transfuse.models import load_weights
    from transfuse.results.card import NORMALISATIONS
    from transfuse.specs import InitSpec, ModelSpec
    from transfuse.study.network import Images, skeleton
    from transfuse.training.losses import loss_name, probabilities_of

    record = store.record(run_id)
    if record is None or record.status != "finished":
        raise StoreError(f"the run {run_id} has not finished, so it has no network to write")
    content = json.loads((store.run_folder(run_id) / "spec.json").read_text(encoding="utf-8"))
    identity, names, data = content["identity"], content["names"], json.loads(record.facts["data"])
    images = Images(len(data["classes"]), data["channels"], data["image_size"], data.get("spatial_dims", 2))
    shape = ("level", "truncate", "pool", "slim", *(("head",) if "truncate" in identity["init"] else ()))
    init = {key: identity["init"][key] for key in shape if key in identity["init"]}
    spec = ModelSpec(name=names["network"], padding=identity["model"].get("padding"))
    model = skeleton(spec, InitSpec(**init), images)
    model.load_state_dict(dict(load_weights(str(store.run_folder(run_id) / "best.safetensors"))))
    normalise = identity["data"]["normalise"]
    mean, std = NORMALISATIONS[normalise, images.channels] if isinstance(normalise, str) else normalise
    loss = loss_name(identity["train"]["loss"], data["task"])
    maps = data["task"] == "segmentation"

    class Network(torch.nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = model
            self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, *(1,) * images.spatial_dims))
            self.register_buffer("std", torch.tensor(std).reshape(1, -1, *(1,) * images.spatial_dims))

        def forward(self, images: Tensor) -> Tensor:
            logits = self.network((images - self.mean) / self.std)
            return torch.softmax(logits, dim=1) if maps else probabilities_of(logits, loss)  # of maps (N, C, *sides)

    generator = torch.Generator().manual_seed(0)
    return Network().eval(), torch.rand(2, images.channels, *(images.size,) * images.spatial_dims, generator=generator)
