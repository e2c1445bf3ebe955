"""How `vision.predict` prints the classes of images: as a table, as CSV, or as JSON."""

import json

from vision.errors import printable
from vision.reference import unsure
from vision.support.cells import Writer, column_width, fitted

SEPARATOR = " | "  # of the classes of a set


class _Table:
    """Columns of equal width; the file comes last, since the longest path is not known yet."""

    def __init__(self, out, classes, top, rule):
        self._out = out
        self._top = top
        self._rule = rule
        self._width = column_width(classes)
        cells = [f"{f'top {i}':<{self._width + 8}}" for i in range(1, top + 1)]
        if rule is not None:
            cells.insert(0, f"{'set' if rule.gives_sets else 'answer':<{self._answer_width}}")
        print("  ".join([*cells, "file"]), file=out, flush=True)

    @property
    def _answer_width(self):
        if self._rule.gives_sets:
            return 2 * self._width + len(SEPARATOR)
        return max(self._width, len(unsure.UNSURE))

    def __call__(self, file, prediction):
        shown = prediction[: self._top]
        cells = [f"{100 * p:5.1f} % {fitted(name, self._width)}" for name, p in shown]
        if self._rule is not None:
            cells.insert(0, f"{self._answer(prediction):<{self._answer_width}}")
        print("  ".join([*cells, printable(file)]), file=self._out, flush=True)

    def _answer(self, prediction):
        """Returns the class or "unsure"; of a set its first classes, and how many more it has."""
        judged = self._rule.judge(prediction)
        if not judged.members:
            return unsure.UNSURE if judged.unsure else fitted(prediction[0][0], self._width)
        names = [fitted(name, self._width).rstrip() for name in judged.members[: self._top]]
        more = len(judged.members) - len(names)
        return SEPARATOR.join(names) + (f" and {more:,} more" if more else "")


class _Csv:
    def __init__(self, out, classes, top, rule):
        self._writer = Writer(out)
        self._top = top
        self._rule = rule
        more = () if rule is None else ("unsure",)
        if rule is not None and rule.gives_sets:
            more = ("unsure", "in_set")
        self._writer.writerow(("file", "rank", "class", "probability", *more))

    def __call__(self, file, prediction):
        judged = None if self._rule is None else self._rule.judge(prediction)
        members = judged.members if judged else ()
        for rank, (name, probability) in enumerate(prediction[: max(self._top, len(members))], 1):
            row = [file, rank, name, f"{probability:.6f}"]
            if judged is not None:
                row.append(str(judged.unsure).lower())
            if members:
                row.append(str(rank <= len(members)).lower())
            self._writer.writerow(row)


class _Json:
    def __init__(self, out, classes, top, rule):
        self._out = out
        self._top = top
        self._rule = rule

    def __call__(self, file, prediction):
        top = [{"class": name, "probability": p} for name, p in prediction[: self._top]]
        entry = {"file": file, "top": top}
        if self._rule is not None:
            judged = self._rule.judge(prediction)
            entry |= {"rule": str(self._rule.requirement), "unsure": judged.unsure}
            if judged.members:
                entry["set"] = list(judged.members)
        print(json.dumps(entry), file=self._out, flush=True)


WRITERS: dict[str, type] = {"table": _Table, "csv": _Csv, "json": _Json}
