"""The report of a run: one HTML page that holds its tables and figures, and needs nothing else."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from pddlvm.basics.files import write_text

__all__ = ["Table", "write_report"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }
table { border-collapse: collapse; margin: 1rem 0; }
td { border-bottom: 1px solid #ddd; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }
td:last-child { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; }
figcaption { color: #555; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for table in tables %}
<h2>{{ table.heading }}</h2>
{% if table.note %}
<p>{{ table.note }}</p>
{% endif %}
<table>
{% for name, value in table.rows.items() %}
<tr><td>{{ name }}</td><td>{{ "%.4g" % value if value is float else value }}</td></tr>
{% endfor %}
</table>
{% endfor %}
{% for caption, data in figures.items() %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ data }}">\
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        heading: above it.
        rows: name -> value.
        note: what a reader has to know.
    """

    heading: str
    rows: Mapping[str, Any]
    note: str = ""


def write_report(
    path: Path,
    title: str,
    tables: Sequence[Table],
    figures: Mapping[str, Path],
) -> None:
    """Write the page, in one step.

    Args:
        path: of the page.
        title: its heading.
        tables: in their order.
        figures: caption -> PNG file, put into the page.
    """
    data = {name: b64encode(file.read_bytes()).decode() for name, file in figures.items()}
    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    write_text(page.render(title=title, tables=tables, figures=data), path)
