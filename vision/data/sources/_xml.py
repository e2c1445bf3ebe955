"""XML from strangers: annotation files, parsed without what the format allows beyond elements."""

from xml.etree import ElementTree
from xml.parsers import expat


def parse_xml(data):
    """Parses a document without a document type: entities that grow without bound, or name other
    files, need one.

    Args:
        data: the file's bytes.

    Returns:
        The root `Element`.

    Raises:
        ValueError: malformed, or it has a document type. The message tells the line.
    """

    def refuse(*_):
        raise ValueError("a document type, which annotations do not need")

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
    except (LookupError, ValueError) as error:  # an encoding that expat does not know, or our own
        raise ValueError(f"line {parser.CurrentLineNumber}: {error}") from error
    return builder.close()
