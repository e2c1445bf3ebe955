"""Writes the drawings with all of their titles, and with a tenth of them missing.

    python -m experiments.fusion.data openclipart.parquet runs/titles

Writes all.parquet and tenth.parquet. Both have a column `group`, the title as it was, so that they
are divided into the same splits.
"""

import argparse
import pathlib

import numpy as np

from vision import cli

MISSING = 0.1  # share of the titles


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("file", type=pathlib.Path, help="a table with columns image, text, label")
    p.add_argument("out", type=pathlib.Path, help="directory to write to")
    a = p.parse_args(argv)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(a.file, columns=["image", "text", "label"])
    table = table.append_column("group", table["text"])
    a.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, a.out / "all.parquet")
    titles = table["text"].to_pylist()
    missing = np.random.RandomState(0).permutation(len(titles))[: round(MISSING * len(titles))]
    for row in missing.tolist():
        titles[row] = ""
    place = table.schema.get_field_index("text")
    tenth = table.set_column(place, "text", pa.array(titles, pa.string()))
    pq.write_table(tenth, a.out / "tenth.parquet")
    print(f"{a.out}: {len(titles):,} drawings, {len(missing):,} titles missing in tenth.parquet")


if __name__ == "__main__":
    cli.run(main)
