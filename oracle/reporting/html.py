"""HTML pages from templates."""

from __future__ import annotations

import jinja2


def template(name: str) -> jinja2.Template:
    """A page of ``templates/``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("oracle.reporting", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)
