// Reads a Standard MIDI File in the browser. Times are in quarter notes.
// readMidi(bytes) -> {notes: [{track, pitch, start, length, velocity, channel, program}], tracks: [name], end,
// tempos: [[quarter, seconds per quarter]]}
function readMidi(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 14;
  const count = view.getUint16(10), resolution = view.getUint16(12);
  const notes = [], tempos = [[0, 0.5]], tracks = [];
  const text = new TextDecoder();
  const varying = () => {
    let value = 0, byte;
    do { byte = bytes[at++]; value = value * 128 + (byte & 127); } while (byte & 128);
    return value;
  };
  for (let track = 0; track < count && at + 8 <= bytes.length; track++) {
    const stop = at + 8 + view.getUint32(at + 4);
    at += 8;
    let tick = 0, status = 0, name = "", ended = 0;
    const program = new Uint8Array(16), open = new Map();
    while (at < stop) {
      tick += varying();
      if (bytes[at] & 128) status = bytes[at++];
      const kind = status >> 4, channel = status & 15;
      if (status === 255) {
        const type = bytes[at++], length = varying();
        if (type === 3) name = text.decode(bytes.subarray(at, at + length));
        if (type === 81) tempos.push([tick / resolution, ((bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2]) / 1e6]);
        at += length;
      } else if (kind === 15) {
        at += varying();
      } else if (kind === 12 || kind === 13) {
        if (kind === 12) program[channel] = bytes[at];
        at += 1;
      } else {
        const pitch = bytes[at], value = bytes[at + 1], key = channel * 128 + pitch;
        at += 2;
        if (kind === 9 && value > 0) {
          const note = {track: tracks.length, pitch, start: tick / resolution, length: 0, velocity: value, channel, program: program[channel]};
          if (!open.has(key)) open.set(key, []);
          open.get(key).push(note);
        } else if (kind === 8 || kind === 9) {
          const note = (open.get(key) || []).shift();
          if (note) { note.length = tick / resolution - note.start; notes.push(note); ended++; }
        }
      }
    }
    at = stop;
    if (ended || name) tracks.push(name);
  }
  notes.sort((a, b) => a.start - b.start || a.pitch - b.pitch);
  tempos.sort((a, b) => a[0] - b[0]);
  return {notes, tracks, tempos, end: notes.reduce((end, note) => Math.max(end, note.start + note.length), 0)};
}

// A time in quarter notes as seconds.
function toSeconds(tempos, quarter) {
  let seconds = 0;
  for (let i = 0; i < tempos.length && tempos[i][0] < quarter; i++) {
    const until = i + 1 < tempos.length ? Math.min(quarter, tempos[i + 1][0]) : quarter;
    seconds += Math.max(0, until - tempos[i][0]) * tempos[i][1];
  }
  return seconds;
}
