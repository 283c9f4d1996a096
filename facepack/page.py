"""Pages: HTML files that load nothing from anywhere, in one style (page.css)."""

import base64
from pathlib import Path
from typing import Any

import jinja2


def rendered(template: Path, **values: Any) -> str:
    """Fill in a template; values are escaped."""
    folders = [str(template.parent), str(Path(__file__).parent)]
    loader = jinja2.FileSystemLoader(folders)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template.name).render(**values)


def jpeg_uri(content: bytes) -> str:
    """A JPEG inside the page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
