// Drawing: an image with the part that the model sees, and a model's answer as bars.

const SIDE = 1024; // pixels; the longest side of the drawing

// Inferno at equal steps: its lightness grows evenly, so it can be read without color too.
const COLORS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const OPACITY = 0.7; // at the hottest place

export function percent(p) {
  return p < 0.001 ? "<\u00a00.1\u00a0%" : p > 0.999 ? ">\u00a099.9\u00a0%" : `${(100 * p).toFixed(1)}\u00a0%`;
}

export function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// Draws an ImageBitmap with a frame around its middle square, `fraction` of its shorter side, and a heat map in it:
// `heat` is rows of numbers from 0 to 1, or null.
export function draw(canvas, image, fraction, heat) {
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const enlarged = scale === 1 && Math.max(image.width, image.height) < 128 ? 8 : 1;
  canvas.width = Math.max(1, Math.round(image.width * scale * enlarged));
  canvas.height = Math.max(1, Math.round(image.height * scale * enlarged));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = enlarged === 1;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const side = fraction * Math.min(canvas.width, canvas.height);
  const left = (canvas.width - side) / 2, top = (canvas.height - side) / 2;
  if (heat) drawHeat(context, heat, left, top, side);
  if (side < 0.995 * Math.max(canvas.width, canvas.height)) drawFrame(context, left, top, side);
}

// Draws an ImageBitmap with a frame around the tile that decided and, if `isMapped`, the score of each place:
// the mean of the tiles that cover it. `result` is the server's answer, `scores` has a number for each of its tiles.
export function drawTiles(canvas, image, result, scores, isMapped) {
  draw(canvas, image, 1, null);
  const context = canvas.getContext("2d"), across = canvas.width / result.width, down = canvas.height / result.height;
  context.drawImage(image, 0, 0, canvas.width, canvas.height); // without the frame of the middle square
  const edges = (place, side) => [...new Set(result.tiles.flatMap((tile) => [tile[place], tile[place] + tile[side]]))].sort((a, b) => a - b);
  const xs = edges("x", "width"), ys = edges("y", "height");
  for (let row = 0; isMapped && row + 1 < ys.length; row++) {
    for (let column = 0; column + 1 < xs.length; column++) {
      const covers = ({ x, y, width, height }) => x <= xs[column] && xs[column] < x + width && y <= ys[row] && ys[row] < y + height;
      const here = scores.filter((_, i) => covers(result.tiles[i]));
      if (!here.length) continue;
      const [red, green, blue, opacity] = color(here.reduce((sum, score) => sum + score, 0) / here.length);
      context.fillStyle = `rgb(${red} ${green} ${blue} / ${opacity / 255})`;
      const left = Math.round(xs[column] * across), top = Math.round(ys[row] * down); // no seams between cells
      context.fillRect(left, top, Math.round(xs[column + 1] * across) - left, Math.round(ys[row + 1] * down) - top);
    }
  }
  const { x, y, width, height } = result.tile, line = Math.max(2, Math.max(canvas.width, canvas.height) / 250);
  for (const [style, thickness] of [["#000", 2 * line], ["#fff", line]]) { // seen on any image
    context.lineWidth = thickness;
    context.strokeStyle = style;
    context.strokeRect(x * across + line, y * down + line, width * across - 2 * line, height * down - 2 * line);
  }
}

// Returns a score for each tile: of its most probable class that is not `normal`, or of the image's class without one.
export function tileScores(result, normal) {
  const counts = (name) => (normal ? name !== normal : name === result.class);
  return result.tiles.map(({ top }) => top.find((entry) => counts(entry.class))?.probability ?? 0);
}

function drawFrame(context, left, top, side) {
  const { width, height } = context.canvas, line = Math.max(2, Math.max(width, height) / 250);
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, side, side);
  context.fill("evenodd");
  context.lineWidth = line;
  context.strokeStyle = "#fff";
  context.strokeRect(left + line / 2, top + line / 2, side - line, side - line);
}

// Returns [red, green, blue, opacity] from 0 to 255 of a number from 0 to 1.
function color(value) {
  const at = Math.min(1, Math.max(0, value)) * (COLORS.length - 1), low = Math.min(Math.floor(at), COLORS.length - 2);
  const mixed = COLORS[low].map((from, c) => from + (at - low) * (COLORS[low + 1][c] - from));
  return [...mixed.map(Math.round), Math.round(255 * OPACITY * Math.min(1, value))];
}

function drawHeat(context, heat, left, top, side) {
  const height = heat.length, width = heat[0].length, small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  heat.flat().forEach((value, i) => {
    pixels.data.set(color(value), 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.save();
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left, top, side, side);
  context.restore();
}

// Returns a list with a bar for each of [{ class, probability }].
export function bars(top) {
  const list = make("ol", { class: "bars", "aria-label": "Most probable classes" });
  for (const { class: name, probability } of top) {
    const bar = make("i");
    bar.style.width = `${100 * probability}%`; // by script: the page's policy forbids style attributes
    list.append(make("li", {}, make("span", { text: name }), make("span", { class: "percent", text: percent(probability) }),
      make("div", { class: "track", "aria-hidden": "true" }, bar)));
  }
  return list;
}

// Returns an element that shows an answer of the server; `id` is its heading's.
export function answer(result, id) {
  const { decode, queue, compute, total } = result.milliseconds, network = total - decode - queue - compute;
  const parts = [["decode", "decode", decode], ["queue", "wait", queue], ["compute", "model", compute], ["way", "network", network]];
  return make("article", { class: "answer", "aria-labelledby": id },
    make("h3", { class: "dim", id, text: `${result.model}, version ${result.version}` }),
    ...verdict(result),
    bars(result.top), ...latency(parts), make("p", { class: "id dim", text: `Request ${result.id}` }));
}

// Returns elements with the class; or with "Unsure" and the best guess, or the classes that it may be.
function verdict(result) {
  const best = result.top[0].class;
  if (result.tiles) return [make("p", { class: "best", text: best }), make("p", { class: "guess", text: tilesSentence(result) })];
  if (!result.unsure) return [make("p", { class: "best", text: best })];
  const guess = result.set ? `One of ${result.set.length}: ${result.set.join(", ")}` : `Best guess: ${best}`;
  return [make("p", { class: "best unsure", text: "Unsure" }), make("p", { class: "guess", text: guess })];
}

// Returns how many tiles exceed the threshold, or without a normal class how many there are.
function tilesSentence({ tiles, tile, cut }) {
  const place = `the one at x ${tile.x}, y ${tile.y}`;
  if (!cut.normal) return `Decided by one of ${tiles.length} tiles: ${place}.`;
  const defects = tileScores({ tiles }, cut.normal).filter((score) => score > cut.defect_threshold).length;
  return `${defects} of ${tiles.length} tiles exceed ${cut.defect_threshold}; the highest is ${place}.`;
}

// Returns elements that show what an answer took: `parts` are [class in the style sheet, name, milliseconds].
export function latency(parts) {
  const shown = parts.map(([kind, text, milliseconds]) => [kind, text, Math.max(0, milliseconds)]);
  const total = shown.reduce((sum, [, , milliseconds]) => sum + milliseconds, 0);
  const split = make("div", { class: "split", "aria-hidden": "true" });
  const list = make("dl", { class: "parts" });
  for (const [kind, text, milliseconds] of shown) {
    const part = make("i", { class: kind });
    part.style.width = `${(100 * milliseconds) / total}%`;
    split.append(part);
    list.append(make("div", {}, make("dt", { class: kind, text }), make("dd", { text: time(milliseconds) })));
  }
  return [make("h3", { text: `Answered in ${time(total)}` }), split, list];
}

function time(milliseconds) {
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}
