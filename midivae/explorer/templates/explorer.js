"use strict";
// The explorer's page. Its state is `settings`. Every control changes it and then calls `changed`, which asks the server
// for the sample. While a request runs, only the newest settings wait: those in between are skipped.

const LETTERS = "ABCD"; // of the parents
const FIGURES = { notes: "notes", density: "notes a beat", polyphony: "polyphony", note_length: "beats a note", novelty: "new bars" };
const ATTRIBUTES = { note_length: "note length", key: "key (fifths)", register: "register" };
const RADII = [[0, "exactly the point"], [0.2, "almost the same"], [0.7, "similar"], [1.5, "related"], [Infinity, "different"]];
const ZERO = 0.03; // share of a knob's range around its middle that counts as zero
const loop = new Loop();

let token = "";
let about = null; // what the server says of the model
const FIDELITIES = [[0, "the idea alone"], [0.35, "an outline"], [0.75, "most of the notes"], [Infinity, "the notes"]];
let settings = { model: "", parents: [], at: [0.5, 0.5], radius: 0, fidelity: 1, seed: 0, changes: {}, tempo_qpm: null };
let sample = null; // the newest answer
let names = {}; // of parents
let waiting = null; // the settings to ask for next, and when a person changed them
let asking = false;
let slot = 0; // of the parent that is being chosen

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const randomSeed = () => Math.floor(Math.random() * 2 ** 31);

// --- the server --------------------------------------------------------------------------------------------------------
async function post(name, body, headers) {
  let answer;
  try {
    answer = await fetch(`/api/${name}`, { method: "POST", body, headers: { "X-Midivae-Token": token, ...headers } });
  } catch {
    throw new Error("the explorer does not answer: is `midivae explore` still running?");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  throw new Error(answer.headers.get("Content-Type") === "application/json" ? JSON.parse(text).error : text);
}

const postJson = (name, body) => post(name, JSON.stringify(body), { "Content-Type": "application/json" });
const ask = async (name, body = {}) => (await postJson(name, body)).json();

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
}

// Wraps a handler so that its error is shown on the page.
const attempt = (work, show = showError) => async (...args) => {
  try {
    await work(...args);
  } catch (error) {
    show(error);
  }
};

// --- the settings in the address -----------------------------------------------------------------------------------------
function toHash() {
  const words = new URLSearchParams();
  words.set("m", settings.model);
  for (const parent of settings.parents) words.append("p", parent);
  words.set("at", settings.at.map((x) => Math.round(x * about.limits.grid)).join("."));
  words.set("r", settings.radius);
  if (settings.fidelity !== 1) words.set("f", settings.fidelity);
  words.set("s", settings.seed);
  for (const [name, change] of Object.entries(settings.changes)) if (change) words.append("k", `${name}=${change}`);
  if (settings.tempo_qpm) words.set("t", settings.tempo_qpm);
  return `#${words}`;
}

function fromHash(hash) {
  const words = new URLSearchParams(hash.slice(1));
  const parse = (text, otherwise) => (text !== null && Number.isFinite(Number(text)) ? Number(text) : otherwise);
  const { grid, parents } = about.limits;
  const point = (words.get("at") || "").split(".").map((text) => (text ? clamp(parse(text, grid / 2) / grid, 0, 1) : 0.5));
  const changes = {};
  for (const item of words.getAll("k")) {
    const place = item.lastIndexOf("=");
    changes[item.slice(0, place)] = parse(item.slice(place + 1), 0);
  }
  return {
    model: words.get("m") || "",
    parents: words.getAll("p").slice(0, parents),
    at: [point[0], point[1] ?? 0.5],
    radius: parse(words.get("r"), 0),
    fidelity: clamp(parse(words.get("f"), 1), 0, 1),
    seed: parse(words.get("s"), 0),
    changes,
    tempo_qpm: parse(words.get("t"), null),
  };
}

// --- asking for samples ----------------------------------------------------------------------------------------------------
// since: when a person changed something, in ms of the page's clock; null: the page itself did
function changed(since = performance.now()) {
  history.replaceState(null, "", toHash());
  showControls();
  waiting = { settings: structuredClone(settings), since };
  if (!asking) askForSamples();
}

async function askForSamples() {
  asking = true;
  $("main").setAttribute("aria-busy", "true");
  while (waiting) {
    const { settings: asked, since } = waiting;
    waiting = null;
    try {
      const answer = await ask("make", asked);
      showError(null);
      await take(answer, since);
    } catch (error) {
      showError(error);
    }
  }
  $("main").setAttribute("aria-busy", "false");
  asking = false;
}

// Shows a new sample, and plays it if music plays or if the page may start it.
async function take(answer, since) {
  sample = answer;
  const music = {
    notes: sample.notes.map(([part, row, start, end]) => [part, row + about.pitch_low, start, end]),
    steps: sample.steps,
    secondsPerStep: 60 / sample.tempo_qpm / about.steps_per_beat,
    programs: about.programs,
    drums: about.parts.map((name) => name === "drums"),
  };
  let at = null; // when it is first heard, on the audio clock
  if (loop.playing) at = loop.change(music);
  else {
    loop.music = music;
    if (since !== null && $("auto").checked && navigator.userActivation?.hasBeenActive !== false) {
      await loop.speakers.wake();
      at = loop.start();
      showPlaying();
    }
  }
  showSample();
  const ms = at === null || since === null ? null : performance.now() - since + (at - loop.speakers.now) * 1000;
  const latency = ms === null ? "" : ` First sound after ${Math.round(ms)} ms.`;
  $("status").textContent = `${sample.notes.length} notes, ${sample.key ?? "no key"}.${latency}`;
  $("status").dataset.ms = ms === null ? "" : ms.toFixed(1);
  $("status").dataset.made = sample.params_sha256;
}

// --- what is shown: the sample ---------------------------------------------------------------------------------------------
function showSample() {
  const figures = Object.entries(sample.figures).map(([name, value]) => [FIGURES[name], name === "novelty" ? percent(value) : number(value)]);
  $("figures").replaceChildren(
    ...[["key", sample.key ?? "none"], ...figures].map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  $("roll").setAttribute("aria-label",
    `Piano roll: ${sample.notes.length} notes in ${sample.steps / about.steps_per_beat} beats, ${about.parts.join(", ")}`);
  for (const knob of about.knobs) {
    const measured = knob.name in (sample.edits?.asked ?? {}) ? sample.edits.measured[knob.name] ?? null : null;
    $(`says-${knob.name}`).textContent = measured === null ? "" : `measured ${withUnit(knob, measured).replace(/ (semitones|fifths|points)$/, "")}`;
  }
  $("weights").textContent = sample.weights.map((w, i) => `${LETTERS[i]} ${Math.round(100 * w)} %`).join(" · ");
  $("point").setAttribute("aria-valuetext", $("weights").textContent);
  draw();
}

function button(text, act, label) {
  return make("button", { "aria-label": label, onclick: attempt(act) }, text);
}

let colours = {}; // of the style sheet
function readColours() {
  colours = { ...gridColours(), head: getComputedStyle(document.documentElement).getPropertyValue("--head").trim() };
}

let picture = null; // of the roll, without the line at the step that sounds
const LEFT = 34, FOOT = 16; // pixels beside and below the roll
function draw() {
  const canvas = $("roll");
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!sample || !width) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  picture = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = picture.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "11px system-ui, sans-serif";
  const rows = sample.notes.map(([, row]) => row);
  const low = Math.max(0, Math.min(about.pitches - 12, ...rows) - 1);
  const high = Math.min(about.pitches, Math.max(low + 12, ...rows) + 2);
  const { x, y, row } = drawGrid(pen, {
    left: LEFT, width: width - LEFT, height: height - FOOT, foot: FOOT, low: low + about.pitch_low, high: high + about.pitch_low,
    beats: sample.steps / about.steps_per_beat, beatsPerBar: about.beats_per_bar,
  }, colours);
  for (const [part, pitch, start, end] of sample.notes) {
    const left = x(start / about.steps_per_beat), length = x(end / about.steps_per_beat) - left;
    pen.fillStyle = about.colours[part];
    pen.beginPath();
    pen.roundRect(left + 0.5, y(pitch + about.pitch_low) + row * 0.08, Math.max(2, length - 1.5), Math.max(2, row * 0.84), Math.min(3, row / 3));
    pen.fill();
  }
  drawFrame();
}

function drawFrame() {
  const canvas = $("roll"), pen = canvas.getContext("2d");
  if (!picture) return;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0);
  const step = loop.step();
  if (step === null) return;
  const scale = devicePixelRatio || 1, left = LEFT * scale;
  pen.fillStyle = colours.head;
  pen.fillRect(left + (step / sample.steps) * (canvas.width - left), 0, 2 * scale, canvas.height - FOOT * scale);
}

let shownStill = false; // whether the roll is drawn without the line
function onFrame() {
  if (loop.playing || !shownStill) {
    drawFrame();
    shownStill = !loop.playing;
  }
  $("level").value = Math.min(1, loop.speakers.level().rms * 3);
  requestAnimationFrame(onFrame);
}

// --- what is shown: the controls -----------------------------------------------------------------------------------------
function showPlaying() {
  const [sign, text] = loop.playing ? ["■", " Stop"] : ["▶", " Play"];
  $("play").replaceChildren(make("span", { "aria-hidden": "true" }, sign), text);
  $("play").setAttribute("aria-pressed", String(loop.playing));
  shownStill = false;
}

function withUnit(knob, value) {
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (knob.name === "register") return `${sign}${size.toFixed(1)} semitones`;
  if (knob.name === "key") return `${sign}${size.toFixed(1)} fifths`;
  return `${sign}${Math.round(100 * size)} ${knob.relative ? "%" : "points"}`;
}

function showControls() {
  const n = settings.parents.length;
  $("square-card").hidden = n < 2;
  $("square").className = `square${n === 2 ? " line" : n === 3 ? " three" : ""}`;
  for (const corner of document.querySelectorAll(".corner")) corner.hidden = Number(corner.dataset.corner) >= n;
  $("point").style.left = `${100 * settings.at[0]}%`;
  $("point").style.top = `${n === 2 ? 50 : 100 * settings.at[1]}%`;
  $("point").setAttribute("aria-valuenow", String(Math.round(100 * settings.at[0])));
  $("radius").value = settings.radius;
  $("radius-out").textContent = settings.radius.toFixed(2);
  $("radius-says").textContent = RADII.find(([most]) => settings.radius <= most)[1];
  $("radius").setAttribute("aria-valuetext", `${settings.radius.toFixed(2)}, ${$("radius-says").textContent}`);
  $("fidelity-card").hidden = !about.has_fidelity;
  $("fidelity").value = settings.fidelity;
  $("fidelity-out").textContent = settings.fidelity.toFixed(2);
  $("fidelity-says").textContent = FIDELITIES.find(([most]) => settings.fidelity <= most)[1];
  $("fidelity").setAttribute("aria-valuetext", `${settings.fidelity.toFixed(2)}, ${$("fidelity-says").textContent}`);
  $("seed").textContent = settings.seed;
  $("tempo").value = Math.round(settings.tempo_qpm ?? about.tempo_qpm);
  $("model").value = settings.model;
  for (const knob of about.knobs) {
    const value = settings.changes[knob.name] ?? 0;
    $(`knob-${knob.name}`).value = value;
    $(`out-${knob.name}`).textContent = withUnit(knob, value);
    $(`knob-${knob.name}`).setAttribute("aria-valuetext", withUnit(knob, value));
  }
}

// Shows what depends on the model: its parts, its knobs and the limits of the server.
function showModel() {
  $("model").replaceChildren(...about.models.map((name) => new Option(name, name)));
  $("legend").replaceChildren(
    ...about.parts.map((name, part) => {
      const chip = make("span", { class: "chip" });
      chip.style.background = about.colours[part];
      return make("span", {}, chip, make("bdi", {}, name));
    }),
  );
  $("kept-folder").textContent = about.kept;
  [$("tempo").min, $("tempo").max] = about.limits.tempo_qpm;
  $("file").accept = [...about.limits.upload_suffixes, "audio/midi", "audio/x-midi"].join(",");
  $("file-limit").textContent = megabytes(about.limits.upload_bytes);
  $("reset").hidden = !about.knobs.length;
  const none = make("p", { class: "muted" }, "This model cannot change attributes.");
  $("knobs").replaceChildren(...(about.knobs.length ? about.knobs.map(knobControl) : [none]));
}

const megabytes = (bytes) => `${number(bytes / 2 ** 20)} MB`;

function knobControl(knob) {
  const digits = knob.name === "register" || knob.name === "key" ? 10 : 100;
  const set = (value) => {
    settings.changes[knob.name] = Math.abs(value) < ZERO * (knob.high - knob.low) ? 0 : Math.round(value * digits) / digits;
    changed();
  };
  const range = make("input", {
    type: "range", id: `knob-${knob.name}`, min: knob.low.toFixed(3), max: knob.high.toFixed(3), step: "any", value: "0",
    oninput: () => set(Number(range.value)),
    ondblclick: () => set(0),
    onkeydown: (event) => {
      const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const by = Math.max((knob.high - knob.low) / 20, 0.01), now = settings.changes[knob.name] ?? 0;
      set(clamp(Math.round(now / by + way) * by, knob.low, knob.high));
    },
  });
  return make("div", { class: "knob" },
    make("label", { for: range.id }, ATTRIBUTES[knob.name] ?? knob.name),
    make("p", { class: "muted", id: `says-${knob.name}` }),
    make("output", { id: `out-${knob.name}` }),
    range);
}

async function showParents() {
  const missing = settings.parents.filter((parent) => !(parent in names));
  if (missing.length) {
    const answers = await ask("names", { parents: missing });
    missing.forEach((parent, i) => (names[parent] = answers[i]));
  }
  $("parents").replaceChildren(...settings.parents.map(parentRow));
  $("add").disabled = settings.parents.length >= about.limits.parents;
}

function parentRow(parent, i) {
  const { name, key, split, bars } = names[parent], letter = LETTERS[i];
  const [text, bar] = parent.split("@");
  const tools = make("div", { class: "tools" });
  if (bar) {
    const input = make("input", { type: "number", min: 1, max: bars ?? 9999, value: bar, "aria-label": `Bar of parent ${letter}` });
    input.addEventListener("change", () => {
      settings.parents[i] = `${text}@${Math.max(1, Math.round(Number(input.value)) || 1)}`;
      names[settings.parents[i]] = names[parent];
      changed();
    });
    tools.append(make("label", { class: "muted" }, "bar ", input));
  }
  const remove = button("Remove", async () => {
    settings.parents.splice(i, 1);
    await showParents();
    changed();
    $("add").focus();
  }, `Remove parent ${letter}`);
  remove.disabled = settings.parents.length < 2;
  tools.append(button("Change", () => choose(i), `Change parent ${letter}`), remove);
  const facts = [key, split].filter(Boolean).join(" · ");
  return make("li", {},
    make("span", { class: "letter" }, letter),
    make("span", { class: "name" }, make("bdi", {}, name), make("small", {}, facts)),
    tools);
}

async function showKept() {
  const rows = await ask("kept");
  const items = rows.slice(0, 200).map(({ sample_id: id, key, model, parents }) => {
    const facts = `${key ?? "silent"} · ${model} · ${parents.length} parent${parents.length > 1 ? "s" : ""}`;
    const reopen = async () => open(await ask("open", { sample_id: id }), performance.now());
    const asParent = () => setParent(Math.min(settings.parents.length, about.limits.parents - 1), `sample:${id}`);
    return make("li", {},
      make("span", { class: "name" }, id, make("small", {}, facts)),
      make("div", { class: "tools" },
        button("Open", reopen, `Open ${id}`), button("As parent", asParent, `Use ${id} as a parent`)));
  });
  $("kept").replaceChildren(...(items.length ? items : [make("li", { class: "muted" }, "Nothing yet.")]));
}

// --- choosing a parent -------------------------------------------------------------------------------------------------
async function setParent(place, parent) {
  const before = [...settings.parents];
  settings.parents[place] = parent;
  try {
    await showParents();
  } catch (error) {
    settings.parents = before;
    throw error;
  }
  changed();
}

function choose(place) {
  slot = place;
  $("picker-title").textContent = `Choose parent ${LETTERS[place]}`;
  $("picker").showModal();
  return chooseFrom("pieces");
}

async function chooseFrom(source) {
  for (const tab of document.querySelectorAll("[data-from]")) tab.setAttribute("aria-pressed", String(tab.dataset.from === source));
  for (const name of ["pieces", "samples", "file"]) $(`from-${name}`).hidden = name !== source;
  $("picked").replaceChildren();
  $("picker-says").textContent = "";
  if (source === "pieces") await listPieces();
  if (source === "samples") await listSamples();
}

const inPicker = (work) => attempt(work, (error) => ($("picker-says").textContent = error.message));

async function pick(parent) {
  $("picker").close();
  await setParent(slot, parent);
}

let search = 0; // number of the newest search: answers to older ones are not shown
async function list(name, query, describe) {
  const mine = ++search;
  const rows = await ask(name, query);
  if (mine !== search) return;
  $("picked").replaceChildren(
    ...rows.map((row) => {
      const { title, facts, parent } = describe(row), item = button("", () => pick(parent));
      item.append(make("bdi", {}, title), make("br"), make("small", {}, facts.filter(Boolean).join(" · ")));
      return make("li", {}, item);
    }),
  );
  const more = rows.length === about.limits.listed ? " or more" : "";
  $("picker-says").textContent = rows.length ? `${rows.length}${more} found` : "nothing found";
}

const listPieces = inPicker(() =>
  list("pieces", { text: $("piece-text").value, split: $("piece-split").value }, (row) => ({
    title: row.path, facts: [row.key, `${row.bars} bars`, row.split], parent: `piece:${row.piece_id}@1`,
  })));
const listSamples = inPicker(() =>
  list("samples", { where: $("sample-where").value }, (row) => ({
    title: row.sample_id, facts: [row.mode, row.model, row.key, `${row.notes} notes`], parent: `sample:${row.sample_id}`,
  })));
const uploadFile = inPicker(async () => {
  const [file] = $("file").files;
  if (!file) return;
  const most = about.limits.upload_bytes;
  if (file.size > most) throw new Error(`${file.name}: ${file.size} bytes; a MIDI file may have ${megabytes(most)}`);
  $("picker-says").textContent = "reading it…";
  const name = encodeURIComponent(file.name.slice(-150).toWellFormed());
  const answer = await post("upload", file, { "Content-Type": "audio/midi", "X-File-Name": name });
  const { parent } = await answer.json();
  $("file").value = "";
  await pick(parent);
});

// --- opening settings ----------------------------------------------------------------------------------------------------
async function open(values, since) {
  const model = values.model || about.model;
  if (about.model !== model) about = await ask("about", { model });
  settings = { ...settings, ...values, model: about.model };
  settings.changes = Object.fromEntries(Object.entries(settings.changes).filter(([name]) => about.knobs.some((knob) => knob.name === name)));
  if (!settings.parents.length) settings.parents = await ask("random", { count: about.limits.parents, seed: randomSeed() });
  showModel();
  try {
    await showParents();
  } finally {
    changed(since);
  }
}

async function download() {
  const answer = await postJson("midi", settings);
  saveFile(await answer.blob(), `midivae-${sample?.params_sha256.slice(0, 8) ?? "sample"}.mid`);
}

async function keep() {
  const kept = await ask("keep", settings);
  $("status").textContent = kept.new ? `Kept as ${kept.sample_id}.` : `Already kept as ${kept.sample_id}.`;
  await showKept();
}

// --- what a person does ----------------------------------------------------------------------------------------------------
async function playOrStop() {
  if (loop.playing) loop.stop();
  else if (loop.music) {
    await loop.speakers.wake();
    loop.start();
  }
  showPlaying();
}

function moveTo(x, y) {
  const { grid } = about.limits;
  settings.at = [x, y].map((value) => Math.round(clamp(value, 0, 1) * grid) / grid);
  changed();
}

function listenToSquare() {
  const square = $("square");
  const drag = (event) => {
    const box = square.getBoundingClientRect();
    moveTo((event.clientX - box.left) / box.width, settings.parents.length === 2 ? 0.5 : (event.clientY - box.top) / box.height);
  };
  square.addEventListener("pointerdown", (event) => {
    square.setPointerCapture(event.pointerId);
    $("point").focus({ preventScroll: true });
    event.preventDefault();
    drag(event);
  });
  square.addEventListener("pointermove", (event) => { if (square.hasPointerCapture(event.pointerId)) drag(event); });
  $("point").addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 1 / 64 : 1 / 16;
    const way = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
    const to = way ? [settings.at[0] + way[0], settings.at[1] + way[1]] : { Home: [0, 0], End: [1, 1] }[event.key];
    if (!to) return;
    event.preventDefault();
    moveTo(...to);
  });
}

function listen() {
  const on = (id, event, work) => $(id).addEventListener(event, attempt(work));
  on("play", "click", playOrStop);
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && !event.target.closest("button, input, select, dialog, a")) {
      event.preventDefault();
      attempt(playOrStop)();
    }
  });
  on("volume", "input", () => loop.speakers.setVolume(Number($("volume").value)));
  on("tempo", "change", () => {
    const tempo = clamp(Number($("tempo").value) || about.tempo_qpm, ...about.limits.tempo_qpm);
    settings.tempo_qpm = Math.round(tempo) === Math.round(about.tempo_qpm) ? null : tempo;
    changed();
  });
  on("radius", "input", () => { settings.radius = Number($("radius").value); changed(); });
  on("fidelity", "input", () => { settings.fidelity = Number($("fidelity").value); changed(); });
  on("roll-again", "click", () => { settings.seed = randomSeed(); changed(); });
  on("reset", "click", () => { settings.changes = {}; changed(); });
  on("model", "change", () => open({ model: $("model").value }, performance.now()));
  on("lot", "click", () => open({ parents: [], at: [0.5, 0.5] }, performance.now()));
  on("add", "click", () => choose(settings.parents.length));
  on("keep", "click", keep);
  on("download", "click", download);
  on("share", "click", async () => {
    await navigator.clipboard.writeText(location.href);
    $("status").textContent = "The link to this sample is on the clipboard.";
  });
  window.addEventListener("hashchange", attempt(() => open(fromHash(location.hash), performance.now())));
  listenToSquare();

  $("picker-close").addEventListener("click", () => $("picker").close());
  for (const tab of document.querySelectorAll("[data-from]")) tab.addEventListener("click", inPicker(() => chooseFrom(tab.dataset.from)));
  let timer = 0;
  const soon = (work) => () => { clearTimeout(timer); timer = setTimeout(work, 180); };
  $("piece-text").addEventListener("input", soon(listPieces));
  $("piece-split").addEventListener("change", listPieces);
  $("sample-where").addEventListener("input", soon(listSamples));
  $("file").addEventListener("change", uploadFile);

  new ResizeObserver(draw).observe($("roll"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
}

// The token comes in the fragment of the address. It is stored for this address only, and removed from what is shown.
function readToken() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (words.has("token")) {
    localStorage.setItem("midivae-token", words.get("token"));
    words.delete("token");
    history.replaceState(null, "", `#${words}`);
  }
  return localStorage.getItem("midivae-token") ?? "";
}

attempt(async () => {
  token = readToken();
  readColours();
  about = await ask("about");
  listen();
  onFrame();
  await open(fromHash(location.hash), null);
  await showKept();
})();
