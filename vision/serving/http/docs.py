"""The page at /docs: `vision.serving.http.openapi` for people.

It looks like a report, with the same style and script, and fetches nothing from elsewhere.
"""

import html
from typing import Any

EXAMPLES = """curl --data-binary @photo.jpg URL/classify/MODEL
curl --form file=@photo.jpg 'URL/classify/MODEL?top_k=3&version=2'
curl URL/v2/models/MODEL/infer --json '{"inputs": [
  {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["...base64..."]}]}'
curl URL/v1/models/MODEL:predict --json '{"instances": [{"b64": "...base64..."}]}'"""
PLACES = {"path": "in the path", "query": "in the query", "header": "a header"}


def page(document: dict[str, Any]) -> str:
    """Returns the HTML of an OpenAPI document."""
    info = document["info"]
    tags = dict.fromkeys(
        operation["tags"][0] for path in document["paths"].values() for operation in path.values()
    )
    sections = "".join(_section(document, tag) for tag in tags)
    titles = {"examples": "Examples"} | {_name(tag): tag for tag in tags} | {"schemas": "Schemas"}
    contents = "".join(
        f'<li><a href="#{name}">{_text(title)}</a></li>\n' for name, title in titles.items()
    )
    key = "<code>Authorization: Bearer KEY</code> or <code>X-Api-Key: KEY</code>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of the model server</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="base.css">
<link rel="stylesheet" href="frame.css">
<link rel="stylesheet" href="docs.css">
<script src="frame.js" defer></script>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="page divided">
<nav class="contents" aria-label="Sections"><ul>
{contents}</ul></nav>
<main id="content" tabindex="-1">
<h1>API of the model server</h1>
<p>{_text(info["description"])}</p>
<p>Version {_text(info["version"])}. For programs: <a href="openapi.json">openapi.json</a>.
If the server requires a key, send it as {key}. <a href=".">Try it</a></p>
<h2 id="examples">Examples</h2>
<pre>{_text(EXAMPLES)}</pre>
{sections}<section><h2 id="schemas">Schemas</h2>
{_schemas(document)}</section>
</main>
</div>
</body>
</html>
"""


def _section(document, tag):
    parts = [f'<section><h2 id="{_name(tag)}">{_text(tag)}</h2>\n']
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"] == [tag]:
                parts.append(_operation(path, method, operation))
    return "".join([*parts, "</section>\n"])


def _operation(path, method, operation):
    rows = [
        (f"<code>{_text(parameter['name'])}</code>", _parameter(parameter))
        for parameter in operation["parameters"]
    ]
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        rows.append((f"body, {_text(media_type)}", _describe(body.get("schema", {}))))
    for status, response in operation["responses"].items():
        schemas = [_describe(content.get("schema", {})) for content in response["content"].values()]
        description = _text(response["description"])
        rows.append((status, f"{description}: {' or '.join(filter(None, schemas)) or 'text'}"))
    table = "".join(f"<tr><th scope='row'>{name}</th><td>{text}</td></tr>\n" for name, text in rows)
    title = f"<code>{method.upper()} {_text(path)}</code> {_text(operation['summary'])}"
    table = f"<div class='wide'><table>\n{table}</table></div>"
    return f"<details><summary>{title}</summary>\n{table}</details>\n"


def _parameter(parameter):
    parts = [
        PLACES[parameter["in"]],
        _describe(parameter["schema"]),
        _text(parameter.get("description", "")),
    ]
    return ", ".join(filter(None, parts))


def _schemas(document):
    parts = []
    for name, schema in document["components"]["schemas"].items():
        rows = "".join(
            f"<tr><th scope='row'><code>{_text(key)}</code></th><td>{_describe(value)}"
            f"{', required' if key in schema['required'] else ''}</td></tr>\n"
            for key, value in schema["properties"].items()
        )
        title = _text(name)
        parts.append(
            f'<details><summary>{title}</summary>\n<div class="wide"><table id="{title}">\n{rows}'
            "</table></div></details>\n"
        )
    return "".join(parts)


def _describe(schema):
    """Returns a schema in words, as HTML."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "enum" in schema:
        values = [f"<code>{_text(str(value))}</code>" for value in schema["enum"]]
        return f"one of {', '.join(values)}"
    if "oneOf" in schema:
        return " or ".join(_describe(option) for option in schema["oneOf"])
    if schema.get("type") == "array":
        return f"list of {_describe(schema['items']) or 'values'}"
    if schema.get("properties"):
        fields = [
            f"<code>{_text(name)}</code>: {_describe(value)}"
            for name, value in schema["properties"].items()
        ]
        return f"{{{', '.join(fields)}}}"
    kind = schema.get("type", "")
    limits = [
        f"{words} {schema[key]}"
        for key, words in (("minimum", "at least"), ("maximum", "at most"))
        if key in schema
    ]
    return " ".join([_text(" or ".join(kind) if isinstance(kind, list) else kind), *limits]).strip()


def _name(tag):
    """Returns the id of a tag's section."""
    return f"section-{_text(tag.lower().replace(' ', '-'))}"


def _text(text):
    return html.escape(text)
