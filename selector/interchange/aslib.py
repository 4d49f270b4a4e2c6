"""A run as an ASlib scenario (Bischl et al., Artificial Intelligence 2016).

Instances are images, algorithms are configurations. The performance measure is quality (paper, eq. 1), to be maximised.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from dynamic.files import write_whole
from selector.learning.fitting import folds
from selector.observation.observations import Observations
from selector.observation.statistics import IMAGE_MACS, IMAGE_NAMES


def export(observed: Observations, name: str, out: Path, seed: int = 0) -> Path:
    """Write the scenario of one split: algorithm runs, feature values and costs, cross-validation folds, description.

    Features are the ``image`` statistics and the pooled ``stem``; their costs are given in MMACs instead of seconds.

    Args:
        observed: images of one split.
        name: the scenario's.
        out: folder.
        seed: of the cross-validation folds.

    Returns:
        ``out``.
    """
    ids = [c.id for c in observed.portfolio]
    stem = [f"stem_{i:03d}" for i in range(observed.stem.shape[1])]
    names = [*IMAGE_NAMES, *stem]
    quality, correct = observed.quality, observed.correct
    runs = [
        (key, 1, algorithm, f"{quality[row, column]:.6g}", int(correct[row, column]), "ok")
        for row, key in enumerate(observed.keys)
        for column, algorithm in enumerate(ids)
    ]
    features = np.concatenate([observed.image, observed.stem], axis=1)
    values = [(key, 1, *(f"{value:.6g}" for value in row)) for key, row in zip(observed.keys, features, strict=True)]
    stem_macs = float(observed.costs.stem @ observed.costs.macs)
    costs = [(key, 1, IMAGE_MACS / 1e6, stem_macs / 1e6) for key in observed.keys]
    parts = [(observed.keys[row], 1, fold + 1) for fold, (_, held) in enumerate(folds(len(observed), seed)) for row in held]
    tables = {
        "algorithm_runs.arff": ("ALGORITHM_RUNS", ["algorithm STRING", "quality NUMERIC", "correct NUMERIC"], runs),
        "feature_values.arff": ("FEATURE_VALUES", [f"{feature} NUMERIC" for feature in names], values),
        "feature_costs.arff": ("FEATURE_COSTS", ["image NUMERIC", "stem NUMERIC"], costs),
        "cv.arff": ("CV", ["fold NUMERIC"], parts),
    }
    status = "{ok,timeout,memout,presolved,crash,other,unknown}"
    tables["algorithm_runs.arff"][1].append(f"runstatus {status}")
    tables["feature_runstatus.arff"] = (
        "FEATURE_RUNSTATUS",
        [f"image {status}", f"stem {status}"],
        [(key, 1, "ok", "ok") for key in observed.keys],
    )
    for file, (relation, columns, rows) in tables.items():
        write_whole(out / file, _arff(relation, columns, rows).encode())
    write_whole(out / "description.txt", _description(name, ids, names, stem).encode())
    return out


def _arff(relation: str, columns: list[str], rows: list[tuple[object, ...]]) -> str:
    text = io.StringIO()
    text.write(f"@RELATION {relation}\n\n@ATTRIBUTE instance_id STRING\n@ATTRIBUTE repetition NUMERIC\n")
    text.writelines(f"@ATTRIBUTE {column}\n" for column in columns)
    text.write("\n@DATA\n")
    for key, *others in rows:
        quoted = str(key).replace("\\", "\\\\").replace("'", "\\'")
        text.write(f"'{quoted}',{','.join(map(str, others))}\n")
    return text.getvalue()


def _description(name: str, ids: list[str], features: list[str], stem: list[str]) -> str:
    lines = [f"scenario_id: {name}", "performance_measures:", "- quality", "- correct", "maximize:", "- true", "- true"]
    lines += ["performance_type:", "- solution_quality", "- solution_quality"]
    lines += ["algorithm_cutoff_time: '?'", "algorithm_cutoff_memory: '?'"]
    lines += ["features_cutoff_time: '?'", "features_cutoff_memory: '?'"]
    lines += ["number_of_feature_steps: 2", "default_steps:", "- image", "- stem", "feature_steps:"]
    for step, provided in (("image", list(IMAGE_NAMES)), ("stem", stem)):
        lines += [f"  {step}:", "    provides:", *(f"    - {feature}" for feature in provided)]
    lines += ["features_deterministic:", *(f"- {feature}" for feature in features), "features_stochastic: []"]
    lines += ["algorithms_deterministic:", *(f"- {algorithm}" for algorithm in ids), "algorithms_stochastic: []"]
    lines += ["metainfo_algorithms:"]
    for algorithm in ids:
        lines += [f"  {algorithm}:", "    configuration: ''", "    deterministic: true"]
    return "\n".join(lines) + "\n"
