"""The report of a run: one HTML page that holds its tables and figures, and needs nothing else."""

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pddlvm.files import write_text

__all__ = ["write_report"]

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


def write_report(
    path: Path,
    title: str,
    tables: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Path],
) -> None:
    """Write the page, in one step.

    Args:
        path: of the page.
        title: its heading.
        tables: heading -> name -> value.
        figures: caption -> PNG file, put into the page.
    """
    parts = [_table(heading, rows) for heading, rows in tables.items()]
    parts += [_figure(caption, file) for caption, file in figures.items()]
    write_text(_PAGE.format(title=escape(title), body="\n".join(parts)), path)


def _table(heading: str, rows: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_text(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<h2>{escape(heading)}</h2>\n<table>\n{lines}\n</table>"


def _figure(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    name = escape(caption)
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)
