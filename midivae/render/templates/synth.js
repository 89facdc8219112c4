// A small synthesiser on WebAudio: a waveform and an envelope for each family of General MIDI instruments, noise for
// drums. It needs no sound file and no request. new Synth(context, output).note(...) plays one note; Speakers is the
// output. player.js plays a piece, loop.js plays a window in a loop.

// amplitudes of the harmonics; attack, s; time constant of the decay, s (0: the note stays loud); release, s
const FAMILIES = [
  [[1, .45, .22, .12, .07, .04], .004, 1.1, .18], // piano
  [[1, 0, .1, .5, 0, 0, .12], .002, .7, .4], // chromatic percussion
  [[1, .7, .35, .5, 0, .2, 0, .25], .012, 0, .06], // organ
  [[1, .6, .38, .2, .12, .08], .003, .55, .12], // guitar
  [[1, .5, .16, .06], .005, .9, .1], // bass
  [[1, .55, .42, .26, .2, .14, .1], .07, 0, .22], // strings
  [[1, .5, .24, .12, .08], .09, 0, .28], // ensemble, choir
  [[1, .75, .55, .4, .26, .16, .1], .035, 0, .1], // brass
  [[1, .15, .6, .1, .3, .06, .14], .025, 0, .09], // reed
  [[1, .2, .08, .02], .04, 0, .12], // pipe
  [[1, .5, .33, .25, .2, .16, .14], .008, 0, .08], // synth lead
  [[1, .4, .2, .2, .1], .18, 0, .5], // synth pad
  [[1, .2, .4, .1, .2], .05, 1.6, .5], // effects
  [[1, .5, .3, .22, .1], .004, .5, .14], // ethnic, plucked
  [[1, .1, .4, .05, .2], .002, .25, .1], // percussive
  [[1, .2], .05, .8, .3], // sound effects
];

class Synth {
  constructor(context, output) {
    this.context = context;
    this.output = output;
    this.waves = new Map();
    const noise = context.createBuffer(1, context.sampleRate / 2, context.sampleRate);
    const values = noise.getChannelData(0);
    for (let i = 0, state = 1; i < values.length; i++) {
      state = (state * 16807) % 2147483647;
      values[i] = state / 1073741823.5 - 1;
    }
    this.noise = noise;
  }

  wave(family) {
    if (!this.waves.has(family)) {
      const harmonics = [0, ...FAMILIES[family][0]];
      const still = new Float32Array(harmonics.length);
      this.waves.set(family, this.context.createPeriodicWave(still, new Float32Array(harmonics)));
    }
    return this.waves.get(family);
  }

  note(at, seconds, pitch, velocity, program, drums, pan) {
    const loud = 0.12 * (velocity / 127) ** 1.4, envelope = this.context.createGain();
    const place = this.context.createStereoPanner();
    place.pan.value = pan;
    envelope.connect(place).connect(this.output);
    if (drums) return this.drum(at, pitch, loud, envelope);
    const [, attack, decay, release] = FAMILIES[program >> 3];
    const source = this.context.createOscillator();
    source.setPeriodicWave(this.wave(program >> 3));
    source.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
    // a high note sounds as loud as a low one at a smaller amplitude
    const level = loud * Math.min(1.4, 2 ** ((64 - pitch) / 36));
    const rise = Math.min(attack, seconds / 2), stop = at + Math.max(seconds, 0.05);
    envelope.gain.setValueAtTime(0, at);
    envelope.gain.linearRampToValueAtTime(level, at + rise);
    if (decay) envelope.gain.setTargetAtTime(level * 0.12, at + rise, decay);
    else envelope.gain.setTargetAtTime(level * 0.8, at + rise, 0.3);
    envelope.gain.setTargetAtTime(0, stop, release / 3);
    source.connect(envelope);
    source.start(at);
    source.stop(stop + release * 2);
    return source;
  }

  drum(at, pitch, loud, envelope) {
    const deep = pitch === 35 || pitch === 36, tom = [41, 43, 45, 47, 48, 50].includes(pitch), long = pitch >= 49;
    const length = deep || tom ? 0.28 : long ? 0.5 : pitch === 46 ? 0.3 : 0.12;
    let source;
    if (deep || tom) {
      const from = deep ? 130 : 60 + 2.6 * pitch;
      source = this.context.createOscillator();
      source.frequency.setValueAtTime(from, at);
      source.frequency.exponentialRampToValueAtTime(from * 0.36, at + length);
      source.connect(envelope);
    } else {
      const filter = this.context.createBiquadFilter();
      filter.type = pitch === 38 || pitch === 40 ? "bandpass" : "highpass";
      filter.frequency.value = filter.type === "bandpass" ? 1800 : 6000;
      source = this.context.createBufferSource();
      source.buffer = this.noise;
      source.connect(filter).connect(envelope);
    }
    envelope.gain.setValueAtTime(loud * (deep ? 2.4 : 1.2), at);
    envelope.gain.exponentialRampToValueAtTime(0.0004, at + length);
    source.start(at);
    source.stop(at + length);
    return source;
  }
}

// The output of all sound of a page: volume, compressor, and a limiter.
class Speakers {
  constructor() {
    this.volume = 0.8;
  }

  // Starts the audio clock; browsers allow it after a click or a key.
  async wake() {
    if (!this.context) {
      this.context = new AudioContext({latencyHint: "interactive"});
      this.master = this.context.createGain();
      this.master.gain.value = this.volume;
      const limit = this.context.createDynamicsCompressor();
      limit.threshold.value = -14;
      limit.ratio.value = 6;
      // the output stays below full scale: tanh of half the input
      const half = this.context.createGain(), bend = this.context.createWaveShaper();
      half.gain.value = 0.5;
      bend.curve = Float32Array.from({length: 1025}, (_, i) => Math.tanh((i - 512) / 256));
      this.analyser = this.context.createAnalyser();
      this.master.connect(limit).connect(half).connect(bend).connect(this.analyser).connect(this.context.destination);
      this.heard = new Float32Array(this.analyser.fftSize);
    }
    if (this.context.state !== "running") await this.context.resume();
  }

  get now() {
    return this.context ? this.context.currentTime : 0;
  }

  // A synthesiser that sounds until it is silenced.
  synth() {
    const output = this.context.createGain();
    output.connect(this.master);
    return new Synth(this.context, output);
  }

  silence(synth, seconds) {
    const gain = synth.output.gain;
    gain.setValueAtTime(gain.value, this.now);
    gain.linearRampToValueAtTime(0, this.now + seconds);
    setTimeout(() => synth.output.disconnect(), 1000 * seconds + 160);
  }

  // The level of the output now: peak, and root mean square.
  level() {
    if (!this.context) return {peak: 0, rms: 0};
    this.analyser.getFloatTimeDomainData(this.heard);
    const squares = this.heard.map((x) => x * x);
    return {peak: Math.sqrt(Math.max(...squares)), rms: Math.sqrt(squares.reduce((sum, x) => sum + x) / squares.length)};
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.master) this.master.gain.setTargetAtTime(volume, this.now, 0.02);
  }
}
