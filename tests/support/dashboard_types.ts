// What a dashboard of Prometheus panels may hold, by the types of Grafana itself.
//
// A dashboard in JSON has strings where the types have enums, and panels are typed without their
// options: `Plain` and `Panels` make up for both. tests/slow/test_dashboard_types.py compiles this.

import type { AnnotationQuery, Dashboard, DataQuery, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer Item>
      ? Array<Plain<Item>>
      : { [Key in keyof T]: Plain<T[Key]> };

// The query of the data source is not in the package: https://grafana.com/docs/grafana/latest/datasources/prometheus/query-editor/
interface PrometheusQuery extends DataQuery {
  expr: string;
  format?: 'time_series' | 'table' | 'heatmap';
  instant?: boolean;
  legendFormat?: string;
  range?: boolean;
}

type Typed<Type extends string, Options, Custom> = Omit<
  Panel,
  'type' | 'options' | 'fieldConfig' | 'targets'
> & {
  type: Type;
  options?: Partial<Options>;
  fieldConfig?: {
    defaults: Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'> & { custom?: Partial<Custom> };
    overrides: NonNullable<Panel['fieldConfig']>['overrides'];
  };
  targets: PrometheusQuery[];
};

type Panels =
  | Typed<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Typed<'stat', stat.Options, Record<string, never>>
  | Typed<'state-timeline', timeline.Options, timeline.FieldConfig>
  | Typed<'table', table.Options, table.FieldConfig>
  | Typed<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | (Omit<RowPanel, 'type' | 'panels'> & { type: 'row'; panels: never[] });

export type Checked = Plain<
  Omit<Dashboard, 'panels' | 'annotations'> & {
    panels: Panels[];
    annotations: { list: Array<AnnotationQuery & { expr: string }> };
  }
>;
