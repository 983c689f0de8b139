/* The payload of a page, with its matrices decoded and everything that steering changes. */

class Scored {
  constructor(payload) {
    const floats = (text) => {
      if (text === null) return null;
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      return new Float32Array(bytes.buffer);
    };
    Object.assign(this, payload);
    this.names = payload.objectives.map((objective) => objective.name);
    this.k = this.names.length;
    this.n = payload.responses.text.length;
    this.saved = floats(payload.responses.score);
    this.rewards = floats(payload.responses.rewards);
    this.savedCoefficients = floats(payload.coefficients);
    this.gating = floats(payload.gating);
    this.lengths = payload.responses.text.map((text) => [...(text ?? "")].length);
    this.ofPrompt = payload.prompts.map(() => []);
    payload.responses.prompt.forEach((prompt, i) => this.ofPrompt[prompt].push(i));
    this.reference = payload.reference ?? this.ownReference();
    this.initial = knobsOf(payload.steering, payload.floors, this.names);
    if (this.reference && !this.initial.mixture)
      this.initial.weights = (this.reference.gating ?? this.initial.weights).map(
        (weight) => Math.round(weight * 100) / 100,
      );
    this.exact = payload.transform !== null && this.gating !== null;
    this.steer(copyKnobs(this.initial));
    this.before = this.ofPrompt.map((rows) => rankOf(rows, this.scores, this.vetoed));
  }

  /* Means over a file that is large enough to have some. */
  ownReference() {
    if (this.n < 20) return null;
    const mean = (values, rows) =>
      this.names.map((_, i) => {
        let sum = 0;
        for (let row = 0; row < rows; row += 1) sum += values[row * this.k + i];
        return sum / rows;
      });
    return {
      of: "this file",
      rewards: mean(this.rewards, this.n),
      gating: this.gating && mean(this.gating, this.prompts.length),
    };
  }

  row(values, row) {
    return Array.from(values.subarray(row * this.k, (row + 1) * this.k));
  }

  rewardsOf(i) {
    return this.row(this.rewards, i);
  }

  gateOf(i) {
    return this.gating && this.row(this.gating, this.responses.prompt[i]);
  }

  steer(knobs) {
    this.knobs = knobs;
    this.steered = !sameKnobs(knobs, this.initial);
    const debiasing = this.exact && this.steered ? debiasingOf(this.transform, knobs) : null;
    this.coefficients = this.prompts.map((_, prompt) => {
      const saved = this.row(this.savedCoefficients, prompt);
      if (!this.steered) return saved;
      if (!this.exact) return saved.map((c, i) => c * knobs.factors[i] + knobs.add[i]);
      return steeredCoefficients(this.row(this.gating, prompt), debiasing, knobs);
    });
    this.scores = this.steered ? new Float64Array(this.n) : Float64Array.from(this.saved);
    this.vetoed = new Uint8Array(this.n);
    for (let i = 0; i < this.n; i += 1) {
      const weights = this.coefficients[this.responses.prompt[i]];
      for (let j = 0; j < this.k; j += 1) {
        const reward = this.rewards[i * this.k + j];
        if (this.steered) this.scores[i] += weights[j] * reward;
        const floor = knobs.floors[j];
        if (floor !== null && reward < Math.fround(floor)) this.vetoed[i] = 1;
      }
    }
  }

  coefficientsOf(i) {
    return this.coefficients[this.responses.prompt[i]];
  }

  contributionsOf(i) {
    const rewards = this.rewardsOf(i);
    return this.coefficientsOf(i).map((weight, j) => weight * rewards[j]);
  }

  ranking(prompt) {
    return rankOf(this.ofPrompt[prompt], this.scores, this.vetoed);
  }

  rating(j, reward) {
    const { zero, one } = this.objectives[j];
    return zero + reward * (one - zero);
  }

  probability(margin) {
    if (!this.beta || !this.exact || !keepsScale(this.knobs)) return null;
    return 1 / (1 + Math.exp(-this.beta * margin));
  }

  percentile(score) {
    if (!this.quantiles || this.steered || this.steering) return null;
    const at = this.quantiles.findIndex((quantile) => quantile >= score);
    if (at < 0) return 100;
    if (at === 0) return 0;
    const [low, high] = [this.quantiles[at - 1], this.quantiles[at]];
    return at - 1 + (high > low ? (score - low) / (high - low) : 1);
  }

  /* Responses that no other one to their prompt beats in one objective without losing in another. */
  front(prompt) {
    const rows = this.ofPrompt[prompt];
    const judged = this.names.map((_, j) => j).filter((j) => !this.objectives[j].neutral);
    const beats = (a, b) =>
      judged.every((j) => this.rewards[a * this.k + j] >= this.rewards[b * this.k + j]) &&
      judged.some((j) => this.rewards[a * this.k + j] > this.rewards[b * this.k + j]);
    return rows.filter((b) => !rows.some((a) => beats(a, b)));
  }

  /* Factor of each objective's gate at which a and b tie, the nearest to the present one first. */
  flips(a, b) {
    const margin = this.scores[a] - this.scores[b];
    const gap = this.rewardsOf(a).map((reward, j) => reward - this.rewardsOf(b)[j]);
    const present = this.knobs.factors;
    let slopes;
    if (!this.exact) {
      const saved = this.row(this.savedCoefficients, this.responses.prompt[a]);
      slopes = saved.map((c, j) => c * gap[j]);
    } else {
      if (this.knobs.renormalise) return [];
      const debiasing = debiasingOf(this.transform, this.knobs);
      slopes = this.gateOf(a).map((g, j) => {
        const toward = debiasing.reduce((sum, row, i) => sum + row[j] * gap[i], 0);
        return (1 - this.knobs.mixture) * g * toward;
      });
    }
    return slopes
      .map((slope, j) => ({ j, factor: present[j] - margin / slope }))
      .filter(({ factor }) => Number.isFinite(factor) && factor >= 0)
      .sort((x, y) => Math.abs(x.factor - present[x.j]) - Math.abs(y.factor - present[y.j]));
  }
}
