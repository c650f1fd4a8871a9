"""Every published initialisation and protocol as lines of a study file, to copy from."""

from __future__ import annotations

from typing import NamedTuple

T = "Raghu et al. 2019"
V = "Raghu et al. 2019, first version"
M = "Matsoukas et al. 2022"
P = "Peng et al. 2023"


class Protocol(NamedTuple):
    """A published way to start or to train a network.

    Fields:
        name: what it is called.
        lines: keys of a study file, as YAML: arms, and where one is needed train and sources. Block names are those of
            ResNets and of transformers (`blocks.4`); `transfuse show blocks NETWORK` lists those of others.
        source: who published it, and where.
    """

    name: str
    lines: str
    source: str


PROTOCOLS = (
    Protocol("random init", "arms: {random: {}}", f"{T}, {M}; which distribution: `random:`"),
    Protocol("full fine-tuning, WT", "arms: {pretrained: {depth: all}}", "all the papers"),
    Protocol(
        "Mean Var init of the weights",
        "arms: {mean_var: {rest: mean_var, biases: random}}",
        f"{T}, app. F; {V}, 4.1",
    ),
    Protocol("Mean Var of weights and biases, ST", "arms: {st: {rest: mean_var}}", f"{M}, app. H"),
    Protocol(
        "Mean Var, batch norm resampled",
        "arms: {bn_mean_var: {rest: mean_var, norm: mean_var}}",
        f"{T}, app. F.1; {V}, 4.4",
    ),
    Protocol(
        "Mean Var, batch norm transferred",
        "arms: {bn_transfer: {rest: mean_var, norm: transfer}}",
        f"{T}, app. F.1; {V}, 4.4",
    ),
    Protocol("Sampling init", "arms: {sampled: {rest: sampled}}", f"{T}, app. F.2; {V}, 4.3"),
    Protocol("Shuffled init", "arms: {shuffled: {rest: shuffled}}", f"{T}, app. F.2; {V}, 4.3"),
    Protocol("Gabor conv1", "arms: {gabor: {overrides: {conv1: gabor}}}", f"{T}, app. F.3, Fig. 8"),
    Protocol(
        "Gabor conv1 on Mean Var",
        "arms: {gabor_mean_var: {overrides: {conv1: gabor}, rest: mean_var}}",
        f"{T}, app. F.3 (the rest is not stated)",
    ),
    Protocol("weight transfusion, every depth", "arms: {transfusion: {depth: every}}", f"{T}, Fig. 7, app. Fig. 19"),
    Protocol(
        "weight transfusion on Mean Var",
        "arms: {transfusion_mean_var: {depth: every, rest: mean_var}}",
        f"{V}, Fig. 18",
    ),
    Protocol("conv1 only", "arms: {conv1: {depth: conv1, level: wt-st}}", f"{T}, app. Table 4"),
    Protocol(
        "WT-ST-n/m, every n",
        "arms: {st: {rest: mean_var, level: wt-st}, wt_st: {depth: every, rest: mean_var, level: wt-st}}",
        f"{M}, app. H",
    ),
    Protocol(
        "WT-ST with embeddings resampled",
        "arms: {wt_st: {depth: every, rest: mean_var, level: wt-st, embeddings: resample}}",
        f"{M}, as its text may be read",
    ),
    Protocol("fixed features [1], every L", "arms: {fixed_1: {depth: all, freeze: every}}", f"{T}, app. E"),
    Protocol("fixed features [2], every L", "arms: {fixed_2: {depth: every, freeze: every}}", f"{T}, app. E"),
    Protocol(
        "random features, every L",
        "arms: {random_features: {freeze: every, norm_statistics: updated}}",
        f"{T}, app. E",
    ),
    Protocol(
        "layer-wise fine-tuning, LWFT",
        "arms: {lwft: {depth: all, freeze: every, norm_statistics: updated, learning_rate: 1e-5, "
        "head_learning_rate: 1e-4}}",
        f"{P}, app. A.2 and its code",
    ),
    Protocol(
        "TF: the blocks above k have half the width",
        "arms: {tf: {depth: every, slim: every}}",
        f"{P}, Table 1; level: block is its layer-wise variant",
    ),
    Protocol(
        "slim ResNet-50, hybrid and all random",
        "arms: {hybrid: {depth: layer2, slim: layer2}, slim: {slim: layer2}}",
        f"{T}, Fig. 8, app. Fig. 20",
    ),
    Protocol(
        "truncated transfer learning, TTL, every cut",
        "arms: {ttl: {depth: all, truncate: every, level: block}}",
        f"{P}, Tables 1-3",
    ),
    Protocol(
        "TTL with an unpooled head",
        "arms: {ttl_unpooled: {depth: all, truncate: every, level: block, pool: none}}",
        f"{P}, app. B.2, Fig. 6",
    ),
    Protocol(
        "trimmed DeiT (DeiT-S-5b)",
        "arms: {trimmed: {depth: all, truncate: blocks.4, level: block}}",
        f"{M}, app. I, Table 4",
    ),
    Protocol(
        "from a training of one's own (CIFAR-100 to CIFAR-10, CheXpert to another hospital)",
        "arms: {transferred: {weights: 'run:first', depth: all}, mean_var: {weights: 'run:first', rest: mean_var}}\n"
        "sources: {first: {data: {name: cifar100}, train: {epochs: 200}}}",
        f"{V}, 5.2; {P}, app. C.2",
    ),
    Protocol(
        "linear probing",
        "arms: {probe: {depth: all, freeze: all, learning_rate: 1e-2}}",
        "Alain and Bengio 2016",
    ),
    Protocol(
        "LP-FT: a linear probe, then everything",
        "arms: {lp_ft: {weights: 'run:probe', depth: all, head: source}}\n"
        "sources: {probe: {init: {depth: all, freeze: all}, train: {epochs: 10}}}",
        "Kumar et al. 2022",
    ),
    Protocol(
        "layer-wise learning-rate decay",
        "arms: {decay: {depth: all, level: block, layer_decay: 0.75}}",
        "Clark et al. 2020; Bao et al. 2022",
    ),
    Protocol("L2-SP", "arms: {l2_sp: {depth: all, l2_sp: 0.01}}", "Li, Grandvalet and Davoine 2018"),
    Protocol("surgical fine-tuning", "arms: {surgical: {depth: all, tune: [layer1]}}", "Lee et al. 2023"),
    Protocol("LoRA (transformers)", "arms: {lora: {depth: all, lora: 8}}", "Hu et al. 2022"),
)
