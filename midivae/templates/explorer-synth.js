"use strict";
// A small synthesiser: plays the notes of one window again and again, and changes them while it plays.
// No samples, no libraries: waves of a few harmonics with an envelope, a kind per family of General MIDI programs.

const AHEAD_S = 0.15; // notes are handed to the audio clock so long before they sound
const FAMILIES = [
  // harmonics, seconds to fall to a third (0: it is held), attack and release in seconds, loudness
  { waves: [1, 0.5, 0.28, 0.16, 0.1, 0.06, 0.03], decay: 0.9, attack: 0.004, release: 0.14, gain: 0.3 }, // piano
  { waves: [1, 0, 0, 0.35, 0, 0, 0.1], decay: 0.5, attack: 0.002, release: 0.3, gain: 0.26 }, // bells
  { waves: [1, 0.6, 0.4, 0.5, 0, 0.2, 0, 0.15], decay: 0, attack: 0.015, release: 0.06, gain: 0.15 }, // organ
  { waves: [1, 0.7, 0.45, 0.3, 0.2, 0.1], decay: 0.6, attack: 0.003, release: 0.1, gain: 0.26 }, // guitar
  { waves: [1, 0.6, 0.25, 0.1], decay: 0.8, attack: 0.006, release: 0.1, gain: 0.36 }, // bass
  { waves: [1, 0.5, 0.33, 0.25, 0.2, 0.16, 0.12, 0.1], decay: 0, attack: 0.06, release: 0.14, gain: 0.15 }, // strings
  { waves: [1, 0.4, 0.25, 0.12, 0.05], decay: 0, attack: 0.07, release: 0.18, gain: 0.19 }, // choir
  { waves: [1, 0.8, 0.6, 0.4, 0.25, 0.15], decay: 0, attack: 0.035, release: 0.08, gain: 0.15 }, // brass
  { waves: [1, 0.15, 0.6, 0.1, 0.4, 0.05, 0.2], decay: 0, attack: 0.025, release: 0.07, gain: 0.17 }, // reeds
  { waves: [1, 0.2, 0.08, 0.02], decay: 0, attack: 0.04, release: 0.08, gain: 0.24 }, // flutes
];

class Synth {
  constructor() {
    this.music = null; // { notes: [[part, pitch, start, end]...], steps, secondsPerStep, programs, drums }
    this.playing = false;
    this.voices = new Set();
    this.volume = 0.7;
  }

  // starts the audio clock; browsers allow it after a person has touched the page
  async wake() {
    if (!this.context) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      const limiter = new DynamicsCompressorNode(this.context, { threshold: -10, ratio: 8, attack: 0.003 });
      this.master = new GainNode(this.context, { gain: this.volume });
      this.analyser = new AnalyserNode(this.context, { fftSize: 1024 });
      this.master.connect(limiter).connect(this.analyser).connect(this.context.destination);
      this.heard = new Float32Array(this.analyser.fftSize);
      this.waves = FAMILIES.map(({ waves }) => {
        const imag = new Float32Array([0, ...waves]);
        return this.context.createPeriodicWave(new Float32Array(imag.length), imag);
      });
      this.noise = this.context.createBuffer(1, this.context.sampleRate, this.context.sampleRate);
      const data = this.noise.getChannelData(0);
      for (let i = 0; i < data.length; i++) data[i] = Math.random() * 2 - 1;
    }
    if (this.context.state !== "running") await this.context.resume();
  }

  // loudness of what is heard now, root mean square
  level() {
    if (!this.context) return 0;
    this.analyser.getFloatTimeDomainData(this.heard);
    return Math.sqrt(this.heard.reduce((sum, x) => sum + x * x, 0) / this.heard.length);
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.master) this.master.gain.setTargetAtTime(volume, this.context.currentTime, 0.02);
  }

  // the step that sounds now; null: nothing plays
  step() {
    if (!this.playing) return null;
    const at = (this.context.currentTime - this.began) / this.music.secondsPerStep;
    return ((at % this.music.steps) + this.music.steps) % this.music.steps;
  }

  // takes other music; where some plays, it goes on with this from the same step. Returns when it is first heard, in
  // seconds of the audio clock, or null
  change(music) {
    const step = this.step();
    this.music = music;
    return step === null ? null : this.start(step);
  }

  // plays from a step on
  start(step = 0) {
    this.silence();
    const now = this.context.currentTime + 0.012;
    this.began = now - step * this.music.secondsPerStep;
    this.playing = true;
    let first = null;
    for (const [part, pitch, start, end] of this.music.notes) {
      if (start < step - 1e-6 && end > step + 0.25) { // what sounds already sounds on
        this.note(part, pitch, now, (end - step) * this.music.secondsPerStep);
        first = now;
      }
    }
    this.next = step; // from here on nothing is handed over yet; counts on over the loops
    this.pump();
    clearInterval(this.timer);
    this.timer = setInterval(() => this.pump(), 40);
    if (first !== null || !this.music.notes.length) return now;
    const ahead = this.music.notes.map(([, , start]) => (start - step + this.music.steps) % this.music.steps);
    return now + Math.min(...ahead) * this.music.secondsPerStep;
  }

  stop() {
    this.playing = false;
    clearInterval(this.timer);
    this.silence();
  }

  // hands over the notes of the near future
  pump() {
    const { notes, steps, secondsPerStep } = this.music;
    const reach = document.hidden ? 1.5 : AHEAD_S; // timers of a hidden page come once a second
    const until = (this.context.currentTime + reach - this.began) / secondsPerStep;
    if (until <= this.next) return;
    for (let loop = Math.floor(this.next / steps); loop * steps < until; loop++) {
      for (const [part, pitch, start, end] of notes) {
        const at = loop * steps + start;
        if (at >= this.next - 1e-6 && at < until - 1e-6) {
          this.note(part, pitch, this.began + at * secondsPerStep, (end - start) * secondsPerStep);
        }
      }
    }
    this.next = until;
  }

  silence() {
    if (!this.context) return;
    const now = this.context.currentTime;
    for (const { gain, sources } of this.voices) {
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(0, now, 0.008);
      for (const source of sources) source.stop(now + 0.06);
    }
    this.voices.clear();
  }

  note(part, pitch, when, seconds) {
    const at = Math.max(when, this.context.currentTime);
    if (this.music.drums[part]) this.drum(pitch, at);
    else this.tone(this.music.programs[part], pitch, at, seconds, part);
  }

  voice(sources, gain, until, pan) {
    const place = new StereoPannerNode(this.context, { pan });
    gain.connect(place).connect(this.master);
    const voice = { gain, sources };
    this.voices.add(voice);
    sources[0].onended = () => { this.voices.delete(voice); place.disconnect(); };
    for (const source of sources) source.stop(until);
  }

  tone(program, pitch, at, seconds, part) {
    const kind = Math.min(program >> 3, FAMILIES.length - 1);
    const { decay, attack, release, gain: loud } = FAMILIES[kind];
    const frequency = 440 * 2 ** ((pitch - 69) / 12);
    const tone = new OscillatorNode(this.context, { frequency, detune: (part % 3) - 1 });
    tone.setPeriodicWave(this.waves[kind]);
    const gain = new GainNode(this.context, { gain: 0 });
    const top = loud * Math.min(1.5, (330 / frequency) ** 0.25); // high notes sound louder
    const end = at + Math.max(seconds - 0.01, attack + 0.02);
    gain.gain.setValueAtTime(0, at);
    gain.gain.linearRampToValueAtTime(top, at + attack);
    if (decay) gain.gain.setTargetAtTime(0, at + attack, decay);
    const left = decay ? top * Math.exp(-(end - at - attack) / decay) : top;
    gain.gain.cancelScheduledValues(end);
    gain.gain.setValueAtTime(left, end);
    gain.gain.setTargetAtTime(0, end, release / 3);
    tone.connect(gain);
    tone.start(at);
    this.voice([tone], gain, end + release * 2, ((part % 4) - 1.5) * 0.25);
  }

  drum(pitch, at) {
    const gain = new GainNode(this.context, { gain: 0 });
    const low = pitch < 37 || (pitch > 40 && pitch < 51 && ![42, 44, 46, 49].includes(pitch));
    if (low) { // bass drum and toms: a tone that falls
      const tone = new OscillatorNode(this.context, { frequency: pitch < 37 ? 120 : 220 });
      tone.frequency.exponentialRampToValueAtTime(pitch < 37 ? 45 : 90, at + 0.12);
      gain.gain.setValueAtTime(0.7, at);
      gain.gain.setTargetAtTime(0, at, 0.07);
      tone.connect(gain);
      tone.start(at);
      this.voice([tone], gain, at + 0.5, 0);
    } else { // snare and cymbals: noise
      const length = [49, 51, 52, 55, 57, 59, 46].includes(pitch) ? 0.18 : pitch < 41 ? 0.06 : 0.025;
      const noise = new AudioBufferSourceNode(this.context, { buffer: this.noise, loop: true });
      const pass = new BiquadFilterNode(this.context, { type: "highpass", frequency: pitch < 41 ? 1200 : 6500 });
      gain.gain.setValueAtTime(0.3, at);
      gain.gain.setTargetAtTime(0, at, length);
      noise.connect(pass).connect(gain);
      noise.start(at);
      this.voice([noise], gain, at + 6 * length, 0.1);
    }
  }
}
