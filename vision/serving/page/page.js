// The page: takes an image from a file, the clipboard, a drop or the camera, and shows the server's answer.

import "./zoom.js";
import { Refused, Server } from "./api.js";
import { answer, draw, drawTiles, make, percent, tileScores } from "./show.js";
import { takeImages } from "./take.js";

const at = (id) => document.getElementById(id);
const server = new Server();
let models = [];
let image = null; // a Blob
let bitmap = null; // the decoded image; null if the browser cannot decode it
let answers = [];
let running = new AbortController(); // cancels the request in flight

function report(text, kind = "") {
  at("status").textContent = text;
  at("status").className = `message ${kind}`;
}

function chosen() {
  return models.find((model) => model.name === at("model").value);
}

// Returns what is known about a version of the chosen model, or about the one that gets most requests.
function about(version) {
  const model = chosen();
  return model?.about[version] ?? model?.about[model.serving];
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, text })));
  if (options.some(([value]) => value === before)) select.value = before;
}

// Returns the server's parameters that cut the image into tiles; null if it is classified as a whole.
function cut() {
  const tiles = at("tiles").value, normal = at("normal").value.trim();
  if (!tiles) return null;
  return { tiles, ...(normal && { normal, defect_threshold: at("threshold").value || "0.5" }) };
}

function showCut() {
  const fields = [...document.querySelectorAll(".cut")];
  for (const field of fields) field.hidden = !at("tiles").value;
}

async function loadModels() {
  try {
    models = await server.models();
  } catch (error) {
    return fail(error);
  }
  at("key-field").hidden = !server.key;
  fill(at("model"), models.map((model) => [model.name, model.name]));
  chooseModel();
  if (!models.length) return report("This server has no model yet.", "look");
  if (image) return ask();
  report("Nothing yet.");
}

function chooseModel() {
  const model = chosen(), versions = [...(model?.versions ?? [])].reverse(); // the newest first
  fill(at("version"), [["", "automatic"], ...versions.map((name) => [name, name])]);
  fill(at("other"), [["", "nothing"], ...(versions.length > 1 ? versions : []).map((name) => [name, `version ${name}`])]);
  at("other").parentElement.hidden = versions.length < 2;
  describe();
}

function describe() {
  const facts = about(at("version").value);
  if (!facts) return (at("about").textContent = "No model is loaded.");
  const size = `${facts.image_size} × ${facts.image_size} pixels${facts.channels === 1 ? ", gray" : ""}`;
  const accuracy = facts.quality?.metrics?.accuracy?.value;
  const measured = accuracy == null ? "" : `; accuracy ${percent(accuracy)} on ${facts.quality.images} ${facts.quality.split} images`;
  const rule = facts.unsure ? ` It says when it is unsure: ${facts.unsure.replace("=", " ")}.` : "";
  at("about").textContent = `${chosen().name} distinguishes ${facts.classes} classes in images of ${size}${measured}.${rule}`;
}

// Updates the lists if a version has appeared since they were made.
async function updateModels(versions) {
  if (versions.every((version) => chosen()?.about[version])) return;
  models = await server.models().catch(() => models);
  chooseModel();
}

async function useImage(blob) {
  if (!blob) return;
  image = blob;
  const decoded = await createImageBitmap(blob).catch(() => null);
  if (image !== blob) return; // another image was chosen meanwhile
  bitmap = decoded;
  answers = [];
  at("answers").replaceChildren();
  at("zone").classList.add("full");
  at("again").hidden = false;
  at("hint").textContent = bitmap ? blob.name || "Your image" : `${blob.name || "Your image"}: no preview in this browser`;
  show();
  await ask();
}

function show() {
  const model = chosen(), [first] = answers, heat = first?.heatmap ?? first?.tiles ?? null;
  at("picture").hidden = !bitmap;
  at("view").hidden = !bitmap || !model;
  at("heat-field").hidden = !heat;
  const who = answers.length > 1 ? `version ${first.version}` : "the model";
  at("heat-text").textContent = first?.tiles ? "Show the scores of the tiles" : `Show where ${who} looks`;
  if (!bitmap) return;
  at("seen").textContent = first?.tiles ? "The frame is the tile that decided." : "The frame is what the model sees.";
  if (first?.tiles) {
    drawTiles(at("picture"), bitmap, first, tileScores(first, first.cut.normal), at("heat").checked);
    at("seen").hidden = false;
    at("picture").setAttribute("aria-label", `Your image${at("heat").checked ? ", with the scores of its tiles" : ""}`);
    return;
  }
  const fraction = about(answers[0]?.version ?? at("version").value)?.seen ?? 1;
  draw(at("picture"), bitmap, fraction, at("heat").checked ? heat : null);
  at("seen").hidden = bitmap.width === bitmap.height && fraction > 0.995;
  at("picture").setAttribute("aria-label", `Your image${heat && at("heat").checked ? ", with where the model looks" : ""}`);
}

async function ask() {
  const model = chosen();
  if (!image || !model) return;
  running.abort();
  const controller = (running = new AbortController());
  const versions = [at("version").value, at("other").value].slice(0, at("other").value ? 2 : 1);
  const waiting = (seconds) => report(`The server is busy. Asking again in ${seconds} s …`, "look");
  const options = { signal: controller.signal, waiting, cut: cut() };
  report("Asking …");
  at("answers").setAttribute("aria-busy", "true");
  try {
    const results = [];
    // One after the other: at once they would slow each other down, and the times shown would be wrong.
    for (const version of versions) results.push(await server.classify(model.name, image, { ...options, version }));
    answers = results;
    await updateModels(answers.map(({ version }) => version));
    at("answers").replaceChildren(...answers.map((result, i) => answer(result, `answer-${i}`)));
    report(summary().replace(/^unsure/, "Unsure"));
    show();
  } catch (error) {
    if (controller.signal.aborted) return;
    answers = [];
    at("answers").replaceChildren();
    show();
    fail(error);
  } finally {
    if (controller === running) at("answers").removeAttribute("aria-busy");
  }
}

function summary() {
  const best = answers.map(({ top: [first], version, unsure }) =>
    [first.class, `${unsure ? "unsure, perhaps " : ""}${first.class}, ${percent(first.probability)}`, version]);
  if (best.length === 1) return `${best[0][1]}, says version ${best[0][2]}.`;
  const same = best[0][0] === best[1][0] ? "Both agree" : "They differ";
  return `${same}. Version ${best[0][2]}: ${best[0][1]}. Version ${best[1][2]}: ${best[1][1]}.`;
}

function fail(error) {
  if (!(error instanceof Refused)) throw error;
  report(server.key && error.status === 401 ? "The server does not know this API key." : error.message, "bad");
  if (error.status !== 401) return;
  if (!models.length) at("about").textContent = "Enter an API key to see its models.";
  at("key-field").hidden = false;
  at("key").focus();
}

takeImages(useImage, (text) => report(text, "bad"));
at("model").addEventListener("change", () => {
  chooseModel();
  answers = [];
  show();
  ask();
});
at("version").addEventListener("change", () => {
  describe();
  ask();
});
at("other").addEventListener("change", ask);
at("tiles").addEventListener("input", showCut);
for (const name of ["tiles", "normal", "threshold"]) at(name).addEventListener("change", ask);
showCut(); // a browser may fill in what was there before
at("again").addEventListener("click", ask);
at("heat").addEventListener("change", show);
at("choices").addEventListener("submit", (event) => {
  event.preventDefault();
  server.key = at("key").value.trim();
  loadModels();
});
loadModels();
