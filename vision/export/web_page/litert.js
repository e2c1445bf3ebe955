// Runs a model.tflite by LiteRT.js: on WebGPU if the browser has it, by WebAssembly otherwise.

import {
  Tensor, loadAndCompile, loadLiteRt, supportsFeature, unloadLiteRt,
} from "./runtime/litert.js";

// Returns the ways to run a model here, the fastest first.
export async function ways() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const isSoftware = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  return adapter && !isSoftware ? ["WebGPU", "WebAssembly"] : ["WebAssembly"];
}

// Returns { run, name }: `run(pixels)` gives the probabilities of uint8 pixels of `shape`, a batch
// of one. Afterwards, and if it throws, `close` has to be called before another.
export async function open(bytes, shape, way) {
  const onGpu = way === "WebGPU";
  // Threads share memory, which a browser allows only to a page that is isolated from other
  // origins. JSPI lets a graph run in part on the GPU, which may lack the operation on bytes at its
  // beginning.
  const isIsolated = !onGpu && globalThis.crossOriginIsolated;
  const threads = isIsolated && (await supportsFeature("relaxedSimd"));
  const jspi = onGpu && "Suspending" in WebAssembly;
  const count = threads ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  await loadLiteRt("runtime/wasm/", { threads, jspi });
  const options = onGpu
    ? { accelerator: "webgpu", gpuOptions: { precision: "fp32" } }
    : { accelerator: "wasm", cpuOptions: { numThreads: count } };
  const model = await loadAndCompile(bytes, options);
  // it may have fallen back by itself
  const isOnGpu = onGpu && model.options.accelerator === "webgpu";
  const name = isOnGpu ? "WebGPU" : `WebAssembly, ${count} thread${count > 1 ? "s" : ""}`;
  return { run: (pixels) => run(model, pixels, shape), name: `LiteRT.js (${name})` };
}

export const close = unloadLiteRt;

async function run(model, pixels, shape) {
  const images = new Tensor(pixels, shape);
  try {
    const outputs = await model.run({ images });
    const probabilities = await outputs.probabilities.data();
    Object.values(outputs).forEach((tensor) => tensor.delete());
    return probabilities;
  } finally {
    images.delete();
  }
}
