"""Pages that a person reads in a browser: self-contained, without script, nothing fetched. page.html has their look."""

import pathlib


def render(template, context):
    """Returns the text of a page.

    Args:
        template: a `pathlib.Path` of a Jinja template that extends "page.html" with the blocks `title` and `content`.
            It may use the filters `number`, 12,345, and `percent`, 12.3 %.
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
    return environment.get_template(template.name).render(context)
