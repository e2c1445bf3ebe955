"""Writes Grafana's dashboard of the model server.

    python -m scripts.monitoring.dashboard                       # grafana/dashboards/vision.json
    python -m scripts.monitoring.dashboard --out vision.json

What is on it: dashboard_rows.py. How it looks: panels.py. The data source, the models and the
versions are variables.
"""

import argparse
import pathlib
import sys

try:
    from grafana_foundation_sdk.builders.dashboard import (
        AnnotationQuery,
        Dashboard,
        DatasourceVariable,
        QueryVariable,
        Row,
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import (
        DashboardCursorSync,
        VariableOption,
        VariableRefresh,
        VariableSort,
    )
except ImportError:
    sys.exit("error: this needs grafana-foundation-sdk: ./scripts/setup dev")

from scripts.monitoring.dashboard_rows import MODEL, ROWS
from scripts.monitoring.panels import RED, SOURCE

FILE = pathlib.Path(__file__).parent / "grafana" / "dashboards" / "vision.json"


def build():
    """Returns the dashboard as the SDK has it."""
    dashboard = Dashboard("Model server").uid("vision").tags(["vision"])
    dashboard = dashboard.description(
        "Traffic, latency, drift and quality of python -m vision.serving"
    )
    dashboard = dashboard.timezone("browser").time("now-6h", "now").refresh("30s").readonly()
    dashboard = dashboard.tooltip(DashboardCursorSync.CROSSHAIR)
    source = DatasourceVariable("datasource").label("Data source").type("prometheus")
    dashboard = dashboard.with_variable(source)
    dashboard = dashboard.with_variable(
        _choice("model", "Model", "label_values(vision_version_state, model)")
    )
    query = f"label_values(vision_version_state{{{MODEL}}}, version)"
    dashboard = dashboard.with_variable(_choice("version", "Version", query))
    dashboard = dashboard.annotation(
        _marks("Alerts", 'ALERTS{alertname=~"Vision.+", alertstate="firing"}', RED)
    )
    now, before = (
        f"max by (model, version) (vision_version_serving{offset})" for offset in ("", " offset 1m")
    )
    dashboard = dashboard.annotation(_marks("New main versions", f"{now} unless {before}", "blue"))
    for title, panels in ROWS.items():
        dashboard = dashboard.with_row(Row(title))
        for panel in panels():
            dashboard = dashboard.with_panel(panel)
    return dashboard.build()


def _choice(name, label, query):
    """Returns a variable of several values. All of them match errors too, whose version is ""."""
    variable = QueryVariable(name).label(label).datasource(SOURCE).query(query)
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True)
    variable = variable.sort(VariableSort.NATURAL_ASC).include_all(True).all_value(".*")
    return variable.current(VariableOption(selected=True, text="All", value="$__all"))


def _marks(name, expr, color):
    return AnnotationQuery().name(name).datasource(SOURCE).expr(expr).enable(True).icon_color(color)


def render() -> str:
    """Returns the dashboard's JSON."""
    dashboard = build()
    for place, panel in enumerate(dashboard.panels, 1):
        panel.id_val = place
    for variable in dashboard.templating.list_val:
        # those of another kind of variable, which Grafana's own types do not have
        variable.auto = variable.auto_min = variable.auto_count = None
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description="Writes Grafana's dashboard of the model server.")
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="the file (%(default)s)")
    out = parser.parse_args(argv).out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render())
    except OSError as error:
        sys.exit(f"error: {out} cannot be written: {error.strerror}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
