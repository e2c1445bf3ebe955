"""The file in a form. Parsed in memory: a web framework's own parser writes large files to disk."""

import re

from vision.serving.errors import Refused, Unreadable

MAX_PARTS = 16  # parts of a body
MAX_HEAD = 4_096  # bytes of a part's headers


def file_of(body: bytes, content_type: str) -> bytes:
    """Returns the content of the part named "file" of a multipart/form-data body (RFC 7578).

    Raises:
        Unreadable: the content type has no boundary.
        Refused: the body is broken or has no such part.
    """
    boundary = re.search(r'boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', content_type)
    if boundary is None:
        raise Unreadable("the content type multipart/form-data needs a boundary")
    mark = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(mark, MAX_PARTS)
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise Refused(f"the multipart body is cut short or has more than {MAX_PARTS} parts")
    for part in parts[1:-1]:
        head, blank_line, content = part.partition(b"\r\n\r\n")
        if (
            blank_line
            and len(head) <= MAX_HEAD
            and re.search(rb'(?im)^content-disposition:[^\r\n]*;\s*name="?file"?\s*(;|\r?$)', head)
        ):
            return content
    raise Refused('the form has no part named "file"')
