// The model: its description, model.json, its file, and the runtime that this browser runs it with.

import { decode } from "./decode.js";
import { resizeCrop, toChannels } from "./resize.js";

// How far a probability of the sample image may be from the export's; reduced precisions round
// differently on another processor, and the exporter allows as much.
const MOST_SHIFT = { float32: 1e-3, float16: 0.05, int8: 0.05 };

// What went wrong, in a sentence for the reader.
export class Refused extends Error {}

let loading = null;

// Returns the one classifier of the page. `report(sentence)` is called on the way.
export function load(report) {
  loading ??= open(report).catch((error) => {
    loading = null; // a later try may succeed
    throw error;
  });
  return loading;
}

async function open(report) {
  const about = await (await read("model.json", { cache: "no-cache" })).json();
  report(`Loading the model, ${(about.bytes / 1e6).toFixed(1)} MB, and its runtime …`);
  // with its digest, so that the browser's cache does not return the file of an earlier export
  const reply = await read(`${about.model}?${about.sha256.slice(0, 16)}`);
  const bytes = new Uint8Array(await reply.arrayBuffer());
  if (bytes.length !== about.bytes) {
    throw new Refused(`${about.model} is incomplete. Reload the page.`);
  }
  report("Starting the model …");
  const runtime = await import(`./${about.runtime}.js`);
  const sample = await (await read(about.sample.file, { cache: "no-cache" })).blob();
  const engine = await start(runtime, bytes, about, await pixelsOf(about, sample));
  return new Classifier(about, engine, () => {
    loading = null; // the next image starts the model again
    close(runtime);
  });
}

async function read(file, options) {
  const reply = await fetch(file, options).catch(() => null);
  const [name] = file.split("?");
  if (!reply) throw new Refused(`${name} cannot be loaded. Are you online?`);
  if (!reply.ok) {
    throw new Refused(`${name} is missing on the web server: put the whole exported folder there.`);
  }
  return reply;
}

// Returns the fastest engine that answers the sample image as the exporter's did.
async function start(runtime, bytes, about, pixels) {
  const shape = [1, about.image_size, about.image_size, about.channels];
  let reason = "";
  for (const way of await runtime.ways()) {
    try {
      const engine = await runtime.open(bytes, shape, way);
      if (isSame(await engine.run(pixels), about)) return engine;
      reason = "it gives other probabilities than at its export";
    } catch (error) {
      console.warn(`${way}: ${error}`);
      reason = String(error?.message ?? error).split("\n")[0];
    }
    close(runtime); // so that another way can be tried
  }
  throw new Refused(`The model does not run in this browser: ${reason}.`);
}

function isSame(answer, { sample: { probabilities: expected }, precision }) {
  const most = MOST_SHIFT[precision];
  const isNear = (probability, i) => Math.abs(probability - expected[i]) <= most; // false for NaN
  return answer.length === expected.length && answer.every(isNear);
}

// Closes a runtime; one that has lost its device may throw.
function close(runtime) {
  try {
    runtime.close();
  } catch (error) {
    console.warn(`${error}`);
  }
}

async function pixelsOf(about, blob) {
  return prepare(await decode(blob), about).data;
}

function prepare(image, { channels, image_size: side, resize }) {
  return resizeCrop(toChannels(image, channels), side, resize);
}

class Classifier {
  #engine;
  #discard;
  #running = Promise.resolve();

  // `discard()` is called once if the engine fails, as it does if a GPU is lost.
  constructor(about, engine, discard) {
    this.about = about;
    this.engine = engine.name;
    this.#engine = engine;
    this.#discard = discard;
  }

  // Returns { probabilities, milliseconds } of a decoded image, as `decode` returns it.
  async classify(image) {
    const begun = performance.now();
    const { data } = prepare(image, this.about);
    const resized = performance.now();
    const answer = this.#running.then(() => this.#engine.run(data)); // one at a time
    this.#running = answer.catch(() => {
      this.#discard?.();
      this.#discard = null;
    });
    const probabilities = await answer;
    if (!probabilities.every(Number.isFinite)) {
      throw new Refused("The model gives no number for this image.");
    }
    const milliseconds = { resize: resized - begun, model: performance.now() - resized };
    return { probabilities, milliseconds };
  }

  // Returns the `count` most probable [{ class, probability }], the most probable first.
  top(probabilities, count = 5) {
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const pair = (i) => ({ class: this.about.classes[i], probability: probabilities[i] });
    return order.slice(0, count).map(pair);
  }
}
