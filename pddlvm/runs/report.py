"""The report of a run: one HTML page that holds its tables and figures, and needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pddlvm.basics.files import write_text

__all__ = ["Table", "write_report"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }}
td:last-child {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; }}
figcaption {{ color: #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
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
    parts = [_table(table) for table in tables]
    parts += [_figure(caption, file) for caption, file in figures.items()]
    write_text(_PAGE.format(title=escape(title), body="\n".join(parts)), path)


def _table(table: Table) -> str:
    lines = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_text(value))}</td></tr>"
        for name, value in table.rows.items()
    )
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    return f"<h2>{escape(table.heading)}</h2>\n{note}<table>\n{lines}\n</table>"


def _figure(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    name = escape(caption)
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
