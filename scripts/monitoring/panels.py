"""The kinds of panels of the dashboard, each with the house's defaults."""

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import (
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# The data source is a variable, so that the dashboard can be imported anywhere.
SOURCE = common.DataSourceRef("prometheus", "${datasource}")
GREEN = "green"
ORANGE = "orange"
RED = "red"
HEIGHT = 8


class Query(NamedTuple):
    """A query and the legend of its series."""

    expr: str
    legend: str = ""


class Limit(NamedTuple):
    """A value from which on the color changes.

    Attributes:
        value: in the panel's unit.
        color: from that value on.
    """

    value: float
    color: str


def number(
    title: str,
    meaning: str,
    query: str,
    unit: str,
    limits: Sequence[Limit] = (),
    base: str = GREEN,
    missing: str = "no data",
):
    """Returns a panel of the latest value; its background has the color of the limit."""
    panel = stat.Panel().title(title).description(meaning).datasource(SOURCE)
    panel = panel.height(4).span(3).unit(unit).no_value(missing)
    panel = panel.with_target(_target(Query(query), "A"))
    panel = panel.thresholds(_thresholds(limits, base))
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
    panel = panel.color_mode(
        common.BigValueColorMode.BACKGROUND if limits else common.BigValueColorMode.VALUE
    )
    panel = panel.graph_mode(common.BigValueGraphMode.AREA).text_mode(common.BigValueTextMode.VALUE)
    return panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))


def lines(
    title: str,
    meaning: str,
    queries: Sequence[Query],
    unit: str,
    limits: Sequence[Limit] = (),
    base: str = GREEN,
    width: int = 12,
    start: float | None = 0,
):
    """Returns a panel of lines over time; limits are dashed lines.

    Args:
        title, meaning: the panel's title, and what hovering over its "i" shows.
        queries: one or more.
        unit: as Grafana names it.
        limits: thresholds.
        base: the color below them.
        width: in 24ths of the page.
        start: of the vertical axis; None for one that fits.
    """
    panel = timeseries.Panel().title(title).description(meaning).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(width).unit(unit)
    if start is not None:
        panel = panel.min(start)
    for place, query in enumerate(queries):
        panel = panel.with_target(_target(query, chr(ord("A") + place)))
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    panel = panel.line_width(1).fill_opacity(5).show_points(common.VisibilityMode.NEVER)
    panel = panel.span_nulls(False)
    panel = panel.legend(
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.RIGHT)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    panel = panel.tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    if limits:
        panel = panel.thresholds(_thresholds(limits, base))
        style = common_builders.GraphThresholdsStyleConfig()
        panel = panel.thresholds_style(style.mode(common.GraphThresholdsStyleMode.DASHED))
    return panel


def stacked(panel):
    """Returns a panel of `lines`, filled and one on the other: for parts of a sum."""
    stacking = common_builders.StackingConfig().mode(common.StackingMode.NORMAL)
    return panel.stacking(stacking).fill_opacity(30)


def bars(panel):
    """Returns a panel of `lines` as bars: for what happens rarely."""
    return panel.draw_style(common.GraphDrawStyle.BARS).fill_opacity(60)


def logarithmic(panel, smallest: float):
    """Returns a panel of `lines` with a logarithmic axis from `smallest` on."""
    scale = common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
    return panel.scale_distribution(scale).min(smallest)


def dashed(panel, names: str):
    """Returns a panel of `lines` in which the series that a regular expression names are thin and
    dashed: the ends of intervals."""
    style = {"fill": "dash", "dash": [4, 4]}
    properties = [
        DynamicConfigValue("custom.lineStyle", style),
        DynamicConfigValue("custom.fillOpacity", 0),
    ]
    return panel.override_by_regexp(names, properties)


def states(title: str, meaning: str, query: Query, texts: tuple[str, str], width: int = 24):
    """Returns a panel of 0 and 1 over time, a row for each series.

    Args:
        title, meaning, query: as for `lines`.
        texts: what 0 and 1 mean.
        width: in 24ths of the page.
    """
    panel = statetimeline.Panel().title(title).description(meaning).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(width).with_target(_target(query, "A"))
    colors = {"0": (texts[0], GREEN), "1": (texts[1], RED)}
    results = {
        value: ValueMappingResult(text=text, color=color, index=int(value))
        for value, (text, color) in colors.items()
    }
    panel = panel.mappings([ValueMap(results)]).thresholds(_thresholds([Limit(1, RED)], GREEN))
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
    panel = panel.merge_values(True).show_value(common.VisibilityMode.NEVER).row_height(0.9)
    panel = panel.fill_opacity(70).line_width(0)
    legend = common_builders.VizLegendOptions().show_legend(True)
    legend = legend.display_mode(common.LegendDisplayMode.LIST)
    legend = legend.placement(common.LegendPlacement.BOTTOM).calcs([])
    return panel.legend(legend)


def heat(title: str, meaning: str, expr: str, unit: str):
    """Returns a panel of a histogram over time, from the rates of its buckets by `le`."""
    panel = heatmap.Panel().title(title).description(meaning).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(12)
    target = _target(Query(expr, "{{le}}"), "A").format(PromQueryFormat.HEATMAP)
    panel = panel.with_target(target).calculate(False)
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit))
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues")
    color = color.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64).fill("dark-blue")
    panel = panel.color(color.reverse(False))
    return panel.cell_gap(1).show_value(common.VisibilityMode.NEVER)


def listing(
    title: str,
    meaning: str,
    queries: Sequence[str],
    names: dict[str, str],
    units: dict[str, str],
):
    """Returns a table of the latest values, a row for each series of the queries together.

    Args:
        title, meaning: as for `lines`.
        queries: their values are the columns "Value #A", "Value #B" and so on.
        names: {column: its heading}; other columns are left out.
        units: {heading: unit}.
    """
    panel = table.Panel().title(title).description(meaning).datasource(SOURCE)
    panel = panel.height(HEIGHT).span(12)
    columns = ["Time"]
    for place, expr in enumerate(queries):
        letter = chr(ord("A") + place)
        target = _target(Query(expr), letter).instant().format(PromQueryFormat.TABLE)
        panel = panel.with_target(target)
        columns.append(f"Value #{letter}")
    organize = {
        "excludeByName": {column: True for column in columns if column not in names},
        "indexByName": {column: place for place, column in enumerate(names)},
        "renameByName": names,
    }
    panel = panel.transformations(
        [
            DataTransformerConfig("merge", options={}),
            DataTransformerConfig("organize", options=organize),
        ]
    )
    for heading, unit in units.items():
        panel = panel.override_by_name(heading, [DynamicConfigValue("unit", unit)])
    return panel


def _target(query, letter):
    target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE).range()
    return target.legend_format(query.legend) if query.legend else target


def _thresholds(limits, base):
    steps = [Threshold(None, base), *(Threshold(limit.value, limit.color) for limit in limits)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
