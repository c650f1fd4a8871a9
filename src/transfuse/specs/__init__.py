"""What a study file says, as frozen dataclasses; YAML in and out; the identity of a run."""

from transfuse.specs.analyses import ANALYSES, AnalysisSpec
from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.files import data_from, load_study, read_study, study_from, to_yaml
from transfuse.specs.model import ModelSpec
from transfuse.specs.run import NUMERICS_VERSION, RunSpec
from transfuse.specs.search import SearchSpec
from transfuse.specs.study import SourceSpec, StudySpec
from transfuse.specs.train import OptimizerSpec, ScheduleSpec, StoppingSpec, TrainSpec
from transfuse.specs.tune import TuneSpec
from transfuse.specs.yaml_text import read_yaml

__all__ = [
    "ANALYSES",
    "NUMERICS_VERSION",
    "AnalysisSpec",
    "DataSpec",
    "InitSpec",
    "ModelSpec",
    "OptimizerSpec",
    "RunSpec",
    "ScheduleSpec",
    "SearchSpec",
    "SourceSpec",
    "StoppingSpec",
    "StudySpec",
    "TrainSpec",
    "TuneSpec",
    "data_from",
    "load_study",
    "read_study",
    "read_yaml",
    "study_from",
    "to_yaml",
]
