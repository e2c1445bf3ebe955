"""The page at /docs: what vision.serving.http.openapi says, for a person. No script, nothing
fetched from elsewhere."""

import html

EXAMPLES = """curl --data-binary @photo.jpg URL/classify/MODEL
curl --form file=@photo.jpg 'URL/classify/MODEL?top_k=3&version=2'
curl URL/v2/models/MODEL/infer --json '{"inputs": [
  {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["...base64..."]}]}'
curl URL/v1/models/MODEL:predict --json '{"instances": [{"b64": "...base64..."}]}'"""
KINDS = {"path": "in the path", "query": "in the query", "header": "a header"}


def page(document):
    """Returns the HTML of an OpenAPI document."""
    info = document["info"]
    tags = dict.fromkeys(
        one["tags"][0] for path in document["paths"].values() for one in path.values()
    )
    sections = "".join(_section(document, tag) for tag in tags)
    key = "<code>Authorization: Bearer KEY</code> or <code>X-Api-Key: KEY</code>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of the model server</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="page.css">
<link rel="stylesheet" href="docs.css">
</head>
<body>
<header>
<h1>API of the model server</h1>
<p>{_text(info["description"])}</p>
<p>Version {_text(info["version"])}. For programs: <a href="openapi.json">openapi.json</a>. A key, where one is needed,
goes into {key}. <a href=".">Try it</a></p>
</header>
<main>
<pre>{_text(EXAMPLES)}</pre>
{sections}<section><h2>Shapes</h2>
{_schemas(document)}</section>
</main>
</body>
</html>
"""


def _section(document, tag):
    parts = [f"<section><h2>{_text(tag)}</h2>\n"]
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            if one["tags"] == [tag]:
                parts.append(_operation(path, method, one))
    return "".join([*parts, "</section>\n"])


def _operation(path, method, one):
    rows = [(f"<code>{_text(p['name'])}</code>", _of_parameter(p)) for p in one["parameters"]]
    for kind, body in one.get("requestBody", {}).get("content", {}).items():
        rows.append((f"body, {_text(kind)}", _kind(body.get("schema", {}))))
    for status, answer in one["responses"].items():
        schemas = [_kind(content.get("schema", {})) for content in answer["content"].values()]
        rows.append(
            (
                status,
                f"{_text(answer['description'])}: {' or '.join(filter(None, schemas)) or 'text'}",
            )
        )
    table = "".join(f"<tr><th scope='row'>{name}</th><td>{text}</td></tr>\n" for name, text in rows)
    return (
        f"<details><summary><code>{method.upper()} {_text(path)}</code> {_text(one['summary'])}</summary>\n"
        f"<table>\n{table}</table></details>\n"
    )


def _of_parameter(parameter):
    parts = [
        KINDS[parameter["in"]],
        _kind(parameter["schema"]),
        _text(parameter.get("description", "")),
    ]
    return ", ".join(filter(None, parts))


def _schemas(document):
    parts = []
    for name, schema in document["components"]["schemas"].items():
        rows = "".join(
            f"<tr><th scope='row'><code>{_text(key)}</code></th><td>{_kind(value)}"
            f"{', required' if key in schema['required'] else ''}</td></tr>\n"
            for key, value in schema["properties"].items()
        )
        parts.append(
            f'<details><summary>{_text(name)}</summary>\n<table id="{_text(name)}">\n{rows}</table></details>\n'
        )
    return "".join(parts)


def _kind(schema):
    """Returns a schema in words, as HTML."""
    if "$ref" in schema:
        name = _text(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "enum" in schema:
        return "one of " + ", ".join(
            f"<code>{_text(str(value))}</code>" for value in schema["enum"]
        )
    if "oneOf" in schema:
        return " or ".join(_kind(one) for one in schema["oneOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items']) or 'values'}"
    if schema.get("properties"):
        return (
            "{"
            + ", ".join(
                f"<code>{_text(k)}</code>: {_kind(v)}" for k, v in schema["properties"].items()
            )
            + "}"
        )
    kind = schema.get("type", "")
    limits = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"))
        if key in schema
    ]
    return " ".join([_text(" or ".join(kind) if isinstance(kind, list) else kind), *limits]).strip()


def _text(text):
    return html.escape(text)
