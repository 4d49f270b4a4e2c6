"""The study for people: one section for each part, its table, what agrees with the paper and what does not, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from oracle.study import paper
from oracle.study.plan import PARTS


@dataclass(frozen=True)
class Section:
    """One part of the study.

    Attributes:
        part: its name in ``--study``, and that of its figure.
        title: with the paper's section.
        notes: paragraphs.
        header, rows: the table; no rows, no table.
    """

    part: str
    title: str
    notes: list[str]
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def sections(study: dict[str, Any], run: dict[str, Any]) -> list[Section]:
    """All parts of a study, in the paper's order.

    Args:
        study: what :func:`oracle.study.runner.run_study` returned.
        run: facts about the main run.
    """
    return [_WRITE[part](study[part], run) for part in PARTS if part in study]


def markdown(written: list[Section]) -> str:
    """All sections as Markdown, for papers and pull requests."""
    lines = []
    for section in written:
        lines += [f"## {section.title}", *section.notes]
        if section.rows:
            table = [section.header, ["---"] * len(section.header), *section.rows]
            lines.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(lines) + "\n"


def percent(entry: dict[str, Any]) -> str:
    """A share with its interval, as text."""
    low, high = entry["interval"]
    return f"{100 * entry['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points(entry: dict[str, Any]) -> str:
    """A difference of shares in percentage points with its interval."""
    if entry["interval"] is None:
        return f"{100 * entry['value']:+.1f}"
    low, high = entry["interval"]
    return f"{100 * entry['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def number(entry: dict[str, Any], digits: int = 2) -> str:
    """A number with its interval; a dash where it is undefined."""
    if entry["value"] is None:
        return "—"
    if entry["interval"] is None:
        return f"{entry['value']:.{digits}f}"
    low, high = entry["interval"]
    return f"{entry['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _small(run: dict[str, Any]) -> bool:
    return bool(run["slim"] or run["stand_in"])


def _papers_network(run: dict[str, Any]) -> bool:
    """Whether the paper's numbers, which are ResNet-50's, may stand beside ours."""
    return bool(run["model"].removesuffix("-slim") == "resnet50")


def _section(part: str, notes: list[str], header: list[str], rows: list[list[str]]) -> Section:
    what = PARTS[part]
    return Section(part, f"{_label(part)}: {what}", [note for note in notes if note], header, rows)


def _label(part: str) -> str:
    if part.startswith("table"):
        return f"Table {part[5:]}"
    return f"Fig. {part[3:]}" if part.startswith("fig") else part.replace("_", " ").capitalize()


_CASES = ("static", "worst", "median", "best")


def _table1(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    odd = []
    for model, spaces in data.items():
        for space, found in spaces.items():
            quoted = paper.RESNET50_IMAGENET.get(space, {}) if model.removesuffix("-slim") == "resnet50" else {}
            theirs = " / ".join(f"{100 * quoted[case]:.1f}" if case in quoted else "—" for case in _CASES) if quoted else "—"
            rows.append([model, f"{space} ({found['configurations']})", *(percent(found[case]) for case in _CASES), theirs])
            if not found["worst"]["value"] < found["static"]["value"] < found["best"]["value"]:
                odd.append(f"{model} {space}")
    notes = [
        "As in the paper, for every architecture and attribute the worst case lies below the static network and the best "
        "case above it."
        if not odd
        else f"Unlike in the paper, worst < static < best does not hold for {', '.join(odd)}: too few "
        "images to tell them apart, "
        "or a network whose weights are random.",
    ]
    low, high = paper.BEST_CASES
    above = [model for model, spaces in data.items() for found in spaces.values() if found["best"]["interval"][0] > high]
    if _small(run) and above:
        notes.append(
            f"Best cases above the paper's {100 * low:.1f} to {100 * high:.1f} % "
            f"({', '.join(dict.fromkeys(above))}): among ten "
            "classes a poor configuration is right by luck far more often than among a thousand. The bound is looser here."
        )
    return _section("table1", notes, ["network", "space", *(f"{case}, %" for case in _CASES), "paper, %"], rows)


def _above(gain: dict[str, Any], case: str) -> bool:
    """Whether the gain of a case by fine-tuning is beyond the paper's."""
    return bool(gain[case]["interval"] and gain[case]["interval"][0] > paper.FINE_TUNING_GAIN[case])


def _table2(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    for space, methods in data.items():
        for method, found in methods.items():
            gain = found["gain"]
            changes = ["", ""] if method == "pre-trained" else [points(gain["worst"]), points(gain["median"])]
            rows.append([space, method, *(percent(found[case]) for case in _CASES), *changes])
    tuned = {space: methods["fine-tuned"]["gain"] for space, methods in data.items() if "fine-tuned" in methods}
    notes = []
    if tuned:
        ours = "; ".join(
            f"{space}: worst {points(gain['worst'])}, median {points(gain['median'])}" for space, gain in tuned.items()
        )
        worst, median = (100 * paper.FINE_TUNING_GAIN[case] for case in ("worst", "median"))
        theirs = f" The paper gains up to {worst:.0f} and {median:.0f} points on ResNet-50." if _papers_network(run) else ""
        notes.append(f"Random option fine-tuning against the pre-trained network, in points: {ours}.{theirs}")
        larger = [space for space, gain in tuned.items() if _above(gain, "worst") or _above(gain, "median")]
        if larger and _papers_network(run) and _small(run):
            notes.append(
                f"Gains beyond the paper's in {', '.join(larger)}: presumably since ten classes are easier to keep apart "
                "under poor options than a thousand, and scenes are drawn anew in every epoch. This was not tested."
            )
        flat = [space for space, gain in tuned.items() if gain["worst"]["interval"] and gain["worst"]["interval"][0] <= 0]
        if flat:
            counts = {space: data[space]["fine-tuned"]["configurations"] for space in flat}
            listed = ", ".join(f"{space} ({counts[space]} configurations)" for space in flat)
            notes.append(
                f"The worst case does not rise beyond its interval in {listed}: it counts the images on which every single "
                "configuration is right, the poorest included."
            )
    else:
        notes.append("No fine-tuned weights were found for this network: make them with python -m oracle.rof --space SPACE.")
    notes.append(
        "Recalibrated: batch-norm statistics re-estimated for every prefix of options on unlabelled "
        "images of the label split; "
        "no learned weight changes and no MACs are added. Distilled: fine-tuned with the default configuration as teacher, "
        "over configurations no costlier than it. Neither is in the paper."
    )
    header = ["space", "network", *(f"{case}, %" for case in _CASES), "worst, points", "median, points"]
    return _section("table2", notes, header, rows)


def _table3(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [
            space.replace("x", " × ") if kind == "combined" else space,
            str(found["configurations"]),
            *(percent(found[case]) for case in _CASES),
        ]
        for kind in ("single", "combined")
        for space, found in data[kind].items()
    ]
    notes = [
        "Lists of 25 (two attributes) or 8 (three) configurations each, chosen greedily on the label split, combined freely."
    ]
    if data["single"] and data["combined"]:
        single = max((found["best"] for found in data["single"].values()), key=lambda best: best["value"])
        combined = max((found["best"] for found in data["combined"].values()), key=lambda best: best["value"])
        apart = combined["interval"][0] > single["interval"][1]
        notes.append(
            f"The highest best case of the combinations is {percent(combined)} %, of single attributes {percent(single)} %: "
            + (
                "combining is better beyond the intervals."
                if apart
                else "within each other's intervals, on the same images."
            )
            + " The paper's table was not at hand."
        )
    return _section("table3", notes, ["space", "configurations", *(f"{case}, %" for case in _CASES)], rows)


def _fig2(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [space, method, f"{found['mean']:.2f}", percent(found["all_agree"])]
        for space, methods in data.items()
        for method, found in methods.items()
    ]
    fell = [space for space, m in data.items() if "fine-tuned" in m and m["fine-tuned"]["mean"] < m["pre-trained"]["mean"]]
    compared = [space for space, m in data.items() if "fine-tuned" in m]
    notes = (
        [f"On average over images, fine-tuning lowers the number in {len(fell)} of {len(compared)} spaces."]
        if compared
        else []
    )
    return _section("fig2", notes, ["space", "network", "different predictions, mean", "all configurations agree, %"], rows)


def _fig3(data: dict[str, Any], run: dict[str, Any]) -> Section:
    sizes = (1, 2, 4, 8, 16, 32)
    rows = []
    for space, methods in data.items():
        for method, found in methods.items():
            reached = [found["accuracy"][min(size, len(found["accuracy"])) - 1] for size in sizes]
            rows.append([space, method, *(f"{100 * value:.1f}" for value in reached), f"{100 * found['whole_space']:.1f}"])
    eight = [found["accuracy"][:8][-1] for methods in data.values() for found in methods.values()]
    whole = [found["whole_space"] for methods in data.values() for found in methods.values()]
    least = min((part / all_ for part, all_ in zip(eight, whole, strict=True) if all_), default=0.0)
    notes = [
        "Chosen greedily on the label split, reported on the test split. "
        f"Eight configurations reach at least {100 * least:.0f} % of the whole space's best case, in every row."
    ]
    return _section("fig3", notes, ["space", "network", *map(str, sizes), "whole space"], rows)


def _fig4(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [space, row["layers"], str(row["configurations"]), percent(row["best"]), percent(row["volatility"])]
        for space, found in data.items()
        for row in found
    ]
    singles = {space: [row for row in found if len(row["layers"]) == 1] for space, found in data.items()}
    best = "; ".join(
        f"{space}: {', '.join(row['layers'] + ' ' + percent(row['best']) for row in rows)}"
        for space, rows in singles.items()
    )
    notes = [
        "Computed from the full outcomes: a subset's configurations are those that keep the default in all other layers. "
        "Volatility is the best minus the worst case, our reading of the paper's word: the images on "
        "which the choice decides.",
        f"Best case with a single dynamic layer, %: {best}.",
    ]
    return _section("fig4", notes, ["space", "dynamic layers", "configurations", "best, %", "volatility, points"], rows)


def _preference_rows(data: dict[str, list[tuple[str, dict[str, Any]]]]) -> list[list[str]]:
    rows = []
    for space, entries in data.items():
        for label, found in entries:
            start = [space, label, str(found["images"]), percent(found["static"]), percent(found["best"])]
            for name in found["layers"][0]:
                means = [layer[name]["mean"] for layer in found["layers"]]
                told = " · ".join("—" if mean is None else number(mean) for mean in means)
                rows.append([*start, name.replace("_", " "), told])
    return rows


_PREFERENCE_HEADER = ["space", "view", "images", "static, %", "best, %", "attribute", "mean preferred in A · B · …"]


def _fig5(data: dict[str, Any], run: dict[str, Any]) -> Section:
    series = {space: [(f"× {factor}", found) for factor, found in sizes.items()] for space, sizes in data["resized"].items()}
    for space, bins in data.get("true_side", {}).items():
        series[space] = [*series[space], *((f"side {b['sides'][0]:.0f}–{b['sides'][1]:.0f} px", b) for b in bins)]
    notes = [_trend(data["resized"], "larger images")]
    if "true_side" in data:
        notes.append(
            "Sides are the true sides of the objects in the wide regime, a scale that the network was not "
            "trained on at either "
            "end; the images themselves keep their size."
        )
    return _section("fig5", notes, _PREFERENCE_HEADER, _preference_rows(series))


def _fig7(data: dict[str, Any], run: dict[str, Any]) -> Section:
    series = {
        space: [(f"{p} px of 256" if p.isdigit() else p, f) for p, f in crops.items()] for space, crops in data.items()
    }
    notes = [
        _trend(data, "larger crops"),
        "The network's view is 224 of 256 pixels, so the paper's crop of 250 is shown as the whole view. "
        + (
            "On fashion-scenes pixels are scaled to the 96 of a scene, and crops are about the object."
            if run["stand_in"]
            else ""
        ),
    ]
    return _section("fig7", notes, _PREFERENCE_HEADER, _preference_rows(series))


def _trend(data: dict[str, Any], what: str) -> str:
    """Whether the mean preferred option of the last view is above that of the first, by space and layer."""
    told = []
    for space, views in data.items():
        first, *_, last = views.values()
        for layer, (small, large) in enumerate(zip(first["layers"], last["layers"], strict=True)):
            for name in small:
                low, high = small[name]["mean"], large[name]["mean"]
                if low and high and low["interval"] and high["interval"]:
                    if low["interval"][1] < high["interval"][0]:
                        told.append(f"{space} {'ABCDEF'[layer]} up")
                    elif high["interval"][1] < low["interval"][0]:
                        told.append(f"{space} {'ABCDEF'[layer]} down")
    if not told:
        return (
            f"From the smallest to the largest view, no layer's mean preferred option moves beyond its interval with {what}."
        )
    return f"With {what}, mean preferred options move beyond their intervals here: {', '.join(told)}."


def _receptive_field(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    sides = any("sides" in found for found in data.values())
    for space, found in data.items():
        c = found["configurations"]
        behind = [number(value) for value in found["sides"].values()] if "sides" in found else []
        rows.append([space, number(c["scalar"]), number(c["growth"]), number(c["growth_minus_scalar"]), *behind])
    better = [
        space
        for space, found in data.items()
        if (entry := found["configurations"]["growth_minus_scalar"])["interval"] and entry["interval"][0] > 0
    ]
    notes = [
        "Spearman's rank correlation of a configuration's mean quality with how near its receptive field "
        "is to the default's: "
        "the final one alone (scalar), or the curve behind all layers (growth), in logarithms; computed "
        "from the traced graph.",
        f"As the paper says, growth explains more than the scalar, beyond the interval, in {', '.join(better)}."
        if better
        else "Unlike the paper, growth does not explain more than the scalar beyond the interval in any space.",
    ]
    if sides:
        notes.append(
            "The last columns correlate the preferred configuration's receptive field behind each layer "
            "with the object's true "
            "side: were scale what decides, they would be well above zero."
        )
    layers = list(next(iter(data.values()))["sides"]) if sides else []
    header = ["space", "scalar", "growth", "difference", *(f"side ~ behind {layer}" for layer in layers)]
    return _section("receptive_field", notes, header, rows)


def _fig6(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = []
    for method, found in data.items():
        rows.append([method, "static", percent(found["static"]), f"{found['default_macs'] / 1e6:.1f}", "1", ""])
        for name, what in (("same_as_default", "cheapest as the default"), ("same_as_best", "cheapest as the best case")):
            point = found[name]
            theirs = f"{paper.EFFICIENCY[name]}×" if method == "pre-trained" and _papers_network(run) else ""
            if method == "fine-tuned" and name == "same_as_best" and _papers_network(run):
                theirs = f"{100 * paper.EFFICIENCY_FINE_TUNED[0]:.1f} % at {paper.EFFICIENCY_FINE_TUNED[1] / 1e9:.1f} GMACs"
            rows.append(
                [
                    "",
                    what,
                    percent(point["accuracy"]),
                    f"{point['macs']['value'] / 1e6:.1f}",
                    number(point["times_fewer"], 1),
                    theirs,
                ]
            )
    notes = [
        "For each image the cheapest of all configurations that predicts what the default, or the best "
        "case, predicts. It is an "
        "oracle's bound: no selector knows either before it has run."
    ]
    if "pre-trained" in data:
        times = data["pre-trained"]["same_as_default"]["times_fewer"]["value"]
        cheapest = data["pre-trained"]["default_macs"] / min(data["pre-trained"]["cloud"]["macs"])
        told = (
            f"Agreeing with the default costs {times:.1f} times fewer MACs; the cheapest configuration of all costs "
            f"{cheapest:.1f} times fewer."
        )
        if _papers_network(run):
            told += " The paper reports more than ten times" + (", as here." if times > 10 else ".")
            if cheapest <= 10:
                told += (
                    " No choice can reach that here: what no option changes, the stem and the rest of "
                    "each stage, is a larger "
                    "share of this network at this resolution."
                )
        notes.append(told)
    if _small(run) and any(found["same_as_best"]["accuracy"]["value"] > 0.98 for found in data.values()):
        notes.append(
            "Much of both bounds is chance here: among thousands of configurations that differ in their answers, with "
            "ten classes, a cheap one agrees with anything soon. The cloud, what single configurations reach, says more."
        )
    return _section("fig6", notes, ["network", "each image runs", "accuracy, %", "MMACs", "times fewer", "paper"], rows)


def _recalibration(data: dict[str, Any], run: dict[str, Any]) -> Section:
    rows = [
        [regime, space, *(points(found["gain"][case]) for case in ("static", "worst", "median", "mean", "best"))]
        for regime, spaces in data.items()
        for space, found in spaces.items()
    ]
    notes = [
        "Change in percentage points on the same test images, with paired bootstrap intervals. Statistics "
        "come from unlabelled "
        "label-split images of the same regime. Mean: accuracy of a configuration drawn at random."
    ]
    return _section("recalibration", notes, ["regime", "space", "static", "worst", "median", "mean", "best"], rows)


_WRITE: dict[str, Callable[[dict[str, Any], dict[str, Any]], Section]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "fig2": _fig2,
    "fig3": _fig3,
    "fig4": _fig4,
    "fig5": _fig5,
    "fig6": _fig6,
    "fig7": _fig7,
    "receptive_field": _receptive_field,
    "recalibration": _recalibration,
}
