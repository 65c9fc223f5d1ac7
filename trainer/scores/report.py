"""The page a person reads: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import jinja2

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ about.run }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { padding: .2rem .8rem; text-align: left; vertical-align: top }
th { font-weight: 600 } thead th { border-bottom: 1px solid #999 }
td.figure, th.figure { text-align: right; font-variant-numeric: tabular-nums }
.synthetic { background: #b00; color: #fff; padding: .5rem 1rem; font-weight: 700 }
.caution { background: #fff3cd; padding: .5rem 1rem }
img { max-width: 100%; height: auto } code { overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>{{ about.run }}</h1>
<p>The best model of a run of {{ about.recipe }}, of epoch {{ about.epoch }},
{% if about.chose_epoch %}
on clips that it was not trained on.</p>
{% else %}
on clips that neither trained it nor chose its epoch: fold {{ about.fold }} of {{ about.folds }}.</p>
{% endif %}
{% if about.synthetic %}
<p class="synthetic">SYNTHETIC data: these figures say nothing about real speech.</p>
{% endif %}

<h2>Scores</h2>
<table>
<thead><tr><th></th><th class="figure">score</th><th class="figure">95 % interval</th></tr></thead>
<tbody>
{% for name, key in scores %}
<tr><th>{{ name }}</th><td class="figure">{{ found[key]|figure }}</td>
<td class="figure">{{ found.intervals[key][0]|figure }} to {{ found.intervals[key][1]|figure }}</td></tr>
{% endfor %}
</tbody>
</table>
<p>n = {{ found.n }} clips. The intervals are percentiles of {{ found.intervals.resamples }} bootstrap
resamples of {{ found.intervals.resampled }}{% if found.intervals.resampled == "speakers" %}
({{ found.intervals.speakers }} of them){% endif %}.</p>
{% for caution in cautions %}
<p class="caution">{{ caution }}</p>
{% endfor %}

<h2>Classes</h2>
<table>
<thead><tr><th>class</th>
{% for column in columns %}
<th class="figure">{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for name, one in found.per_class.items() %}
<tr><th>{{ name }}</th>
{% for column in columns %}
<td class="figure">{{ one[column]|figure }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>

{% for title, picture in pictures %}
<h2>{{ title }}</h2>
<p><img alt="{{ title }}" src="data:image/png;base64,{{ picture }}"></p>
{% endfor %}

<h2>Data and parameters</h2>
<table>
<tbody>
{% for name, value in facts %}
<tr><th>{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</body>
</html>
"""

SCORES = (("accuracy", "accuracy"), ("unweighted average recall", "uar"), ("macro F1", "macro_f1"))
COLUMNS = ("precision", "recall", "f1", "support", "auc")


def page(about: Mapping[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """The page of an evaluation as `evaluation_TAG.json` has it, with `pictures` (PNG) by title."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["figure"] = _figure
    text = environment.from_string(PAGE).render(
        about=about,
        found=about,
        scores=SCORES,
        columns=COLUMNS,
        cautions=_cautions(about),
        pictures=[(title, base64.b64encode(png).decode()) for title, png in pictures.items()],
        facts=_facts(about),
    )
    return text.encode()


def _cautions(about: Mapping[str, Any]) -> list[str]:
    """What keeps the scores from saying how strangers will be understood."""
    said = []
    if about["chose_epoch"]:
        said.append(
            "These clips chose the epoch too, so the scores are somewhat high: measure on clips of their own."
        )
    if about["shared_speakers"]:
        n = about["shared_speakers"]
        said.append(f"{n} of the speakers were trained on too: strangers will be understood less well.")
    elif about["shared_speakers"] is None:
        said.append("Speakers are not known: the same people may have been trained on.")
    if (heard := about["heard_together"] or 0) > 1:
        said.append(
            f"The model heard all clips of a speaker together, {heard} in the median, and adapted to the "
            "voice: a stranger's single clip will be understood less well."
        )
    if about["intervals"]["resampled"] == "clips":
        said.append("Clips, not speakers, were drawn for the intervals: for strangers they are too narrow.")
    return said


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    shared = "unknown" if about["shared_speakers"] is None else about["shared_speakers"]
    speakers = "unknown" if about["intervals"]["speakers"] is None else about["intervals"]["speakers"]
    facts = [
        ("data fingerprint", about["fingerprint"]),
        ("split", f"by {about['split']}, seed {about['seed']}"),
        ("clips", _clips(about)),
        ("speakers evaluated", speakers),
        ("shared speakers", shared),
    ]
    return [(name, str(value)) for name, value in facts] + [
        (name, str(value)) for name, value in sorted(about["params"].items())
    ]


def _clips(about: Mapping[str, Any]) -> str:
    told = f"{about['train']} trained on, {about['val']} chose the epoch"
    return told + (" and are evaluated" if about["chose_epoch"] else f", {about['n']} evaluated")


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
