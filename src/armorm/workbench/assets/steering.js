/* Scores under other weights, from saved rewards and gates: the formula of armorm.model.steering.

   c = T(s) (t w + (1 - t) f * g) + b,  T(s) = I + (T - I) diag(s)

   A file that does not hold T has no gate to steer either: factors then scale the saved
   coefficients, which leaves every length penalty as it is. */

function neutralKnobs(k) {
  return {
    factors: new Array(k).fill(1),
    weights: new Array(k).fill(0),
    mixture: 0,
    debiasing: new Array(k).fill(1),
    add: new Array(k).fill(0),
    renormalise: false,
    floors: new Array(k).fill(null),
  };
}

function copyKnobs(knobs) {
  return structuredClone(knobs);
}

function knobsOf(steering, floors, names) {
  const knobs = neutralKnobs(names.length);
  const fill = (target, values) =>
    Object.entries(values || {}).forEach(([name, value]) => {
      const column = names.indexOf(name);
      if (column >= 0) target[column] = value;
    });
  const given = steering || {};
  fill(knobs.factors, given.factors);
  fill(knobs.add, given.add);
  if (given.weights) {
    fill(knobs.weights, given.weights);
    knobs.mixture = given.mixture ?? 1;
  }
  if (typeof given.debiasing === "number") knobs.debiasing.fill(given.debiasing);
  else fill(knobs.debiasing, given.debiasing);
  knobs.renormalise = given.renormalise ?? false;
  fill(knobs.floors, floors);
  return knobs;
}

/* The knobs as armorm.Steering.from_dict takes them. */
function steeringOf(knobs, names) {
  const moved = (values, neutral) => {
    const found = names
      .map((name, i) => [name, values[i]])
      .filter(([, value]) => value !== neutral && value !== null);
    return found.length ? Object.fromEntries(found) : null;
  };
  const steering = {};
  const put = (name, value) => {
    if (value !== null) steering[name] = value;
  };
  const replaced = knobs.mixture === 1;
  put("factors", replaced ? null : moved(knobs.factors, 1));
  if (knobs.mixture > 0) {
    steering.weights = moved(knobs.weights, 0) || { [names[0]]: 0 };
    if (!replaced) steering.mixture = knobs.mixture;
  }
  const strengths = new Set(knobs.debiasing);
  if (strengths.size === 1) put("debiasing", knobs.debiasing[0] === 1 ? null : knobs.debiasing[0]);
  else put("debiasing", moved(knobs.debiasing, 1));
  put("add", moved(knobs.add, 0));
  if (knobs.renormalise && knobs.factors.some((factor) => factor > 0)) steering.renormalise = true;
  return steering;
}

function floorsOf(knobs, names) {
  return Object.fromEntries(
    names.map((name, i) => [name, knobs.floors[i]]).filter(([, floor]) => floor !== null),
  );
}

function steerFlags(knobs, names) {
  const flags = [];
  for (const [knob, value] of Object.entries(steeringOf(knobs, names))) {
    if (typeof value !== "object") flags.push(`${knob}=${value}`);
    else
      for (const [name, number] of Object.entries(value))
        flags.push(`${knob === "factors" ? name : `${knob}.${name}`}=${number}`);
  }
  return flags.map((flag) => `--steer ${flag}`).join(" ");
}

function sameKnobs(a, b) {
  return ["factors", "weights", "mixture", "debiasing", "add", "renormalise"].every(
    (knob) => String(a[knob]) === String(b[knob]),
  );
}

/* Differences of scores keep their scale, so that a probability can be given. */
function keepsScale(knobs) {
  const gate = knobs.renormalise || knobs.factors.every((factor) => factor === 1);
  const rest = knobs.debiasing.every((s) => s === 1) && knobs.add.every((b) => b === 0);
  return gate && rest && knobs.mixture === 0;
}

function steeredGate(gating, knobs) {
  let moved = gating.map((g, j) => g * knobs.factors[j]);
  if (knobs.renormalise) {
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const left = sum(moved);
    moved = left ? moved.map((g) => (g * sum(gating)) / left) : gating;
  }
  return moved.map((g, j) => knobs.mixture * knobs.weights[j] + (1 - knobs.mixture) * g);
}

/* T(s), one row an objective. */
function debiasingOf(transform, knobs) {
  return transform.map((row, i) =>
    row.map((value, j) => {
      const identity = i === j ? 1 : 0;
      return identity + (value - identity) * knobs.debiasing[j];
    }),
  );
}

function steeredCoefficients(gating, debiasing, knobs) {
  const gate = steeredGate(gating, knobs);
  return debiasing.map(
    (row, i) => row.reduce((sum, value, j) => sum + value * gate[j], 0) + knobs.add[i],
  );
}

/* Positions from the best to the worst: below a floor after all that are not, then by score. */
function rankOf(positions, scores, vetoed) {
  return [...positions].sort(
    (a, b) => vetoed[a] - vetoed[b] || scores[b] - scores[a] || a - b,
  );
}

/* Spearman correlation, ties at their mean rank. */
function rankCorrelation(x, y) {
  const n = x.length;
  if (n < 3) return null;
  const ranks = (values) => {
    const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
    const found = new Float64Array(n);
    for (let start = 0; start < n; ) {
      let end = start;
      while (end + 1 < n && values[order[end + 1]] === values[order[start]]) end += 1;
      for (let at = start; at <= end; at += 1) found[order[at]] = (start + end) / 2;
      start = end + 1;
    }
    return found;
  };
  const [a, b] = [ranks(x), ranks(y)];
  const middle = (n - 1) / 2;
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < n; i += 1) {
    ab += (a[i] - middle) * (b[i] - middle);
    aa += (a[i] - middle) ** 2;
    bb += (b[i] - middle) ** 2;
  }
  return aa && bb ? ab / Math.sqrt(aa * bb) : null;
}
