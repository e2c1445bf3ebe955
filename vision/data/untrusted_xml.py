"""Untrusted XML: annotation files, parsed without anything the format allows beyond elements."""

from xml.etree import ElementTree
from xml.parsers import expat

DEEPEST = 100  # levels of elements; annotations have five


def parse_xml(data: bytes) -> ElementTree.Element:
    """Parses a document and rejects any document type declaration.

    Entities that expand without bound or refer to other files need such a declaration.

    Args:
        data: the file's bytes.

    Returns:
        The root `Element`.

    Raises:
        ValueError: malformed, or with a document type declaration. The message contains the line.
    """

    def refuse(*_):
        raise ValueError("a document type declaration, which annotations do not need")

    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag, attributes):
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"elements nested more than {DEEPEST} deep")
        builder.start(tag, attributes)

    def end(tag):
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ValueError(f"line {error.lineno}, column {error.offset + 1}: {reason}") from error
    # an encoding unknown to expat, or what it raises for a damaged one; `refuse` and `start`
    except (LookupError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"line {parser.CurrentLineNumber}: {error}") from error
    return builder.close()
