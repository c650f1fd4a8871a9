"""Dealing out groups of samples (patients) so that labels stay evenly spread; on counts, knowing no data set."""

from __future__ import annotations

import numpy as np

_FEW_GROUPS, _PASSES = 5000, 5  # evening out is for few groups: many are even already


def stratified_assignment(counts: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign groups to parts so that each part gets its fraction of every label, as nearly as whole groups allow.

    Iterative stratification (Sechidis et al., ECML 2011) on groups instead of samples: the rarest label is dealt out
    first, each of its groups to the part that lacks most of it. One rule is added: the last groups of a label go to
    parts that have none of it, so that a label in at least as many groups as there are parts is in all of them.

    Args:
        counts: `(G, K)` how many samples of each label a group has; the last column counts all its samples.
        fractions: `(P,)`, positive, adding up to 1.
        rng: breaks ties.

    Returns:
        `(G,)` the part of each group.
    """
    groups, labels = counts.shape
    assigned = np.full(groups, -1)
    wanted = fractions[:, None] * counts.sum(axis=0)[None, :].astype(float)
    has = np.zeros((len(fractions), labels), bool)
    order = rng.permutation(groups)
    # Large groups first: small ones can still even out what they leave.
    order = order[np.argsort(-counts[order, -1], kind="stable")]
    open_groups = np.array([np.count_nonzero(counts[:, label]) for label in range(labels)])
    while (assigned < 0).any():
        label = int(np.argmin(np.where(open_groups > 0, open_groups, groups + 1)))
        for group in order[(assigned[order] < 0) & (counts[order, label] > 0)]:
            lacking = ~has[:, label]
            candidates = (
                np.flatnonzero(lacking) if 0 < lacking.sum() >= open_groups[label] else np.arange(len(fractions))
            )
            best = max(
                candidates.tolist(), key=lambda part: (round(wanted[part, label], 9), round(wanted[part, -1], 9))
            )
            assigned[group] = best
            wanted[best] -= counts[group]
            has[best] |= counts[group] > 0
            open_groups -= counts[group] > 0
    if groups <= _FEW_GROUPS:
        _even_out(assigned, counts, wanted)
    return assigned


def _even_out(assigned: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> None:
    """Move single groups as long as that brings the parts nearer to what they want of each label (in place)."""
    parts, scale = np.arange(len(wanted)), np.maximum(counts.sum(axis=0), 1)
    holders = np.stack([(counts[assigned == part] > 0).sum(axis=0) for part in parts])  # groups that have a label
    for _ in range(_PASSES):
        moved = False
        for group in range(len(assigned)):
            home, own = assigned[group], counts[group]
            if ((own > 0) & (holders[home] == 1)).any():
                continue  # it is the part's only group with one of its labels
            gain = ((wanted[home] / scale) ** 2 - ((wanted[home] + own) / scale) ** 2).sum()
            change = (((wanted - own) / scale) ** 2 - (wanted / scale) ** 2).sum(axis=1) - gain
            change[home] = 0.0
            best = int(np.argmin(change))
            if change[best] < -1e-12:
                assigned[group], moved = best, True
                wanted[home] += own
                wanted[best] -= own
                holders[home] -= own > 0
                holders[best] += own > 0
        if not moved:
            return


def nested_groups(counts: np.ndarray, pool: np.ndarray, seed: int, fraction: float) -> np.ndarray:
    """A share of the groups of each stratum (its rarest label), at least one; a smaller share is inside a larger one.

    Args:
        counts: `(G, K + 1)` as in `stratified_assignment`.
        pool: the groups to choose from.
        seed: another seed is another choice.
        fraction: the share, above 0 and at most 1.
    """
    own = counts[pool, :-1]
    frequency = np.where((own > 0).any(axis=0), (own > 0).sum(axis=0), len(pool) + 1)
    stratum = np.argmin(np.where(own > 0, frequency, len(pool) + 2), axis=1)
    position = np.empty(len(pool))
    for name in np.unique(stratum):
        members = np.flatnonzero(stratum == name)
        shuffled = np.random.default_rng([seed, 2, int(name)]).permutation(members)
        position[shuffled] = (np.arange(len(members)) + 0.5) / len(members)
        position[shuffled[0]] = 0.0
    return pool[position <= fraction]
