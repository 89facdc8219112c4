"use strict";
// The explorer's page. Its state is the find below; whatever changes it ends in `changed`, which asks for the music of
// the newest find and no other: while one is made, only the last of those that follow is remembered.
// Texts from outside go into the page as text (`textContent`), never as markup.

const $ = (id) => document.getElementById(id);
const LETTERS = "ABCD";
const NAMES = "C C# D Eb E F F# G Ab A Bb B".split(" ");
const LABELS = { notes: "notes", density: "notes a beat", polyphony: "polyphony", note_length: "beats a note", novelty: "new bars" };
const WORDS = { note_length: "note length", key: "key (fifths)", register: "register" };
const loop = new Loop();

let token = "";
let about = null; // of the model
let find = { model: "", parents: [], at: [0.5, 0.5], radius: 0, seed: 0, changes: {}, tempo_qpm: null };
let music = null; // what the server made of it
let names = {}; // of parents
let wanted = null; // the find to ask for next, and since when
let asking = false;
let slot = 0; // of the parent that is being chosen

// --- the server --------------------------------------------------------------------------------------------------------
async function post(name, body, headers) {
  let answer;
  try {
    answer = await fetch(`/api/${name}`, { method: "POST", body, headers: { "X-Midivae-Token": token, ...headers } });
  } catch {
    throw new Error("the explorer does not answer: is `midivae explore` still running?");
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

const ask = async (name, told = {}) => (await post(name, JSON.stringify(told), { "Content-Type": "application/json" })).json();

function complain(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
}

// runs what a person asked for; what goes wrong is said, not thrown
const attempt = (work) => async (...args) => {
  try {
    await work(...args);
  } catch (error) {
    complain(error);
  }
};

// --- the state in the address --------------------------------------------------------------------------------------------
function toHash() {
  const words = new URLSearchParams();
  words.set("m", find.model);
  for (const parent of find.parents) words.append("p", parent);
  words.set("at", find.at.map((x) => Math.round(x * 256)).join("."));
  words.set("r", find.radius);
  words.set("s", find.seed);
  for (const [name, change] of Object.entries(find.changes)) if (change) words.append("k", `${name}=${change}`);
  if (find.tempo_qpm) words.set("t", find.tempo_qpm);
  return `#${words}`;
}

function fromHash(hash) {
  const words = new URLSearchParams(hash.slice(1));
  const number = (text, otherwise) => (text !== null && Number.isFinite(Number(text)) ? Number(text) : otherwise);
  const at = (words.get("at") || "128.128").split(".").map((text) => Math.min(1, Math.max(0, number(text, 128) / 256)));
  const changes = {};
  for (const item of words.getAll("k")) {
    const place = item.lastIndexOf("=");
    changes[item.slice(0, place)] = number(item.slice(place + 1), 0);
  }
  return {
    model: words.get("m") || "",
    parents: words.getAll("p").slice(0, 4),
    at: [at[0], at[1] ?? 0.5],
    radius: number(words.get("r"), 0),
    seed: number(words.get("s"), 0),
    changes,
    tempo_qpm: number(words.get("t"), null),
  };
}

// --- asking for music ------------------------------------------------------------------------------------------------------
// since: when a person did something, in ms of the page's clock; null: nobody did
function changed(since = performance.now()) {
  history.replaceState(null, "", toHash());
  showControls();
  wanted = { find: structuredClone(find), since };
  if (!asking) pump();
}

async function pump() {
  asking = true;
  $("main").setAttribute("aria-busy", "true");
  while (wanted) {
    const { find: asked, since } = wanted;
    wanted = null;
    try {
      const made = await ask("make", asked);
      complain(null);
      await play(made, since);
    } catch (error) {
      complain(error);
    }
  }
  $("main").setAttribute("aria-busy", "false");
  asking = false;
}

async function play(made, since) {
  music = { ...made, asked: since };
  const heard = {
    notes: made.notes.map(([part, row, start, end]) => [part, row + about.pitch_low, start, end]),
    steps: made.steps,
    secondsPerStep: 60 / made.tempo_qpm / about.steps_per_beat,
    programs: about.programs,
    drums: about.parts.map((name) => name === "drums"),
  };
  let at = null;
  if (loop.playing) at = loop.change(heard);
  else {
    loop.music = heard;
    if (since !== null && $("auto").checked && navigator.userActivation?.hasBeenActive !== false) {
      await loop.speakers.wake();
      at = loop.start();
      showPlaying();
    }
  }
  showMusic();
  const ms = at === null || since === null ? null : performance.now() - since + (at - loop.speakers.now) * 1000;
  const latency = ms === null ? "" : ` First sound after ${Math.round(ms)} ms.`;
  $("status").textContent = `${made.notes.length} notes, ${made.key ?? "no key"}.${latency}`;
  $("status").dataset.ms = ms === null ? "" : ms.toFixed(1);
  $("status").dataset.made = made.params_sha256;
}

// --- what is shown: the music ----------------------------------------------------------------------------------------------
function showMusic() {
  const figures = { key: music.key ?? "none", ...music.figures };
  $("figures").replaceChildren(
    ...Object.entries(figures).map(([name, value]) => {
      const box = document.createElement("div");
      box.append(element("dt", LABELS[name] ?? name), element("dd", short(name, value)));
      return box;
    }),
  );
  $("roll").setAttribute("aria-label",
    `Piano roll: ${music.notes.length} notes in ${music.steps / about.steps_per_beat} beats, ${about.parts.join(", ")}`);
  for (const knob of about.knobs) {
    const found = music.edits?.measured?.[knob.name];
    const asked = music.edits?.asked?.[knob.name];
    $(`says-${knob.name}`).textContent =
      asked === undefined || found === undefined || found === null ? "" : `came out ${inUnits(knob, found).replace(/ (semitones|fifths|points)$/, "")}`;
  }
  $("weights").textContent = music.weights.map((w, i) => `${LETTERS[i]} ${Math.round(100 * w)} %`).join(" · ");
  $("point").setAttribute("aria-valuetext", $("weights").textContent);
  draw();
}

function short(name, value) {
  if (value === null || value === undefined) return "–";
  if (name === "novelty") return `${Math.round(100 * value)} %`;
  return typeof value === "number" ? String(Number(value.toPrecision(3))) : value;
}

function element(tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function button(text, act, label) {
  const made = element("button", text);
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", attempt(act));
  return made;
}

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["card", "keys", "line", "bars", "muted", "head"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
}

let picture = null; // of the roll, without the playhead
const LEFT = 34, BELOW = 16;
function draw() {
  const canvas = $("roll");
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!music || !width) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  picture = new OffscreenCanvas(canvas.width, canvas.height);
  const pen = picture.getContext("2d");
  pen.scale(scale, scale);
  const sounding = music.notes.map(([, row]) => row);
  const low = Math.max(0, Math.min(about.pitches - 12, ...sounding) - 1);
  const high = Math.min(about.pitches, Math.max(low + 12, ...sounding) + 2);
  const step = (width - LEFT) / music.steps, row = (height - BELOW) / (high - low);
  const y = (pitch) => (high - 1 - pitch) * row;
  pen.font = "11px system-ui, sans-serif";
  for (let pitch = low; pitch < high; pitch++) {
    const midi = pitch + about.pitch_low, kind = midi % 12;
    if ([1, 3, 6, 8, 10].includes(kind)) {
      pen.fillStyle = colours.keys;
      pen.fillRect(LEFT, y(pitch), width - LEFT, row);
    }
    if (kind === 0 || (kind === 7 && row > 6)) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      pen.fillText(`${NAMES[kind]}${Math.floor(midi / 12) - 1}`, LEFT - 6, y(pitch) + row / 2);
    }
  }
  const bar = about.steps_per_beat * about.beats_per_bar;
  for (let at = 0; at <= music.steps; at += about.steps_per_beat) {
    pen.fillStyle = at % bar ? colours.line : colours.bars;
    pen.fillRect(Math.min(LEFT + at * step, width - 1), 0, 1, height - BELOW);
    if (at % bar === 0 && at < music.steps) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "left";
      pen.textBaseline = "alphabetic";
      pen.fillText(String(at / bar + 1), LEFT + at * step + 3, height - 4);
    }
  }
  for (const [part, pitch, start, end] of music.notes) {
    pen.fillStyle = about.colours[part];
    pen.beginPath();
    pen.roundRect(LEFT + start * step + 0.5, y(pitch) + row * 0.08, Math.max(2, (end - start) * step - 1.5), Math.max(2, row * 0.84), Math.min(3, row / 3));
    pen.fill();
  }
  frame();
}

function frame() {
  const canvas = $("roll"), pen = canvas.getContext("2d");
  if (!picture) return;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0);
  const step = loop.step();
  if (step === null) return;
  const scale = devicePixelRatio || 1, left = LEFT * scale;
  pen.fillStyle = colours.head;
  pen.fillRect(left + (step / music.steps) * (canvas.width - left), 0, 2 * scale, canvas.height - BELOW * scale);
}

let shownStill = false;
function tick() {
  if (loop.playing || !shownStill) {
    frame();
    shownStill = !loop.playing;
  }
  $("level").value = Math.min(1, loop.speakers.level().rms * 3);
  requestAnimationFrame(tick);
}

// --- what is shown: the controls -----------------------------------------------------------------------------------------
function showPlaying() {
  const name = loop.playing ? ["■", " Stop"] : ["▶", " Play"];
  const sign = element("span", name[0]);
  sign.setAttribute("aria-hidden", "true");
  $("play").replaceChildren(sign, name[1]);
  $("play").setAttribute("aria-pressed", String(loop.playing));
  shownStill = false;
}

function inUnits(knob, value) {
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (knob.name === "register") return `${sign}${size.toFixed(1)} semitones`;
  if (knob.name === "key") return `${sign}${size.toFixed(1)} fifths`;
  return `${sign}${Math.round(100 * size)} ${knob.relative ? "%" : "points"}`;
}

const RADII = [[0, "exactly the point"], [0.2, "almost the same"], [0.7, "a sibling"], [1.5, "a cousin"], [Infinity, "a stranger"]];

function showControls() {
  const n = find.parents.length;
  $("square-card").hidden = n < 2;
  $("square").className = `square${n === 2 ? " line" : n === 3 ? " three" : ""}`;
  for (const corner of document.querySelectorAll(".corner")) corner.hidden = Number(corner.dataset.corner) >= n;
  $("point").style.left = `${100 * find.at[0]}%`;
  $("point").style.top = `${n === 2 ? 50 : 100 * find.at[1]}%`;
  $("point").setAttribute("aria-valuenow", String(Math.round(100 * find.at[0])));
  $("radius").value = find.radius;
  $("radius-out").textContent = find.radius.toFixed(2);
  $("radius-says").textContent = RADII.find(([most]) => find.radius <= most)[1];
  $("radius").setAttribute("aria-valuetext", `${find.radius.toFixed(2)}, ${$("radius-says").textContent}`);
  $("seed").textContent = find.seed;
  $("tempo").value = Math.round(find.tempo_qpm ?? about.tempo_qpm);
  $("model").value = find.model;
  for (const knob of about.knobs) {
    const value = find.changes[knob.name] ?? 0;
    $(`knob-${knob.name}`).value = value;
    $(`out-${knob.name}`).textContent = inUnits(knob, value);
    $(`knob-${knob.name}`).setAttribute("aria-valuetext", inUnits(knob, value));
  }
}

function showKnobs() {
  $("model").replaceChildren(...about.models.map((name) => new Option(name, name)));
  $("legend").replaceChildren(
    ...about.parts.map((name, part) => {
      const entry = document.createElement("span"), chip = element("span", "", "chip");
      chip.style.background = about.colours[part];
      entry.append(chip, element("bdi", name));
      return entry;
    }),
  );
  $("kept-folder").textContent = about.kept;
  $("reset").hidden = !about.knobs.length;
  if (!about.knobs.length) {
    $("knobs").replaceChildren(element("p", "This model has no directions of attributes.", "muted"));
    return;
  }
  $("knobs").replaceChildren(
    ...about.knobs.map((knob) => {
      const box = element("div", "", "knob"), label = element("label", WORDS[knob.name] ?? knob.name);
      const range = document.createElement("input"), output = document.createElement("output");
      label.htmlFor = range.id = `knob-${knob.name}`;
      output.id = `out-${knob.name}`;
      Object.assign(range, { type: "range", min: knob.low.toFixed(3), max: knob.high.toFixed(3), step: "any", value: 0 });
      const set = (value) => {
        // near the middle it is zero; steps are fine enough to hear and coarse enough to share
        const whole = knob.name === "register" || knob.name === "key" ? 10 : 100;
        find.changes[knob.name] = Math.abs(value) < 0.03 * (knob.high - knob.low) ? 0 : Math.round(value * whole) / whole;
        changed();
      };
      range.addEventListener("input", () => set(Number(range.value)));
      range.addEventListener("keydown", (event) => {
        const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (!way) return;
        event.preventDefault();
        const by = Math.max((knob.high - knob.low) / 20, 0.01), now = find.changes[knob.name] ?? 0;
        const next = Math.min(knob.high, Math.max(knob.low, Math.round(now / by + way) * by));
        set(next);
      });
      range.addEventListener("dblclick", () => set(0));
      const says = element("p", "", "muted");
      says.id = `says-${knob.name}`;
      box.append(label, says, output, range);
      return box;
    }),
  );
}

async function showParents() {
  const missing = find.parents.filter((parent) => !(parent in names));
  if (missing.length) {
    const found = await ask("names", { parents: missing });
    missing.forEach((parent, i) => (names[parent] = found[i]));
  }
  $("parents").replaceChildren(
    ...find.parents.map((parent, i) => {
      const row = document.createElement("li"), name = element("span", "", "name"), tools = element("div", "", "tools");
      const known = names[parent], letter = LETTERS[i];
      name.append(element("bdi", known.name), element("small", [known.key, known.split].filter(Boolean).join(" · ")));
      const [text, bar] = parent.split("@");
      if (bar) {
        const label = element("label", "bar ", "muted"), input = document.createElement("input");
        Object.assign(input, { type: "number", min: 1, max: known.bars ?? 9999, value: bar });
        input.setAttribute("aria-label", `Bar of parent ${letter}`);
        input.addEventListener("change", attempt(async () => {
          const to = `${text}@${Math.max(1, Math.round(Number(input.value)) || 1)}`;
          names[to] = known;
          find.parents[i] = to;
          changed();
        }));
        label.append(input);
        tools.append(label);
      }
      tools.append(
        button("Change", () => choose(i), `Change parent ${letter}`),
        button("Remove", async () => {
          find.parents.splice(i, 1);
          await showParents();
          changed();
          $("add").focus();
        }, `Remove parent ${letter}`),
      );
      tools.lastChild.disabled = find.parents.length < 2;
      row.append(element("span", letter, "letter"), name, tools);
      return row;
    }),
  );
  $("add").disabled = find.parents.length >= 4;
}

async function showKept() {
  const rows = await ask("kept");
  $("kept").replaceChildren(
    ...rows.slice(0, 200).map((row) => {
      const item = document.createElement("li"), tools = element("div", "", "tools"), name = element("span", row.sample_id, "name");
      name.append(element("small", `${row.key ?? "silent"} · ${row.model} · ${row.parents.length} parent${row.parents.length > 1 ? "s" : ""}`));
      tools.append(
        button("Open", async () => open({ ...(await ask("open", { sample_id: row.sample_id })) }, performance.now()), `Open ${row.sample_id}`),
        button("As parent", async () => {
          await setParent(Math.min(find.parents.length, 3), `sample:${row.sample_id}`);
        }, `Take ${row.sample_id} as a parent`),
      );
      item.append(name, tools);
      return item;
    }),
  );
  if (!rows.length) $("kept").replaceChildren(element("li", "Nothing yet.", "muted"));
}

// --- choosing a parent -------------------------------------------------------------------------------------------------
async function setParent(place, parent) {
  const before = [...find.parents];
  find.parents[place] = parent;
  try {
    await showParents();
  } catch (error) {
    find.parents = before;
    throw error;
  }
  changed();
}

function choose(place) {
  slot = place;
  $("picker-title").textContent = `Choose parent ${LETTERS[place]}`;
  $("picker").showModal();
  return from("pieces");
}

async function from(where) {
  for (const each of document.querySelectorAll("[data-from]")) each.setAttribute("aria-pressed", String(each.dataset.from === where));
  for (const name of ["pieces", "samples", "file"]) $(`from-${name}`).hidden = name !== where;
  $("picked").replaceChildren();
  $("picker-says").textContent = "";
  if (where === "pieces") await listPieces();
  if (where === "samples") await listSamples();
}

const picking = (work) => async (...args) => {
  try {
    await work(...args);
  } catch (error) {
    $("picker-says").textContent = error.message;
  }
};

async function take(parent) {
  $("picker").close();
  await setParent(slot, parent);
}

function list(rows, text, small, parent) {
  $("picked").replaceChildren(
    ...rows.map((row) => {
      const item = document.createElement("li"), made = button("", () => take(parent(row)));
      made.append(element("bdi", text(row)), document.createElement("br"), element("small", small(row)));
      item.append(made);
      return item;
    }),
  );
  $("picker-says").textContent = rows.length ? `${rows.length}${rows.length === 60 ? " or more" : ""} found` : "nothing found";
}

let asked = 0; // the newest search; answers to older ones are not shown
const listPieces = picking(async () => {
  const mine = ++asked;
  const rows = await ask("pieces", { text: $("piece-text").value, split: $("piece-split").value });
  if (mine !== asked) return;
  list(rows, (row) => row.path, (row) => [row.key, `${row.bars} bars`, row.split].filter(Boolean).join(" · "), (row) => `piece:${row.piece_id}@1`);
});
const listSamples = picking(async () => {
  const mine = ++asked;
  const rows = await ask("samples", { where: $("sample-where").value });
  if (mine !== asked) return;
  list(rows, (row) => row.sample_id, (row) => [row.mode, row.model, row.key, `${row.notes} notes`].filter(Boolean).join(" · "), (row) => `sample:${row.sample_id}`);
});
const takeFile = picking(async () => {
  const [file] = $("file").files;
  if (!file) return;
  if (file.size > 2 * 2 ** 20) throw new Error(`${file.name}: ${file.size} bytes; a MIDI file may have 2 MB`);
  $("picker-says").textContent = "reading it…";
  const answer = await post("upload", file, { "Content-Type": "audio/midi", "X-File-Name": encodeURIComponent(file.name.slice(-150).toWellFormed()) });
  const found = await answer.json();
  $("file").value = "";
  await take(found.parent);
});

// --- opening a find ------------------------------------------------------------------------------------------------------
async function open(values, since) {
  const model = values.model || about?.model || "";
  if (!about || about.model !== model) about = await ask("about", { model });
  find = { ...find, ...values, model: about.model };
  find.changes = Object.fromEntries(Object.entries(find.changes).filter(([name]) => about.knobs.some((knob) => knob.name === name)));
  if (!find.parents.length) find.parents = await ask("random", { count: 4, seed: Math.floor(Math.random() * 2 ** 31) });
  showKnobs();
  try {
    await showParents();
  } finally {
    changed(since);
  }
}

async function save() {
  const answer = await post("midi", JSON.stringify(find), { "Content-Type": "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `midivae-${music?.params_sha256.slice(0, 8) ?? "sample"}.mid`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
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
  const clip = (value) => Math.round(Math.min(1, Math.max(0, value)) * 256) / 256;
  find.at = [clip(x), clip(y)];
  changed();
}

function listen() {
  $("play").addEventListener("click", attempt(playOrStop));
  document.addEventListener("keydown", (event) => {
    if (event.key === " " && !event.target.closest("button, input, select, dialog, a")) {
      event.preventDefault();
      attempt(playOrStop)();
    }
  });
  $("volume").addEventListener("input", () => loop.speakers.setVolume(Number($("volume").value)));
  $("tempo").addEventListener("change", () => {
    const tempo = Math.min(400, Math.max(20, Number($("tempo").value) || about.tempo_qpm));
    find.tempo_qpm = Math.round(tempo) === Math.round(about.tempo_qpm) ? null : tempo;
    changed();
  });
  $("radius").addEventListener("input", () => { find.radius = Number($("radius").value); changed(); });
  $("roll-again").addEventListener("click", () => {
    find.seed = Math.floor(Math.random() * 2 ** 31);
    changed();
  });
  $("reset").addEventListener("click", () => { find.changes = {}; changed(); });
  $("model").addEventListener("change", attempt(() => open({ model: $("model").value }, performance.now())));
  $("lot").addEventListener("click", attempt(() => open({ parents: [], at: [0.5, 0.5] }, performance.now())));
  $("add").addEventListener("click", attempt(() => choose(find.parents.length)));
  $("keep").addEventListener("click", attempt(async () => {
    const kept = await ask("keep", find);
    $("status").textContent = kept.new ? `Kept as ${kept.sample_id}.` : `That is ${kept.sample_id}, kept before.`;
    await showKept();
  }));
  $("download").addEventListener("click", attempt(save));
  $("share").addEventListener("click", attempt(async () => {
    await navigator.clipboard.writeText(location.href);
    $("status").textContent = "The address of this find is on the clipboard.";
  }));
  window.addEventListener("hashchange", attempt(() => open(fromHash(location.hash), performance.now())));

  const square = $("square");
  const drag = (event) => {
    const box = square.getBoundingClientRect();
    moveTo((event.clientX - box.left) / box.width, find.parents.length === 2 ? 0.5 : (event.clientY - box.top) / box.height);
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
    const to = way ? [find.at[0] + way[0], find.at[1] + way[1]] : { Home: [0, 0], End: [1, 1] }[event.key];
    if (!to) return;
    event.preventDefault();
    moveTo(...to);
  });

  $("picker-close").addEventListener("click", () => $("picker").close());
  for (const each of document.querySelectorAll("[data-from]")) each.addEventListener("click", picking(() => from(each.dataset.from)));
  let later = 0;
  const soon = (work) => () => { clearTimeout(later); later = setTimeout(work, 180); };
  $("piece-text").addEventListener("input", soon(listPieces));
  $("piece-split").addEventListener("change", listPieces);
  $("sample-where").addEventListener("input", soon(listSamples));
  $("file").addEventListener("change", takeFile);

  new ResizeObserver(draw).observe($("roll"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
}

attempt(async () => {
  const words = new URLSearchParams(location.hash.slice(1));
  if (words.has("token")) { // kept for this address alone, and out of sight
    localStorage.setItem("midivae-token", words.get("token"));
    words.delete("token");
    history.replaceState(null, "", `#${words}`);
  }
  token = localStorage.getItem("midivae-token") ?? "";
  readColours();
  listen();
  tick();
  await open(fromHash(location.hash), null);
  await showKept();
})();
