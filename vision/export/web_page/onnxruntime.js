// Runs a model.onnx by ONNX Runtime Web's WebAssembly.

import * as ort from "./runtime/ort.js";

// Returns the ways to run a model here, the fastest first.
export const ways = async () => ["WebAssembly"];

// Returns { run, name }: `run(pixels)` gives the probabilities of uint8 pixels of `shape`, a batch
// of one.
export async function open(bytes, shape) {
  const at = (file) => new URL(`runtime/${file}`, document.baseURI).href;
  const cores = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const count = Math.min(4, cores || 1);
  ort.env.wasm.wasmPaths = { mjs: at("ort-wasm.js"), wasm: at("ort-wasm.wasm") };
  ort.env.wasm.numThreads = count;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const run = async (pixels) => {
    const images = new ort.Tensor("uint8", pixels, shape);
    return (await session.run({ images }, ["probabilities"])).probabilities.data;
  };
  return { run, name: `ONNX Runtime Web (WebAssembly, ${count} thread${count > 1 ? "s" : ""})` };
}

export function close() {}
