"use strict";
// Sorts and filters the table, draws the curves of the runs that are chosen in it, and shows how
// their configs differ.
(() => {
  const { runs, shares } = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  // Readable on white and on black; with more runs than colors, lines are dashed.
  const COLORS = ["#218bff", "#e16f24", "#2da44e", "#bf4b8a", "#8250df", "#9a6700", "#1b7c83",
    "#cf222e", "#6e7781", "#4d7a00"];
  const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
  const table = get("table");
  const body = table.tBodies[0];
  let cursor = null; // place of the reading line on the axis, from 0 to 1

  const boxOf = (row) => row.querySelector("input[type=checkbox]");
  const isPercent = (name) => shares.some((end) => name.endsWith(end));
  const show = (value, name) => isPercent(name) ? (100 * value).toFixed(2) + " %"
    : String(+value.toPrecision(4));

  function chosen() {
    return [...body.rows].filter((row) => boxOf(row)?.checked)
      .map((row) => ({ run: runs[row.dataset.run], row }))
      .map((entry, i) => ({ ...entry, color: COLORS[i % COLORS.length],
        dash: DASHES[Math.floor(i / COLORS.length) % DASHES.length] }));
  }

  function make(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Round numbers that divide an interval into about `count` parts.
  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const first = Math.ceil(low / step);
    // Counted, since adding a step to a large number may not change it.
    const length = Math.min(4 * count, Math.floor(high / step + 1e-6) - first + 1);
    return Array.from({ length }, (_, i) => (first + i) * step);
  }

  function scaleOf(series, name) {
    const isLog = get("log").checked;
    const values = series.flatMap((s) => s.points.map((p) => p[1]))
      .filter((v) => !isLog || v > 0).map((v) => isLog ? Math.log10(v) : v);
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (!(high > low)) {
      const half = 0.05 * Math.abs(low) || 0.5;
      [low, high] = [low - half, low + half];
    }
    const room = 0.05 * (high - low);
    [low, high] = [low - room, high + room];
    const label = (v) => {
      const value = isLog ? 10 ** v : v;
      return isPercent(name) ? +(100 * value).toPrecision(3) + " %" : String(+value.toPrecision(3));
    };
    return { low, high, label, of: (v) => isLog ? (v > 0 ? Math.log10(v) : NaN) : v };
  }

  function draw() {
    const name = get("measure").value;
    const isShare = get("across").value === "share";
    const series = chosen().filter((s) => s.run.curves[name]).map((s) => {
      const points = s.run.curves[name];
      const length = points[points.length - 1][0] || 1;
      return { ...s, length, points: points.map(([x, y]) => [isShare ? x / length : x, y]) };
    });
    const plot = get("plot");
    plot.replaceChildren();
    legend(series, name, isShare);
    if (!series.length) {
      get("reading").textContent = "No run with this measure is chosen. Select runs in the table.";
      return;
    }
    const width = Math.max(300, plot.clientWidth);
    const height = Math.round(Math.min(420, Math.max(240, width * 0.4)));
    const left = 56;
    const right = width - 12;
    const top = 10;
    const bottom = height - 30;
    const last = isShare ? 1 : Math.max(...series.map((s) => s.length));
    const scale = scaleOf(series, name);
    const x = (v) => left + (right - left) * v / last;
    const y = (v) => bottom - (bottom - top) * (scale.of(v) - scale.low) / (scale.high - scale.low);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height });
    for (const v of ticks(scale.low, scale.high, 6)) {
      const at = bottom - (bottom - top) * (v - scale.low) / (scale.high - scale.low);
      svg.append(make("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }),
        make("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, scale.label(v)));
    }
    for (const v of ticks(0, last, width < 500 ? 4 : 8)) {
      const text = isShare ? Math.round(100 * v) + " %" : v.toLocaleString("en-US");
      svg.append(make("text", { x: Math.min(x(v), right - 14), y: height - 10,
        "text-anchor": "middle" }, text));
    }
    for (const s of series) {
      const parts = s.points.filter((p) => !Number.isNaN(scale.of(p[1])))
        .map((p, i) => (i ? "L" : "M") + x(p[0]).toFixed(1) + " " + y(p[1]).toFixed(1));
      const path = make("path", { d: parts.join(""), stroke: s.color, "stroke-dasharray": s.dash });
      path.dataset.run = s.row.dataset.run;
      svg.append(path);
      const best = s.run.curves[name].findIndex((p) => p[0] === s.run.best);
      if (best >= 0) {
        const [px, py] = s.points[best];
        svg.append(make("circle", { cx: x(px), cy: y(py), r: 4.5, fill: s.color }));
      }
    }
    const line = make("line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
    svg.append(line);
    plot.append(svg);
    const read = (place) => {
      cursor = place;
      if (place === null) {
        line.setAttribute("visibility", "hidden");
        get("reading").textContent = "Dots: the best step of each run.";
        get("legend").querySelectorAll("output").forEach((o) => { o.textContent = ""; });
        return;
      }
      const at = left + (right - left) * place;
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
      line.setAttribute("visibility", "visible");
      const step = place * last;
      get("reading").textContent = isShare ? `At ${Math.round(100 * step)} % of each run`
        : `At step ${Math.round(step).toLocaleString("en-US")}`;
      series.forEach((s, i) => {
        const near = s.points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
        const isInside = step <= s.points[s.points.length - 1][0] + last / 100;
        get("legend").querySelectorAll("output")[i].textContent = isInside ? show(near[1], name) : "";
      });
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * width / box.width;
      read(Math.min(1, Math.max(0, (at - left) / (right - left))));
    });
    svg.addEventListener("pointerleave", () => read(null));
    plot.onkeydown = (event) => {
      const moves = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -2, End: 2 };
      if (event.key === "Escape") read(null);
      if (!(event.key in moves)) return;
      event.preventDefault();
      read(Math.min(1, Math.max(0, (cursor ?? 0) + moves[event.key])));
    };
    read(cursor);
  }

  function legend(series) {
    get("legend").replaceChildren(...series.map((s) => {
      const item = document.createElement("li");
      const key = document.createElement("i");
      key.style.borderTopColor = s.color;
      if (s.dash) key.style.borderTopStyle = "dashed";
      item.append(key, s.run.name, document.createElement("output"));
      return item;
    }));
  }

  function mark(row, isMarked) {
    row.classList.toggle("marked", isMarked);
    get("plot")?.querySelector(`path[data-run="${row.dataset.run}"]`)
      ?.classList.toggle("marked", isMarked);
  }

  function differences() {
    const entries = chosen().map((s) => s.run);
    const keys = Object.keys(entries[0]?.config ?? {})
      .filter((key) => new Set(entries.map((run) => run.config[key])).size > 1);
    const rows = keys.map((key) => [key, ...entries.map((run) => run.config[key] ?? "")]);
    const fill = (tag, texts) => {
      const row = document.createElement("tr");
      texts.forEach((text, i) => {
        const cell = document.createElement(tag === "th" || !i ? "th" : "td");
        cell.scope = tag === "th" ? "col" : "row";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    };
    get("differing").replaceChildren();
    get("same").textContent = entries.length < 2 ? "Select at least two runs in the table."
      : keys.length ? "" : "The configs of the chosen runs are the same.";
    if (entries.length < 2 || !keys.length) return;
    const head = document.createElement("thead");
    head.append(fill("th", ["key", ...entries.map((run) => run.name)]));
    const content = document.createElement("tbody");
    content.append(...rows.map((row) => fill("td", row)));
    get("differing").append(head, content);
  }

  function update() {
    if (get("plot")) draw();
    differences();
  }

  function sortBy(column, header) {
    const isRising = header.getAttribute("aria-sort") === "descending"
      || (!header.hasAttribute("aria-sort") && !header.classList.contains("n"));
    table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", isRising ? "ascending" : "descending");
    const keyOf = (row) => row.cells[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [one, two] = [keyOf(a), keyOf(b)];
      if (!one || !two) return (one ? 0 : 1) - (two ? 0 : 1);
      const isNumeric = !Number.isNaN(Number(one)) && !Number.isNaN(Number(two));
      const order = isNumeric ? one - two : one.localeCompare(two, "en", { numeric: true });
      return isRising ? order : -order;
    });
    body.append(...rows);
    update();
  }

  function filter() {
    const words = get("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    get("count").textContent = words.length ? `${count} of ${body.rows.length}` : "";
  }

  document.querySelectorAll(".scripted").forEach((element) => { element.hidden = false; });
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const head = header.querySelector(".head");
    if (!head) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceWith(button);
    button.addEventListener("click", () => sortBy(column, header));
  });
  for (const row of body.rows) {
    boxOf(row)?.addEventListener("change", update);
    row.addEventListener("pointerenter", () => mark(row, true));
    row.addEventListener("pointerleave", () => mark(row, false));
  }
  get("words").addEventListener("input", filter);
  const choose = (isChosen) => {
    for (const row of body.rows) {
      if (boxOf(row) && !row.hidden) boxOf(row).checked = isChosen;
    }
    update();
  };
  get("all").addEventListener("click", () => choose(true));
  get("none").addEventListener("click", () => choose(false));
  for (const id of ["measure", "across", "log"]) get(id)?.addEventListener("change", update);
  window.addEventListener("resize", update);
  update();
})();
