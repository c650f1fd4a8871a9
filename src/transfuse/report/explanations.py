"""How each analysis is headed in the report, and how to read it, in a sentence or two."""

from __future__ import annotations

from typing import NamedTuple


class Explanation(NamedTuple):
    """A heading, and how to read what stands below it."""

    title: str
    how: str


EXPLANATIONS = {
    "cka": Explanation(
        "How alike are the layers? CKA",
        "Linear CKA between blocks, debiased, over minibatches: 1 for features that differ by a rotation or a "
        "scale, about 0 for features without anything in common. Lower left is the image.",
    ),
    "cca": Explanation(
        "How alike are the layers? CCA",
        "Mean canonical correlation. It is 1 for features that any invertible linear map turns into each other; "
        "the dashed line is what independent features of this size would give, and a value near it says nothing.",
    ),
    "svcca": Explanation(
        "How alike are the layers? SVCCA",
        "Mean canonical correlation of the directions that hold 99 % of the variance, unless the study says "
        "otherwise; the dashed line is what independent features of as many directions would give.",
    ),
    "pwcca": Explanation(
        "How alike are the layers? PWCCA",
        "Canonical correlations, weighted by how much of the first network's features each direction accounts "
        "for; the dashed line is what independent features would give.",
    ),
    "cca_patches": Explanation(
        "How alike are the layers? CCA of sampled patches",
        "Mean canonical correlation of as many places and channels in every block, drawn several times; the "
        "dashed line is what independent features of this size would give.",
    ),
    "l2": Explanation(
        "How far did the weights move?",
        "Euclidean distance between the weights of a block before and after, divided by their number; norm layers "
        "are left out.",
    ),
    "dynamics": Explanation(
        "When do features settle?",
        "Similarity of each block, after some steps of training, to itself in the trained network.",
    ),
    "knn": Explanation(
        "What does each layer know?",
        "Nearest neighbours of the test images among the training images, in the features of each block.",
    ),
    "reinitialise": Explanation(
        "Which layers are critical?",
        "How much worse the trained network becomes when one block is put back to its start. The band is an "
        "interval over seeds (from three on) or, with one, over patients.",
    ),
    "attention": Explanation(
        "How far do tokens look?",
        "Mean distance, in pixels, over which tokens attend; the dashed line is attention spread evenly.",
    ),
    "fid": Explanation(
        "How far apart are the images of source and target?",
        "Squared Fréchet distance between the two sets of images in the features of a block. Only distances in "
        "the same features can be compared; the expectation for two samples of one distribution stands beside it.",
    ),
    "filters": Explanation(
        "What do the first filters look like?",
        "Filters of the first layer, zero in mid-grey, on one scale.",
    ),
    "histogram": Explanation(
        "How are the first layer's weights distributed?",
        "Number of weights in each bin, before and after training.",
    ),
    "maps": Explanation(
        "What do channels answer to?",
        "Activation maps of some channels, each on its own scale.",
    ),
    "maximise": Explanation(
        "What excites a filter?",
        "Images made so that one channel of a block answers as strongly as it can.",
    ),
    "gradcam": Explanation(
        "Where does the network look?",
        "Grad-CAM: the warmer, the more a place raises the score of the predicted class.",
    ),
    "cut_ranking": Explanation(
        "Which cuts promise most, before any training?",
        "What the pretrained features at each cut tell of the training images, each patient held out in turn: a linear "
        "probe, with its interval over patients, and nearest neighbours; LogME, on a scale of its own, stands in the "
        "table. The test part is not looked at.",
    ),
    "cut_overlap": Explanation(
        "Up to where does training keep what was pretrained?",
        "SVCCA coefficients of each cut before and after fine-tuning of the whole network, and grey those of random "
        "features of the same shape. Where the two overlap, training left nothing of the pretrained features; the "
        "network may be cut there.",
    ),
    "cut_screen": Explanation(
        "Which cuts does one training of all of them rank first?",
        "Validation metric of every cut by its own head, in one training of a network that has a head at each; with "
        "95 % intervals over patients. It ranks cuts; it is no estimate of a network trained by itself.",
    ),
}
