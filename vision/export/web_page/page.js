// The page: takes an image from a file, the clipboard, a drop or the camera, and shows the model's
// answer.

import "./zoom.js";
import { load, Refused } from "./classifier.js";
import { decode } from "./decode.js";
import { bars, draw, latency, make, percent } from "./show.js";
import { takeImages } from "./take.js";

const at = (id) => document.getElementById(id);
let image = null; // as `decode` returns it
let wanted = null; // the Blob that was given last

function report(text, kind = "") {
  at("status").textContent = text;
  at("status").className = `message ${kind}`;
}

// Reports how far loading is, unless a complaint is shown.
function reportProgress(text) {
  if (!at("status").classList.contains("bad")) report(text);
}

function describe({ about, engine }) {
  const { accuracy, classes, image_size: side } = about;
  const size = `${side} × ${side} pixels${about.channels === 1 ? ", gray" : ""}`;
  const measured = accuracy
    ? `; accuracy ${percent(accuracy.value)} on ${accuracy.images} ${accuracy.split} images`
    : "";
  const model = `${about.name} distinguishes ${classes.length} classes in images of ${size}`;
  at("about").textContent = `${model}${measured}. It runs in this browser by ${engine}.`;
}

// Shows an image and its answer. A file that is not an image leaves everything as it is.
async function useImage(blob) {
  wanted = blob;
  const begun = performance.now();
  const decoded = await decode(blob).catch(() => null);
  if (wanted !== blob) return; // another image was given meanwhile
  if (!decoded) {
    return report(`This browser cannot read ${blob.name || "that"} as an image.`, "bad");
  }
  image?.bitmap.close();
  image = { ...decoded, milliseconds: performance.now() - begun };
  at("zone").classList.add("full");
  at("again").hidden = false;
  at("hint").textContent = blob.name || "Your image";
  await ask();
}

function show(fraction) {
  const { width, height } = image;
  draw(at("picture"), image.bitmap, fraction, null);
  at("picture").hidden = false;
  at("picture").setAttribute("aria-label", "Your image");
  at("view").hidden = width === height && fraction > 0.995;
}

async function ask() {
  const asked = image;
  at("answers").setAttribute("aria-busy", "true");
  report("Loading …"); // in place of a complaint about an earlier try
  try {
    const classifier = await load(reportProgress);
    describe(classifier);
    if (asked !== image) return;
    show(classifier.about.seen);
    report("Classifying …");
    await new Promise((resolve) => setTimeout(resolve)); // so that the browser shows it
    const { probabilities, milliseconds } = await classifier.classify(asked);
    if (asked !== image) return;
    milliseconds.decode = asked.milliseconds;
    answer(classifier, classifier.top(probabilities), milliseconds);
  } catch (error) {
    fail(error);
  } finally {
    if (asked === image) at("answers").removeAttribute("aria-busy");
  }
}

function answer({ about, engine }, top, milliseconds) {
  const { decode: decoding, resize, model } = milliseconds;
  const parts = [
    ["decode", "decode", decoding], ["queue", "resize", resize], ["compute", "model", model],
  ];
  at("answers").replaceChildren(
    make("article", { class: "answer", "aria-labelledby": "answer" },
      make("h3", { class: "dim", id: "answer", text: about.name }),
      make("p", { class: "best", text: top[0].class }),
      bars(top), ...latency(parts), make("p", { class: "id dim", text: engine })));
  report(`${top[0].class}, ${percent(top[0].probability)}.`);
}

function fail(error) {
  if (!(error instanceof Refused)) console.error(error);
  const reason = `The model cannot be run here: ${error?.message ?? error}`;
  report(error instanceof Refused ? error.message : reason, "bad");
}

takeImages((blob) => blob && useImage(blob), (sentence) => report(sentence, "bad"));
at("again").addEventListener("click", ask);
try {
  describe(await load(reportProgress));
  if (!image) reportProgress("Nothing yet.");
} catch (error) {
  fail(error);
}
