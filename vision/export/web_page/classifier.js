// The model: its description, model.json, its file, and the runtime that this browser runs it with.

import { decode } from "./decode.js";
import { resizeCrop, toChannels } from "./resize.js";

const MOST_SHIFT = 0.05; // of a probability of the sample image, as the exporter allows another CPU

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
  if (bytes.length !== about.bytes) throw new Refused(`${about.model} is incomplete. Reload the page.`);
  report("Starting the model …");
  const runtime = await import(`./${about.runtime}.js`);
  const sample = about.sample && { ...about.sample, pixels: await pixelsOf(about, await (await read("sample.png")).blob()) };
  return new Classifier(about, await start(runtime, bytes, about, sample));
}

async function read(file, options) {
  const reply = await fetch(file, options).catch(() => null);
  if (!reply) throw new Refused(`${file.split("?")[0]} cannot be loaded. Are you online?`);
  if (!reply.ok) throw new Refused(`${file.split("?")[0]} is missing on the web server: put the whole exported folder there.`);
  return reply;
}

// Returns the fastest engine that answers the sample image as the exporter's did.
async function start(runtime, bytes, { image_size: side, channels }, sample) {
  let reason = "";
  for (const way of await runtime.ways()) {
    try {
      const engine = await runtime.open(bytes, [1, side, side, channels], way);
      const answer = await engine.run(sample?.pixels ?? new Uint8Array(side * side * channels));
      if (isSame(answer, sample?.probabilities)) return engine;
      reason = "it gives other probabilities than at its export";
      runtime.close();
    } catch (error) {
      console.warn(`${way}: ${error}`);
      reason = String(error?.message ?? error).split("\n")[0];
    }
  }
  throw new Refused(`The model does not run in this browser: ${reason}.`);
}

function isSame(answer, expected) {
  if (!answer.every(Number.isFinite)) return false;
  return !expected || answer.every((probability, i) => Math.abs(probability - expected[i]) <= MOST_SHIFT);
}

async function pixelsOf(about, blob) {
  return resizeCrop(toChannels(await decode(blob), about.channels), about.image_size, about.resize).data;
}

class Classifier {
  #engine;
  #running = Promise.resolve();

  constructor(about, engine) {
    this.about = about;
    this.engine = engine.name;
    this.#engine = engine;
  }

  // Returns { probabilities, milliseconds } of a decoded image, as `decode` returns it.
  async classify(image) {
    const begun = performance.now();
    const { data } = resizeCrop(toChannels(image, this.about.channels), this.about.image_size, this.about.resize);
    const resized = performance.now();
    const answer = this.#running.then(() => this.#engine.run(data)); // one at a time
    this.#running = answer.catch(() => {});
    const probabilities = await answer;
    if (!probabilities.every(Number.isFinite)) throw new Refused("The model gives no number for this image.");
    return { probabilities, milliseconds: { resize: resized - begun, model: performance.now() - resized } };
  }

  // Returns the `count` most probable [{ class, probability }], the most probable first.
  top(probabilities, count = 5) {
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    return order.slice(0, count).map((i) => ({ class: this.about.classes[i], probability: probabilities[i] }));
  }
}
