"use strict";
// Plays the notes of one window in a loop. The notes can be changed while it plays.

const AHEAD_S = 0.15; // notes are scheduled on the audio clock this long before they sound
const VELOCITY = 120; // of all notes: rolls have no velocities

class Loop {
  constructor() {
    this.music = null; // { notes: [[part, pitch, start, end]...], steps, secondsPerStep, programs, drums }
    this.playing = false;
    this.speakers = new Speakers();
  }

  // The step that sounds now; null if nothing plays.
  step() {
    if (!this.playing) return null;
    const at = (this.speakers.now - this.began) / this.music.secondsPerStep;
    return ((at % this.music.steps) + this.music.steps) % this.music.steps;
  }

  // Takes other music. If something plays, the new music goes on from the same step. Returns when it is first heard, in
  // seconds of the audio clock, or null.
  change(music) {
    const step = this.step();
    this.music = music;
    return step === null ? null : this.start(step);
  }

  // Plays from a step. Call `speakers.wake` before the first time. Returns when the first note is heard.
  start(step = 0) {
    this.silence();
    this.synth = this.speakers.synth();
    const now = this.speakers.now + 0.012;
    this.began = now - step * this.music.secondsPerStep;
    this.playing = true;
    let first = null;
    for (const [part, pitch, start, end] of this.music.notes) {
      if (start < step - 1e-6 && end > step + 0.25) { // a note that sounds at this step
        this.note(part, pitch, now, (end - step) * this.music.secondsPerStep);
        first = now;
      }
    }
    this.next = step; // no note from this step on is scheduled yet; it counts on over the repeats
    this.schedule();
    this.timer = setInterval(() => this.schedule(), 40);
    if (first !== null || !this.music.notes.length) return now;
    const ahead = this.music.notes.map(([, , start]) => (start - step + this.music.steps) % this.music.steps);
    return now + Math.min(...ahead) * this.music.secondsPerStep;
  }

  stop() {
    this.playing = false;
    this.silence();
  }

  silence() {
    clearInterval(this.timer);
    if (this.synth) this.speakers.silence(this.synth, 0.03);
    this.synth = null;
  }

  // Schedules the notes of the near future.
  schedule() {
    const { notes, steps, secondsPerStep } = this.music;
    const reach = document.hidden ? 1.5 : AHEAD_S; // timers of a hidden page run once a second
    const until = (this.speakers.now + reach - this.began) / secondsPerStep;
    if (until <= this.next) return;
    for (let round = Math.floor(this.next / steps); round * steps < until; round++) {
      for (const [part, pitch, start, end] of notes) {
        const at = round * steps + start;
        if (at >= this.next - 1e-6 && at < until - 1e-6) {
          this.note(part, pitch, this.began + at * secondsPerStep, (end - start) * secondsPerStep);
        }
      }
    }
    this.next = until;
  }

  note(part, pitch, when, seconds) {
    const { programs, drums } = this.music, at = Math.max(when, this.speakers.now);
    this.synth.note(at, seconds, pitch, VELOCITY, programs[part], drums[part], ((part % 4) - 1.5) * 0.25);
  }
}
