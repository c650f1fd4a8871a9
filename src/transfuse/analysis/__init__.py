"""What a network holds and what became of it: similarity, nearest neighbours, weights, attention, and pictures."""

from transfuse.analysis.activations import activations
from transfuse.analysis.attention import AttendedDistance, mean_attended_distance
from transfuse.analysis.cca import cca, pwcca, svcca
from transfuse.analysis.cca_matrix import cca_matrix
from transfuse.analysis.cca_patches import PatchSimilarity, cca_patches
from transfuse.analysis.chance import independent_level, random_coefficients
from transfuse.analysis.cka import cka
from transfuse.analysis.cka_matrix import cka_matrix
from transfuse.analysis.cut_overlap import CutOverlap, OverlapSearch, overlap_cut
from transfuse.analysis.cut_ranking import CutRanking, CutScore, rank_cuts
from transfuse.analysis.filters import FirstLayer, filter_grid, first_layer, first_layer_filters
from transfuse.analysis.frechet import Frechet, frechet_between, frechet_distance
from transfuse.analysis.gradcam import MassInside, gradcam, gradcam_block, mass_inside
from transfuse.analysis.knn import knn_scores
from transfuse.analysis.layerwise_knn import KnnByBlock, knn_by_block
from transfuse.analysis.logme import logme
from transfuse.analysis.maps import ActivationMaps, activation_maps
from transfuse.analysis.maximise import Maximised, maximise
from transfuse.analysis.minibatch_cka import MinibatchCKA
from transfuse.analysis.moments import Moments
from transfuse.analysis.probe import PatientFolds, Probe, patient_folds, probe
from transfuse.analysis.procrustes import procrustes
from transfuse.analysis.reinitialise import Robustness, put_back, reinitialise, reinitialise_score
from transfuse.analysis.similarity import Similarity, SimilarityMatrix
from transfuse.analysis.tiles import tile
from transfuse.analysis.views import features
from transfuse.analysis.weights import Histogram, l2_distance, weight_histogram

__all__ = [
    "ActivationMaps",
    "AttendedDistance",
    "CutOverlap",
    "CutRanking",
    "CutScore",
    "FirstLayer",
    "Frechet",
    "Histogram",
    "KnnByBlock",
    "MassInside",
    "Maximised",
    "MinibatchCKA",
    "Moments",
    "OverlapSearch",
    "PatchSimilarity",
    "PatientFolds",
    "Probe",
    "Robustness",
    "Similarity",
    "SimilarityMatrix",
    "activation_maps",
    "activations",
    "cca",
    "cca_matrix",
    "cca_patches",
    "cka",
    "cka_matrix",
    "features",
    "filter_grid",
    "first_layer",
    "first_layer_filters",
    "frechet_between",
    "frechet_distance",
    "gradcam",
    "gradcam_block",
    "independent_level",
    "knn_by_block",
    "knn_scores",
    "l2_distance",
    "logme",
    "mass_inside",
    "maximise",
    "mean_attended_distance",
    "overlap_cut",
    "patient_folds",
    "probe",
    "procrustes",
    "put_back",
    "pwcca",
    "random_coefficients",
    "rank_cuts",
    "reinitialise",
    "reinitialise_score",
    "svcca",
    "tile",
    "weight_histogram",
]
