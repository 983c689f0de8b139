/* The payload of a page, with its matrices decoded and everything that steering changes. */

function floats(text) {
  if (text === null) return null;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

class Scored {
  constructor(payload) {
    Object.assign(this, payload);
    this.names = payload.objectives.map((objective) => objective.name);
    this.k = this.names.length;
    this.n = payload.responses.text.length;
    this.saved = floats(payload.responses.score);
    this.rewards = floats(payload.responses.rewards);
    this.savedCoefficients = floats(payload.coefficients);
    this.gating = floats(payload.gating);
    this.neighbours = floats(payload.neighbours);
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
    this.sampleScores = null;
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

  /* Percentage of the reference scores, under the same steering, that are below this one. */
  percentile(score) {
    const plain = !this.steered && !this.steering;
    const quantiles = plain ? this.quantiles : null;
    if (quantiles) {
      const at = quantiles.findIndex((quantile) => quantile >= score);
      if (at <= 0) return at < 0 ? 100 : 0;
      const [low, high] = [quantiles[at - 1], quantiles[at]];
      return at - 1 + (high > low ? (score - low) / (high - low) : 1);
    }
    if (!this.reference?.sample || !this.exact) return null;
    this.sampleScores ??= this.scoresOfSample();
    return (100 * this.sampleScores.filter((one) => one < score).length) / this.sampleScores.length;
  }

  scoresOfSample() {
    const { gating, rewards, owners } = this.reference.sample;
    const [gates, table] = [floats(gating), floats(rewards)];
    const debiasing = debiasingOf(this.transform, this.knobs);
    const found = new Map();
    return owners.map((owner, i) => {
      if (!found.has(owner))
        found.set(owner, steeredCoefficients(this.row(gates, owner), debiasing, this.knobs));
      const weights = found.get(owner);
      return this.row(table, i).reduce((sum, reward, j) => sum + weights[j] * reward, 0);
    });
  }

  /* Responses that no other one to their prompt beats in one objective without losing in another,
     after debiasing; null where the debiasing is unknown. */
  front(prompt) {
    if (!this.transform) return null;
    const rows = this.ofPrompt[prompt];
    const debiasing = debiasingOf(this.transform, this.knobs);
    const debiased = new Map(
      rows.map((row) => {
        const rewards = this.rewardsOf(row);
        return [row, this.names.map((_, j) => rewards.reduce((sum, r, i) => sum + r * debiasing[i][j], 0))];
      }),
    );
    const judged = this.names.map((_, j) => j).filter((j) => !this.objectives[j].neutral);
    const beats = (a, b) =>
      judged.every((j) => debiased.get(a)[j] >= debiased.get(b)[j]) &&
      judged.some((j) => debiased.get(a)[j] > debiased.get(b)[j]);
    return new Set(rows.filter((b) => !rows.some((a) => beats(a, b))));
  }

  /* Gate that a prompt's is compared with: of prompts that are like it, or of all. */
  usualGate(i) {
    const prompt = this.responses.prompt[i];
    if (this.neighbours) return { gate: this.row(this.neighbours, prompt), of: "reference prompts that are most like this one" };
    return this.reference?.gating ? { gate: this.reference.gating, of: this.reference.of } : null;
  }

  /* What each token changes the score by, under the present weights. */
  credits(i) {
    const trajectory = this.responses.details?.[i]?.trajectory;
    if (!trajectory) return null;
    const changes = floats(trajectory.changes);
    const weights = this.coefficientsOf(i);
    const credits = trajectory.tokens.map((_, at) =>
      this.row(changes, at).reduce((sum, change, j) => sum + weights[j] * change, 0),
    );
    const open = trajectory.tokens.length - trajectory.closing;
    return {
      tokens: trajectory.tokens.slice(0, open),
      credits: credits.slice(0, open),
      end: credits.slice(open).reduce((sum, credit) => sum + credit, 0),
    };
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
