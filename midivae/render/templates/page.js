// What both pages share: elements, numbers in words, saving a file, and the grid of a piano roll.
"use strict";

const $ = (id) => document.getElementById(id);

// An element with attributes, listeners (onclick ...) and children; text is added as text, never as markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A number with three significant digits, or whole with thin spaces; a dash for a missing value.
function number(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1000 || Number.isInteger(value)) {
    return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f").replace("-", "−");
  }
  return String(Number(value.toPrecision(3))).replace("-", "−");
}
const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);

function saveFile(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// --- the grid of a roll ------------------------------------------------------------------------------------------------
const PITCH_NAMES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
const BLACK_KEYS = [1, 3, 6, 8, 10];
const LEAST_GAP = {beats: 7, numbers: 18}; // pixels between beat lines, and between bar numbers

// The colours of the grid in the style sheet, for light or for dark mode.
function gridColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["keys", "line", "bars", "muted"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Draws black keys, bar and beat lines, pitch names left of the roll and bar numbers below it.
// grid: left, width, height (of the roll, in pixels), foot (pixels below it), low, high (pitches, high excluded),
// beats, beatsPerBar. Returns the functions from beats to x and from pitches to y, and the height of a row.
function drawGrid(pen, grid, colours = gridColours()) {
  const {left, width, height, foot, low, high} = grid, row = height / (high - low), beat = width / grid.beats;
  const x = (beats) => left + beats * beat, y = (pitch) => (high - 1 - pitch) * row;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let pitch = low; pitch < high; pitch++) {
    const inOctave = pitch % 12, middle = Math.min(height - 5, Math.max(5, y(pitch) + row / 2));
    pen.fillStyle = colours.keys;
    if (BLACK_KEYS.includes(inOctave)) pen.fillRect(left, y(pitch), width, row);
    pen.fillStyle = colours.muted;
    if (inOctave === 0 || (inOctave === 7 && row > 6)) pen.fillText(`${PITCH_NAMES[inOctave]}${Math.floor(pitch / 12) - 1}`, left - 4, middle);
  }
  pen.textAlign = "left";
  pen.textBaseline = "alphabetic";
  const barsPerNumber = Math.max(1, Math.ceil(LEAST_GAP.numbers / (beat * grid.beatsPerBar)));
  for (let at = 0; at <= grid.beats; at++) {
    const bar = at / grid.beatsPerBar;
    if (Number.isInteger(bar) || beat > LEAST_GAP.beats) {
      pen.fillStyle = Number.isInteger(bar) ? colours.bars : colours.line;
      pen.fillRect(Math.min(x(at), left + width - 1), 0, 1, height);
    }
    if (bar % barsPerNumber === 0 && at < grid.beats) {
      pen.fillStyle = colours.muted;
      pen.fillText(String(bar + 1), x(at) + 3, height + foot - 3);
    }
  }
  return {x, y, row};
}
