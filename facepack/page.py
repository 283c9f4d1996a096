"""Pages: HTML files that load nothing from anywhere, in one style and of the same parts (page.css, page_parts.html)."""

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

_BREAKABLE = re.compile(r"([_/(](?=\S)|[.,+=-](?=[^\s\d]))")
"""Where a long name may go on in the next line."""


def rendered(template: Path, **values: Any) -> str:
    """Fill in a template; values are escaped. The filter `soft` lets long names break where nobody minds."""
    folders = [str(template.parent), str(Path(__file__).parent)]
    loader = jinja2.FileSystemLoader(folders)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["soft"] = soft
    return environment.get_template(template.name).render(**values)


def soft(text: object) -> Markup:
    """A name that may break behind its underscores, slashes and points, and not within its words."""
    return Markup("<wbr>").join(escape(part) for part in _BREAKABLE.sub("\\1\0", f"{text}").split("\0"))


def jpeg_uri(content: bytes) -> str:
    """A JPEG inside the page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
