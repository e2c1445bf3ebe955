"""Untrusted XML: annotation files, parsed without anything the format allows beyond elements."""

from xml.etree import ElementTree
from xml.parsers import expat


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
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ValueError(f"line {error.lineno}, column {error.offset + 1}: {reason}") from error
    except (LookupError, ValueError) as error:  # an encoding unknown to expat, or `refuse`
        raise ValueError(f"line {parser.CurrentLineNumber}: {error}") from error
    return builder.close()
