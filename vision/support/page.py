"""Pages that a person reads in a browser: self-contained, without script, nothing fetched.
page.html has their look."""

import pathlib


def render(template, context):
    """Returns the text of a page.

    Args:
        template: a `pathlib.Path` of a Jinja template that extends "page.html" with the blocks
            `title` and `content`. It may use the filters `number`, 12,345, `percent`, 0.0123 %, and
            `probability`, 12.3 % or < 0.1 %.
        context: {name: value} of what it shows. Texts are escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, pathlib.Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": lambda n: f"{n:,}", "percent": lambda x: f"{100 * x:.3g} %"}
    environment.filters["probability"] = _probability
    return environment.get_template(template.name).render(context)


def _probability(p):
    """A network is never quite sure, so rounding shall not say so."""
    return "< 0.1 %" if p < 0.001 else "> 99.9 %" if p > 0.999 else f"{100 * p:.1f} %"
