// Resizing exactly as the exporter does (vision/data/decode.py): OpenCV's area averaging, its
// bicubic for what grows, and Pillow's bilinear and bicubic. A canvas scales by other filters, and
// the same model would give other probabilities.
//
// An image is { data, width, height, channels }: data are bytes in rows, a pixel's channels
// together.

const LUMA = [9798, 19235, 3735]; // ITU-R 601 in steps of 1 / 32768, as OpenCV's RGB2GRAY has it
const PIL_BITS = 22; // Pillow's coefficients are integers of this precision

// Rounds to the nearest integer, halves to the even one, as the processor does in OpenCV.
const roundEven = (value) => value + 6755399441055744 - 6755399441055744;
const toByte = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const blank = (width, height, channels) => {
  return { data: new Uint8Array(width * height * channels), width, height, channels };
};

// Returns an image of RGBA bytes with 3 channels, or 1 of gray; alpha is left out.
export function toChannels({ data, width, height }, channels) {
  const result = blank(width, height, channels);
  for (let i = 0, from = 0; i < result.data.length; i += channels, from += 4) {
    const red = data[from], green = data[from + 1], blue = data[from + 2];
    if (channels === 1) {
      result.data[i] = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 16384) >> 15;
    } else {
      result.data[i] = red;
      result.data[i + 1] = green;
      result.data[i + 2] = blue;
    }
  }
  return result;
}

// Resizes the shorter side to size / crop_fraction and cuts out the middle.
export function resizeCrop(image, size, { crop_fraction: fraction, interpolation }) {
  const { width, height } = image;
  if (width === size && height === size) return image;
  const shorter = Math.trunc(size / fraction);
  const longer = Math.floor((shorter * Math.max(width, height)) / Math.min(width, height));
  const sides = height <= width ? [longer, shorter] : [shorter, longer];
  const resized = resize(image, ...sides, interpolation);
  const left = roundEven((resized.width - size) / 2), top = roundEven((resized.height - size) / 2);
  const result = blank(size, size, image.channels), row = size * image.channels;
  for (let y = 0; y < size; y++) {
    const start = ((top + y) * resized.width + left) * image.channels;
    result.data.set(resized.data.subarray(start, start + row), y * row);
  }
  return result;
}

// Resizes to width x height by "area", "bilinear" or "bicubic".
export function resize(image, width, height, interpolation) {
  if (image.width === width && image.height === height) return image;
  if (interpolation !== "area") return pillow(image, width, height, interpolation);
  if (width > image.width || height > image.height) return cubic(image, width, height);
  const x = image.width / width, y = image.height / height;
  if (Number.isInteger(x) && Number.isInteger(y)) return blocks(image, width, height, x, y);
  return area(image, width, height);
}

// Means of whole pixels: the size is a multiple of the new one.
function blocks(image, width, height, across, down) {
  const { channels } = image, row = image.width * channels;
  const result = blank(width, height, channels);
  // OpenCV rounds halves up there, and to the even number elsewhere
  const isFour = across === 2 && down === 2;
  const scale = Math.fround(1 / (across * down));
  let to = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        const start = y * down * row + x * across * channels + c;
        for (let j = 0; j < down; j++)
          for (let i = 0; i < across; i++) sum += image.data[start + j * row + i * channels];
        result.data[to++] = isFour ? (sum + 2) >> 2 : roundEven(Math.fround(sum * scale));
      }
  return result;
}

// Returns, for each of `after` cells, the pixels of `before` that lie in it and their shares in
// float32.
function cells(before, after) {
  const scale = 1 / (after / before); // not before / after, whose last bit may differ
  return Array.from({ length: after }, (_, i) => {
    const start = i * scale, end = start + scale, width = Math.min(scale, before - start);
    const last = Math.min(Math.floor(end), before - 1), first = Math.min(Math.ceil(start), last);
    const parts = [];
    if (first - start > 1e-3) parts.push([first - 1, Math.fround((first - start) / width)]);
    for (let at = first; at < last; at++) parts.push([at, Math.fround(1 / width)]);
    if (end - last > 1e-3) parts.push([last, Math.fround(Math.min(end - last, 1, width) / width)]);
    return parts;
  });
}

// Area averaging; sums are float32 in OpenCV's order, so that they round as its do.
function area(image, width, height) {
  const { channels } = image, length = width * channels, result = blank(width, height, channels);
  const columns = cells(image.width, width), rows = cells(image.height, height);
  const line = new Float32Array(length), sums = new Float32Array(length);
  rows.forEach((parts, y) => {
    sums.fill(0);
    for (const [row, share] of parts) {
      averageLine(image, row, columns, line);
      for (let i = 0; i < length; i++) sums[i] += Math.fround(share * line[i]);
    }
    for (let i = 0; i < length; i++) result.data[y * length + i] = toByte(roundEven(sums[i]));
  });
  return result;
}

function averageLine({ data, width, channels }, row, columns, line) {
  const start = row * width * channels;
  let to = 0;
  for (const parts of columns)
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (const [pixel, share] of parts) {
        const part = Math.fround(data[start + pixel * channels + c] * share);
        sum = Math.fround(sum + part);
      }
      line[to++] = sum;
    }
}

// Returns, for each of `after` places, the four pixels of `before` around it and their
// coefficients.
function cubicTaps(before, after) {
  const scale = 1 / (after / before), A = -0.75; // as OpenCV divides
  const near = (x) => ((A + 2) * x - (A + 3)) * x * x + 1;
  return Array.from({ length: after }, (_, i) => {
    const place = (i + 0.5) * scale - 0.5, first = Math.floor(place), x = place - first;
    const a = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A;
    const b = near(x), c = near(1 - x);
    const pixels = [-1, 0, 1, 2].map((k) => clamp(first + k, 0, before - 1));
    return { pixels, weights: [a, b, c, 1 - a - b - c] };
  });
}

// OpenCV 5's bicubic, which reads four pixels a side and is used if the image grows.
function cubic(image, width, height) {
  const { channels, data } = image, length = width * channels;
  const result = blank(width, height, channels);
  const columns = cubicTaps(image.width, width), rows = cubicTaps(image.height, height);
  const lines = new Float64Array(image.height * length);
  for (let y = 0, to = 0; y < image.height; y++)
    for (const { pixels, weights } of columns)
      for (let c = 0; c < channels; c++, to++)
        for (let k = 0; k < 4; k++)
          lines[to] += data[(y * image.width + pixels[k]) * channels + c] * weights[k];
  rows.forEach(({ pixels, weights }, y) => {
    for (let i = 0; i < length; i++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += lines[pixels[k] * length + i] * weights[k];
      result.data[y * length + i] = toByte(roundEven(sum));
    }
  });
  return result;
}

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at(x) {
      const a = -0.5, d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
};

// Returns, for each of `after` places, the first pixel of `before` that it reads and integer
// coefficients.
function pillowTaps(before, after, { support, at }) {
  const scale = before / after, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: after }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(before, Math.trunc(center + reach + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = first; x < end; x++) {
      const weight = at((x - center + 0.5) * (1 / stretch));
      weights.push(weight);
      sum += weight;
    }
    const coefficients = weights.map((weight) => {
      const scaled = (sum ? weight / sum : weight) * 2 ** PIL_BITS;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights: coefficients };
  });
}

// Pillow's resizing: first across, rounded to bytes, then down.
function pillow(image, width, height, interpolation) {
  const filter = FILTERS[interpolation], { channels } = image;
  const across = width === image.width ? image : blank(width, image.height, channels);
  if (across !== image) {
    const taps = pillowTaps(image.width, width, filter), step = image.width * channels;
    for (let y = 0; y < image.height; y++)
      filterLine(image.data, y * step, channels, channels, taps, across.data, y * width * channels);
  }
  if (height === image.height) return across;
  const result = blank(width, height, channels), step = width * channels;
  filterLine(across.data, 0, step, step, pillowTaps(image.height, height, filter), result.data, 0);
  return result;
}

// Filters `count` interleaved lines, whose pixels are `step` bytes apart, into lines of the same
// layout.
function filterLine(from, start, step, count, taps, to, place) {
  taps.forEach(({ first, weights }, i) => {
    for (let c = 0; c < count; c++) {
      let sum = 2 ** (PIL_BITS - 1), at = start + first * step + c;
      for (let k = 0; k < weights.length; k++, at += step) sum += from[at] * weights[k];
      to[place + i * step + c] = toByte(sum >> PIL_BITS);
    }
  });
}
