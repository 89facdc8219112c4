// The gallery of the report: unpacks the samples of the page, draws a roll when it scrolls into view, filters, sorts and
// plays samples.
const name = (text) => make("bdi", {}, text);
const ICONS = {play: "M3 1.5v13l11-6.5z", pause: "M3 1.5h3.5v13H3zM9.5 1.5H13v13H9.5z"};
function icon(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[kind]);
  svg.append(path);
  return svg;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const words = (column) => DATA.words[column] || column.replaceAll("_", " ");

let DATA, MIDI, OFFSETS;

async function unpack() {
  const packed = Uint8Array.from(atob($("samples-data").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  DATA = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  MIDI = bytes.subarray(4 + length);
  OFFSETS = [0];
  for (const size of DATA.sizes) OFFSETS.push(OFFSETS[OFFSETS.length - 1] + size);
}

const file = (i) => MIDI.subarray(OFFSETS[i], OFFSETS[i + 1]);
const job = (i) => DATA.jobs[DATA.columns.job[i]];
const id = (i) => `${job(i).name}-${String(DATA.columns.index[i]).padStart(7, "0")}`;
const silent = (i) => DATA.columns.notes[i] === 0;
const key = (i) => (silent(i) ? "silent" : DATA.columns.key[i] || "no key");
const long = (i) => DATA.columns.n_steps[i] > 192;

// --- the texts of a sample ----------------------------------------------------------------------------------------
function nearest(i) {
  if (!DATA.columns.nearest[i]) return null;
  const [piece, beat, semitones, distance] = DATA.columns.nearest[i];
  const moved = semitones ? `, moved by ${semitones} semitones` : "";
  return make("p", {}, "nearest in training: ", name(piece), `, beat ${number(beat)}${moved}, distance ${number(distance)}`);
}

function origin(i) {
  const {parents, weights, radius, edits, lead} = DATA.columns, lines = [];
  if (parents[i] && parents[i].length) {
    const line = make("p", {}, parents[i].length > 1 ? "parents: " : "parent: ");
    parents[i].forEach((parent, at) => {
      const weight = weights[i] && weights[i].length ? ` × ${number(weights[i][at])}` : "";
      line.append(at ? "; " : "", name(parent), weight);
    });
    if (radius[i] !== null) line.append(`; radius ${number(radius[i])}`);
    lines.push(line);
  }
  if (edits[i]) {
    const changes = edits[i].map(([attribute, asked, got]) => `${words(attribute)}: requested ${number(asked)}, measured ${number(got)}`);
    lines.push(make("p", {}, changes.join("; ")));
  }
  if (lead[i]) lines.push(make("p", {}, `the first ${number(lead[i])} steps come from the parent`));
  return lines;
}

function figures(i, names) {
  const list = make("dl", {class: "figures"});
  for (const column of names) {
    const value = DATA.columns[column][i];
    const shown = DATA.shares.includes(column) ? percent(value) : number(value);
    list.append(make("div", {}, make("dt", {}, words(column)), make("dd", {}, shown)));
  }
  return list;
}

// --- rolls -----------------------------------------------------------------------------------------------------------
const LEFT = 26, FOOT = 14; // pixels playNext and below a roll

function draw(canvas, i) {
  const box = canvas.getBoundingClientRect(), scale = Math.min(2, window.devicePixelRatio || 1);
  if (!box.width) return;
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  const pen = canvas.getContext("2d"), {parts, pitch_low: low, pitches, steps_per_beat: stepsPerBeat} = job(i);
  pen.scale(scale, scale);
  pen.font = "10px system-ui, sans-serif";
  const {x, y, row} = drawGrid(pen, {
    left: LEFT, width: box.width - LEFT, height: box.height - FOOT, foot: FOOT, low, high: low + pitches,
    beats: DATA.columns.n_steps[i] / stepsPerBeat, beatsPerBar: DATA.beats_per_bar,
  });
  const midi = readMidi(file(i)), step = x(1 / stepsPerBeat) - x(0), height = Math.max(1.5, row - 0.4);
  for (const note of midi.notes) {
    const part = Math.max(0, parts.indexOf(midi.tracks[note.track]));
    const left = x(note.start), length = Math.max(1, x(note.start + note.length) - left - 0.7);
    pen.fillStyle = DATA.colours[part % DATA.colours.length];
    pen.globalAlpha = 0.6;
    pen.fillRect(left, y(note.pitch), length, height);
    pen.globalAlpha = 1;
    pen.fillRect(left, y(note.pitch), Math.min(length, Math.max(1.5, step)), height);
  }
}

// a canvas holds a picture while it is in or near the view; otherwise it frees its memory
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const canvas = entry.target, i = Number(canvas.dataset.sample);
    if (entry.isIntersecting) { draw(canvas, i); shown.add(canvas); } else if (shown.delete(canvas)) canvas.width = canvas.height = 1;
  }
}, {rootMargin: "400px"});
const shown = new Set();
function redraw() {
  for (const canvas of shown) if (canvas.isConnected) draw(canvas, Number(canvas.dataset.sample)); else shown.delete(canvas);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let resized;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(redraw, 150); });

// --- a card ----------------------------------------------------------------------------------------------------------
function card(i) {
  const {tempo_qpm: tempo, duration_s: seconds} = DATA.columns, title = id(i), heading = make("h4", {});
  const link = job(i).midi_files ? make("a", {href: `../samples/midi/${job(i).name}/${title}.mid`}, title) : title;
  heading.append(link, make("span", {}, `${key(i)} · ${number(tempo[i])} BPM · ${clock(seconds[i])}`));
  const play = make("button", {type: "button", class: "play", "aria-label": `Play ${title}`, disabled: silent(i), onclick: () => toggle(i)}, icon("play"));
  const description = `Piano roll of ${title}: ${key(i)}, ${number(DATA.columns.notes[i])} notes, ${number(DATA.columns.n_steps[i])} steps`;
  const canvas = make("canvas", {role: "img", "aria-label": description, "data-sample": i});
  const paper = make("div", {class: "paper"}, canvas);
  paper.addEventListener("click", (event) => seek(i, (event.clientX - canvas.getBoundingClientRect().left - LEFT) / (canvas.getBoundingClientRect().width - LEFT)));
  const frame = make("div", {class: "frame"}, paper);
  if (long(i)) {
    paper.style.width = `${LEFT + Math.min(16000, Math.max(600, DATA.columns.n_steps[i] * 2))}px`;
    for (const [attribute, value] of [["tabindex", 0], ["role", "region"], ["aria-label", `Roll of ${title}, scrolls`]]) frame.setAttribute(attribute, value);
  }
  const more = make("details", {}, make("summary", {}, "all figures"));
  more.addEventListener("toggle", () => { if (more.children.length === 1) more.append(figures(i, DATA.measures)); });
  const row = make("div", {class: "row"});
  row.append(make("button", {type: "button", class: "small", "aria-label": `Save ${title} as a MIDI file`, onclick: () => save(i)}, "save .mid"));
  const alike = DATA.columns.alike[i];
  if (alike !== null) row.append(make("button", {type: "button", class: "small", "aria-label": `Show ${id(alike)}, the nearest to ${title} in latent space`, onclick: () => search(id(alike))}, `nearest latent: ${id(alike)}`));
  const article = make("article", {class: `sample${long(i) ? " wide" : ""}`, "aria-label": title, "data-id": title},
    make("div", {class: "head"}, play, heading), frame, figures(i, DATA.shown), ...origin(i), nearest(i), more, row);
  observer.observe(canvas);
  if (i === playing) mark(article, true);
  return article;
}

const save = (i) => saveFile(new Blob([file(i)], {type: "audio/midi"}), `${id(i)}.mid`);

// --- sound -----------------------------------------------------------------------------------------------------------
let playing = null, music = null, order = [];
const player = new Player(() => finished());
window.midivaePlayer = player; // for tests of the sound

function finished() {
  paint();
  $("seek").value = 0;
}

async function toggle(i) {
  if (playing === i && player.timer) { player.pause(); paint(); return; }
  const from = playing === i && player.music ? player.from : 0;
  await start(i, from);
}

async function start(i, from) {
  const old = document.querySelector(".sample.playing");
  if (old) mark(old, false);
  if (playing !== i) music = forPlayer(readMidi(file(i)));
  playing = i;
  $("player").hidden = false;
  $("playing").textContent = id(i);
  $("seek").max = music.seconds.toFixed(2);
  await player.play(music, Math.min(Math.max(0, from), music.seconds));
  paint();
  requestAnimationFrame(follow);
}

function seek(i, share) {
  if (silent(i)) return;
  const quarters = DATA.columns.n_steps[i] / job(i).steps_per_beat, tempos = readMidi(file(i)).tempos;
  start(i, toSeconds(tempos, Math.max(0, share) * quarters));
}

function mark(node, on) {
  node.classList.toggle("playing", on);
  const cursor = node.querySelector(".cursor");
  if (on && !cursor) node.querySelector(".paper").append(make("div", {class: "cursor"}));
  if (!on && cursor) cursor.remove();
  const button = node.querySelector(".play"), sounding = on && player.timer;
  button.replaceChildren(icon(sounding ? "pause" : "play"));
  button.setAttribute("aria-label", `${sounding ? "Pause" : "Play"} ${node.dataset.id}`);
}

function paint() {
  for (const node of document.querySelectorAll(".sample")) {
    const isPlaying = playing !== null && node.dataset.id === id(playing);
    if (isPlaying || node.classList.contains("playing")) mark(node, isPlaying);
  }
  const sounding = Boolean(player.timer);
  $("toggle").replaceChildren(icon(sounding ? "pause" : "play"));
  $("toggle").setAttribute("aria-label", sounding ? "Pause" : "Play");
}

function follow() {
  if (!music) return;
  const at = Math.min(player.position, music.seconds);
  $("seek").value = at;
  $("seek").setAttribute("aria-valuetext", `${clock(at)} of ${clock(music.seconds)}`);
  $("time").textContent = `${clock(at)} / ${clock(music.seconds)}`;
  const cursor = document.querySelector(".sample.playing .cursor");
  if (cursor) {
    const seconds = DATA.columns.duration_s[playing] || music.seconds, paper = cursor.parentNode, frame = paper.parentNode;
    const x = LEFT + (at / seconds) * (paper.clientWidth - LEFT);
    cursor.style.left = `${x}px`;
    if (player.timer && frame.scrollWidth > frame.clientWidth && (x < frame.scrollLeft || x > frame.scrollLeft + frame.clientWidth - 40)) frame.scrollLeft = x - 60;
  }
  if (player.timer) requestAnimationFrame(follow);
}

function playNext(step) {
  const audible = order.filter((i) => !silent(i)), at = audible.indexOf(playing);
  if (!audible.length) return;
  start(audible[(at + step + audible.length) % audible.length], 0);
}

// --- filtering and sorting --------------------------------------------------------------------------------------------------------
const state = {job: null, page: 0};
const value = (field) => $(field).value;

function selected() {
  const wanted = value("search").trim().toLowerCase(), inKey = value("key"), measure = value("measure");
  const low = value("low") === "" ? -Infinity : Number(value("low")), high = value("high") === "" ? Infinity : Number(value("high"));
  const ranged = low !== -Infinity || high !== Infinity, audible = $("audible").checked, matching = [];
  for (let i = 0; i < DATA.sizes.length; i++) {
    if (state.job !== null && DATA.columns.job[i] !== state.job) continue;
    if (audible && silent(i)) continue;
    if (inKey && key(i) !== inKey) continue;
    if (ranged) {
      const here = DATA.columns[measure][i];
      if (here === null || here < low || here > high) continue;
    }
    if (wanted && !text(i).includes(wanted)) continue;
    matching.push(i);
  }
  const by = value("sort");
  if (by) {
    const sign = $("descending").checked ? -1 : 1, column = by === "nearest" ? DATA.columns.nearest.map((n) => (n ? n[3] : null)) : DATA.columns[by];
    matching.sort((a, b) => {
      const [x, y] = [column[a], column[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // missing values come last
      return sign * (x - y) || a - b;
    });
  }
  return matching;
}

const texts = [];
function text(i) {
  if (texts[i] === undefined) {
    const [piece = ""] = DATA.columns.nearest[i] || [];
    texts[i] = [id(i), piece, ...(DATA.columns.parents[i] || [])].join("\n").toLowerCase();
  }
  return texts[i];
}

function legend(of) {
  const line = make("p", {class: "legend"});
  of.parts.forEach((part, at) => line.append(make("span", {}, make("span", {class: `chip p${at % DATA.colours.length}`}), name(part))));
  return line;
}

function group(at, matching) {
  const of = DATA.jobs[at], ofJob = matching.filter((i) => DATA.columns.job[i] === at), first = ofJob.slice(0, DATA.per_job);
  order.push(...first);
  const section = make("section", {class: "group", "aria-label": `Job ${of.name}`});
  section.append(make("h3", {}, make("span", {class: `chip ${of.kind}`}), `Job ${of.name}`), make("p", {class: "about"}, `${of.about} · ${number(ofJob.length)} of ${number(of.count)} samples`), legend(of));
  section.append(make("div", {class: "cards"}, ...first.map(card)));
  if (ofJob.length > first.length) section.append(make("p", {class: "more"}, make("button", {type: "button", onclick: () => choose(at)}, `All ${number(ofJob.length)} of ${of.name}`)));
  return section;
}

function show() {
  const matching = selected(), grouped = state.job === null && !value("sort") && !value("search").trim();
  observer.disconnect();
  shown.clear();
  order = [];
  state.matching = matching;
  state.page = 0;
  for (const button of $("jobs").children) button.setAttribute("aria-pressed", String(button.dataset.job === String(state.job)));
  const list = $("list");
  list.replaceChildren();
  $("more").hidden = true;
  if (!matching.length) list.append(make("p", {class: "empty"}, "No sample matches; remove a filter."));
  else if (grouped) list.append(...DATA.jobs.map((_, at) => at).filter((at) => matching.some((i) => DATA.columns.job[i] === at)).map((at) => group(at, matching)));
  else {
    const of = state.job === null ? null : DATA.jobs[state.job];
    list.append(make("h3", {}, of ? `Job ${of.name}` : "Samples of all jobs"));
    if (of) list.append(make("p", {class: "about"}, of.about), legend(of));
    list.append(make("div", {class: "cards", id: "cards"}));
    showMore();
  }
  showCount();
}

const PAGE = 48;
function showMore() {
  const next = state.matching.slice(state.page * PAGE, (state.page + 1) * PAGE), cards = next.map(card);
  state.page += 1;
  order.push(...next);
  $("cards").append(...cards);
  const left = state.matching.length - order.length;
  $("more").hidden = left <= 0;
  $("further").textContent = `Show ${Math.min(PAGE, left)} more`;
  return cards;
}

function showCount() {
  const more = order.length < state.matching.length ? `, ${number(order.length)} of them shown` : "";
  $("count").textContent = `${number(state.matching.length)} of ${number(DATA.sizes.length)} samples${more}`;
}

function choose(at) {
  state.job = at;
  show();
  $("samples").scrollIntoView();
  const pressed = $("jobs").querySelector('[aria-pressed="true"]');
  if (pressed) pressed.focus({preventScroll: true});
}

function search(words) {
  state.job = null;
  clear();
  $("search").value = words;
  show();
  $("samples").scrollIntoView();
  $("search").focus({preventScroll: true});
}

function clear() {
  for (const field of ["search", "low", "high"]) $(field).value = "";
  for (const field of ["key", "sort"]) $(field).selectedIndex = 0;
  $("audible").checked = $("descending").checked = false;
}

function fill() {
  const option = (value, label) => make("option", {value}, label);
  $("key").append(option("", "any"), ...[...new Set(DATA.columns.key)].filter(Boolean).sort().map((key) => option(key, key)));
  if (DATA.columns.notes.some((notes) => notes === 0)) $("key").append(option("silent", "silent"));
  for (const measure of ["novelty", ...DATA.measures]) $("measure").append(option(measure, words(measure)));
  $("sort").append(option("", "job"), option("novelty", words("novelty")), option("nearest", "distance from training"), option("duration_s", "seconds"), ...DATA.measures.map((measure) => option(measure, words(measure))));
  const button = (at, label, kind, count) => make("button", {type: "button", "aria-pressed": false, "data-job": String(at), onclick: () => { state.job = at; show(); }},
    kind ? make("span", {class: `chip ${kind}`}) : null, `${label} `, make("small", {}, number(count)));
  $("jobs").append(button(null, "all jobs", null, DATA.sizes.length), ...DATA.jobs.map((of, at) => button(at, of.name, of.kind, of.shown)));
}

// the jobs that the charts show
for (const box of document.querySelectorAll("[data-set]")) {
  box.addEventListener("change", () => {
    for (const node of document.querySelectorAll(`.${box.dataset.set}`)) node.classList.toggle("off", !box.checked);
  });
}
for (const node of document.querySelectorAll(".needs-script")) node.hidden = false;

unpack().then(() => {
  fill();
  show();
  let typed;
  $("controls").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(show, 150); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", () => { state.job = null; clear(); show(); });
  $("further").addEventListener("click", () => { const cards = showMore(); showCount(); if (cards.length) cards[0].querySelector("button, a").focus(); });
  $("toggle").addEventListener("click", () => { if (playing !== null) toggle(playing); });
  $("seek").addEventListener("input", () => { if (playing !== null) start(playing, Number($("seek").value)); });
  $("volume").addEventListener("input", () => player.speakers.setVolume(Number($("volume").value)));
  $("before").addEventListener("click", () => playNext(-1));
  $("after").addEventListener("click", () => playNext(1));
  $("close").addEventListener("click", () => { player.stop(); paint(); $("player").hidden = true; });
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}).catch((error) => {
  $("count").textContent = `The samples could not be unpacked (${error.message}); this page needs a browser of 2023 or later.`;
});
