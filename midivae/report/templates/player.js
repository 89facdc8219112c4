// Plays one piece at a time; notes are scheduled on the audio clock shortly before they sound.
class Player {
  constructor(onend) {
    this.onend = onend;
    this.speakers = new Speakers();
    this.music = null;
    this.timer = 0;
  }

  get position() {
    if (!this.music) return 0;
    return this.timer ? Math.max(this.from, this.from + this.speakers.now - this.begun) : this.from;
  }

  async play(music, from = 0) {
    this.stop();
    await this.speakers.wake();
    this.music = music;
    this.from = from;
    this.synth = this.speakers.synth();
    this.begun = this.speakers.now + 0.08;
    this.next = music.notes.findIndex((note) => note.at + note.seconds > from);
    if (this.next < 0) this.next = music.notes.length;
    this.timer = setInterval(() => this.schedule(), 120);
    this.schedule();
  }

  schedule() {
    const until = this.position + 1.5, notes = this.music.notes;
    for (; this.next < notes.length && notes[this.next].at < until; this.next++) {
      const note = notes[this.next], late = Math.max(0, this.from - note.at);
      if (note.seconds - late > 0)
        this.synth.note(this.begun + note.at + late - this.from, note.seconds - late, note.pitch, note.velocity, note.program,
          note.channel === 9, note.pan);
    }
    if (this.position > this.music.seconds + 0.6) { this.stop(); this.onend(); }
  }

  pause() {
    const at = this.position;
    this.silence();
    this.from = at;
  }

  silence() {
    clearInterval(this.timer);
    this.timer = 0;
    if (this.synth) this.speakers.silence(this.synth, 0.04);
    this.synth = null;
  }

  stop() {
    this.silence();
    this.music = null;
  }
}

// The notes in seconds; parts are spread from left to right.
function forPlayer(midi) {
  const parts = Math.max(1, midi.tracks.length - 1);
  const notes = midi.notes.map((note) => {
    const at = toSeconds(midi.tempos, note.start);
    const seconds = toSeconds(midi.tempos, note.start + note.length) - at;
    return {...note, at, seconds, pan: midi.tracks.length > 1 ? 0.8 * (note.track / parts - 0.5) : 0};
  });
  return {notes, seconds: toSeconds(midi.tempos, midi.end)};
}
