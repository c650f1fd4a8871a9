"""What `show models` says of networks is what they are."""

from __future__ import annotations

import pytest

from transfuse.errors import BlocksError
from transfuse.models import LEVELS, PUBLISHED_NETWORKS, blocks_of, create_model, list_models

CASES = [(name, row) for row in PUBLISHED_NETWORKS for name in row.names]


@pytest.mark.parametrize(("name", "row"), CASES, ids=[f"{name}-{row.spatial_dims}d" for name, row in CASES])
def test_it_can_be_created_and_is_cut_at_the_levels_that_are_listed(name: str, row) -> None:  # type: ignore[no-untyped-def]
    assert name in list_models(name, spatial_dims=row.spatial_dims)
    model = create_model(name, 5, 3, row.spatial_dims, device="meta")
    for level in LEVELS:
        if level in row.levels:
            assert len(blocks_of(model, level)) > 1
        else:
            with pytest.raises(BlocksError, match="is not defined for"):
                blocks_of(model, level)
