/* Pictures of scores. Text reaches the page only as text nodes and attributes, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "css") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const minus = (text) => text.replace("-", "−");
const number = (value, digits = 3) => minus(value.toFixed(digits));
const signed = (value, digits = 3) => (value >= 0 ? "+" : "") + number(value, digits);
const percent = (share) => `${Math.round(100 * share)} %`;
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const plain = (value) => minus(String(Math.round(value * 100) / 100));

/* Text that somebody else wrote: its writing direction is its own and ends with it. */
function theirs(text, classes = "") {
  return make("bdi", { dir: "auto", class: classes }, text);
}

function beginning(text, limit) {
  const line = text.replace(/\s+/g, " ").trim();
  const cut = [...line.slice(0, 2 * limit)].slice(0, limit).join("");
  return cut.length < line.length ? `${cut}…` : line;
}

/* A bar between two values on an axis that has a line at zero. */
function bar(from, to, axis, label) {
  const place = (value) => (100 * (value - axis.low)) / (axis.high - axis.low);
  const [left, right] = [place(Math.min(from, to)), place(Math.max(from, to))];
  return make(
    "span",
    { class: "bar", role: "img", "aria-label": label },
    make("i", { class: "zero", css: { left: `${place(0)}%` } }),
    make("b", {
      class: to >= from ? "plus" : "minus",
      css: { left: `${left}%`, width: `${Math.max(right - left, 0.4)}%` },
    }),
  );
}

function axisOf(values) {
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  return high > low ? { low, high } : { low: 0, high: 1 };
}

/* The score as a sum: one row an objective, each bar on its own zero or where the last one ended. */
function contributionTable(scored, i, mode) {
  const rewards = scored.rewardsOf(i);
  const weights = scored.coefficientsOf(i);
  const average = scored.reference?.rewards;
  const base = mode === "average" ? weights.reduce((sum, c, j) => sum + c * average[j], 0) : 0;
  const parts = weights.map((c, j) => ({
    j,
    value: c * (rewards[j] - (mode === "average" ? average[j] : 0)),
  }));
  parts.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  let running = base;
  for (const part of parts) {
    part.from = mode === "parts" ? 0 : running;
    running += part.value;
    part.to = mode === "parts" ? part.value : running;
  }
  const axis = axisOf([...parts.flatMap((part) => [part.from, part.to]), base, running, scored.scores[i]]);
  const sure = scored.responses.details?.[i];
  const rows = parts.map(({ j, value, from, to }) => {
    const objective = scored.objectives[j];
    const rating = scored.rating(j, rewards[j]);
    const width = sure?.half_widths?.[objective.name];
    const half = width ? `±${plain(width * Math.abs(objective.one - objective.zero))}` : "";
    return make(
      "tr",
      null,
      make(
        "th",
        { scope: "row" },
        theirs(objective.name),
        objective.description ? make("small", null, theirs(objective.description)) : null,
      ),
      scored.scales
        ? make("td", { class: "num rating" }, plain(rating), make("small", null, `of ${plain(objective.high)}`, half ? ` ${half}` : ""))
        : null,
      make("td", { class: scored.scales ? "num wide" : "num" }, number(rewards[j])),
      make("td", { class: "num wide" }, `× ${number(weights[j])}`),
      make("td", { class: "num adds" }, signed(value)),
      make("td", { class: "picture" }, bar(from, to, axis, `${objective.name} adds ${signed(value)}`)),
    );
  });
  const end = (name, value, text) =>
    make(
      "tr",
      { class: "end" },
      make("th", { scope: "row" }, name),
      scored.scales ? make("td", { class: "num rating" }) : null,
      make("td", { class: scored.scales ? "num wide" : "num" }),
      make("td", { class: "num wide" }),
      make("td", { class: "num adds" }, text),
      make("td", { class: "picture" }, bar(0, value, axis, `${name} ${number(value)}`)),
    );
  return make(
    "table",
    { class: "parts" },
    make("caption", { class: "hidden" }, "Contribution of each objective to the score"),
    make(
      "thead",
      null,
      make(
        "tr",
        null,
        make("th", { scope: "col" }, "Objective"),
        scored.scales ? make("th", { scope: "col", class: "num rating" }, "Rating") : null,
        make("th", { scope: "col", class: scored.scales ? "num wide" : "num" }, "Reward"),
        make("th", { scope: "col", class: "num wide" }, "Coefficient"),
        make("th", { scope: "col", class: "num adds" }, "Adds"),
        make("th", { scope: "col", class: "picture" }, make("span", { class: "hidden" }, "Picture")),
      ),
    ),
    make(
      "tbody",
      null,
      mode === "average" ? end("An average response", base, number(base)) : null,
      rows,
      end("Score", scored.scores[i], number(scored.scores[i])),
    ),
  );
}

/* Weight of each objective for this prompt, with a mark where it is on average. */
function gateTable(scored, i) {
  const gate = scored.exact ? steeredGate(scored.gateOf(i), scored.knobs) : scored.gateOf(i);
  const average = scored.usualGate(i)?.gate;
  const axis = axisOf([...gate, ...(average || [])]);
  const order = gate.map((_, j) => j).sort((a, b) => gate[b] - gate[a]);
  const place = (value) => `${(100 * (value - axis.low)) / (axis.high - axis.low)}%`;
  return make(
    "table",
    { class: "parts gate" },
    make("caption", { class: "hidden" }, "Weight of each objective for this prompt"),
    make(
      "thead",
      null,
      make(
        "tr",
        null,
        make("th", { scope: "col" }, "Objective"),
        make("th", { scope: "col", class: "num adds" }, "Here"),
        average ? make("th", { scope: "col", class: "num adds" }, "Average") : null,
        make("th", { scope: "col", class: "picture" }, make("span", { class: "hidden" }, "Picture")),
      ),
    ),
    make(
      "tbody",
      null,
      order.map((j) => {
        const dropped = scored.dropped === scored.names[j];
        const said = `${scored.names[j]}: ${percent(gate[j])} here`;
        const picture = bar(0, gate[j], axis, average ? `${said}, ${percent(average[j])} on average` : said);
        picture.querySelector("b").className = dropped ? "mute" : "even";
        if (average) picture.append(make("i", { class: "mark", css: { left: place(average[j]) } }));
        return make(
          "tr",
          null,
          make(
            "th",
            { scope: "row" },
            theirs(scored.names[j]),
            dropped ? make("small", null, "no opinion: debiasing drops it from the score") : null,
          ),
          make("td", { class: "num adds" }, percent(gate[j])),
          average ? make("td", { class: "num adds quiet" }, percent(average[j])) : null,
          make("td", { class: "picture" }, picture),
        );
      }),
    ),
  );
}

/* The margin of a over b as a sum. */
function marginTable(scored, a, b) {
  const [ra, rb] = [scored.rewardsOf(a), scored.rewardsOf(b)];
  const parts = scored
    .coefficientsOf(a)
    .map((c, j) => ({ j, value: c * (ra[j] - rb[j]) }))
    .sort((x, y) => Math.abs(y.value) - Math.abs(x.value));
  const margin = scored.scores[a] - scored.scores[b];
  const limit = Math.max(...parts.map(({ value }) => Math.abs(value)), Math.abs(margin)) || 1;
  const axis = { low: -limit, high: limit };
  const row = (head, left, right, value, classes) =>
    make(
      "tr",
      { class: classes },
      make("th", { scope: "row" }, head),
      make("td", { class: "num rating" }, left),
      make("td", { class: "num rating" }, right),
      make("td", { class: "num adds" }, signed(value)),
      make("td", { class: "picture" }, bar(0, value, axis, `${signed(value)} for ${value >= 0 ? "A" : "B"}`)),
    );
  return make(
    "table",
    { class: "parts margin" },
    make("caption", { class: "hidden" }, "Contribution of each objective to the margin"),
    make(
      "thead",
      null,
      make(
        "tr",
        null,
        make("th", { scope: "col" }, "Objective"),
        make("th", { scope: "col", class: "num rating" }, "A"),
        make("th", { scope: "col", class: "num rating" }, "B"),
        make("th", { scope: "col", class: "num adds" }, "Margin"),
        make(
          "th",
          { scope: "col", class: "picture sides" },
          make("span", null, "← for B"),
          make("span", null, "for A →"),
        ),
      ),
    ),
    make(
      "tbody",
      null,
      parts.map(({ j, value }) =>
        row(
          theirs(scored.names[j]),
          plain(scored.rating(j, ra[j])),
          plain(scored.rating(j, rb[j])),
          value,
          null,
        ),
      ),
      row("Margin", number(scored.scores[a]), number(scored.scores[b]), margin, "end"),
    ),
  );
}

/* Tokens on a ground that says how much each one moved the score. */
function heatStrip({ tokens, credits, end }) {
  const limit = Math.max(...credits.map(Math.abs), Math.abs(end)) || 1;
  const piece = (text, credit, classes) =>
    make(
      "span",
      {
        class: `${credit >= 0 ? "plus" : "minus"} ${classes}`,
        title: signed(credit),
        css: { "--strength": `${Math.round((65 * Math.abs(credit)) / limit)}%` },
      },
      text,
    );
  return make(
    "p",
    { class: "heat", dir: "auto" },
    tokens.map((token, at) => piece(token, credits[at], "")),
    piece("end of the response", end, "close"),
  );
}

/* The same in words and numbers. */
function creditTable({ tokens, credits, end }) {
  const rows = [...tokens.map((token, at) => [token, credits[at]]), ["end of the response", end]];
  return make(
    "div",
    { class: "scroll window", tabindex: 0, role: "region", "aria-label": "Credit of each token" },
    make(
      "table",
      { class: "ratings" },
      make("thead", null, make("tr", null, make("th", { scope: "col" }, "Token"), make("th", { scope: "col", class: "num" }, "Credit"))),
      make("tbody", null, rows.map(([token, credit]) => make("tr", null, make("td", null, theirs(token, "text")), make("td", { class: "num" }, signed(credit, 4))))),
    ),
  );
}

/* Score against length, on a canvas: ten thousand points are as quick as ten. */
class Scatter {
  constructor(scored, choose) {
    this.scored = scored;
    this.choose = choose;
    this.canvas = make("canvas", { role: "img", class: "scatter" });
    this.canvas.addEventListener("click", (event) => {
      const found = this.nearest(event.offsetX, event.offsetY);
      if (found !== null) this.choose(found);
    });
    this.canvas.addEventListener("mousemove", (event) => {
      const found = this.nearest(event.offsetX, event.offsetY);
      this.canvas.classList.toggle("pointing", found !== null);
      this.canvas.title = found === null ? "" : `${number(this.scored.scores[found])}, ${count(this.scored.lengths[found], "character", "characters")}`;
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.draw());
  }

  show(rows, selected) {
    this.rows = rows;
    this.selected = selected;
    const correlation = rankCorrelation(
      rows.map((i) => this.scored.lengths[i]),
      rows.map((i) => this.scored.scores[i]),
    );
    this.correlation = correlation;
    const said = correlation === null ? "" : ` Spearman correlation ${signed(correlation, 2)}.`;
    this.canvas.setAttribute(
      "aria-label",
      `Score against length of ${count(rows.length, "response", "responses")}.${said}`,
    );
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !this.rows) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const ink = style.color;
    const lengths = this.rows.map((i) => Math.log10(this.scored.lengths[i] + 1));
    const scores = this.rows.map((i) => this.scored.scores[i]);
    const range = (values) => {
      const low = values.reduce((least, value) => Math.min(least, value), Infinity);
      const high = values.reduce((most, value) => Math.max(most, value), -Infinity);
      const margin = (high - low || 1) * 0.05;
      return [low - margin, high + margin];
    };
    const [x0, x1] = range(lengths);
    const [y0, y1] = range(scores);
    const [left, bottom, top, right] = [52, 40, 22, 12];
    const px = (value) => left + ((width - left - right) * (value - x0)) / (x1 - x0);
    const py = (value) => height - bottom - ((height - bottom - top) * (value - y0)) / (y1 - y0);
    pen.clearRect(0, 0, width, height);
    pen.font = `12px ${style.fontFamily}`;
    pen.lineWidth = 1;
    pen.fillStyle = ink;
    for (const value of ticks(y0, y1, 7)) {
      pen.globalAlpha = 0.12;
      pen.fillRect(left, Math.round(py(value)), width - left - right, 1);
      pen.globalAlpha = 0.7;
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      pen.fillText(plain(value), left - 8, py(value));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const value of [1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000]) {
      const at = Math.log10(value + 1);
      if (at > x0 && at < x1) pen.fillText(value.toLocaleString("en"), px(at), height - bottom + 8);
    }
    pen.textAlign = "left";
    pen.fillText("score", 0, 0);
    pen.textAlign = "center";
    pen.fillText("length in characters", (left + width - right) / 2, height - 15);
    this.points = this.rows.map((i, at) => [px(lengths[at]), py(scores[at]), i]);
    const dense = this.points.length > 2000;
    pen.globalAlpha = dense ? 0.35 : 0.65;
    for (const [x, y, i] of this.points) {
      pen.fillStyle = this.scored.vetoed[i] ? style.borderBottomColor : style.borderTopColor;
      pen.beginPath();
      pen.arc(x, y, dense ? 2.5 : 4, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    for (const [x, y, i] of this.points) {
      if (i !== this.selected) continue;
      pen.strokeStyle = ink;
      pen.lineWidth = 2.5;
      pen.beginPath();
      pen.arc(x, y, 8, 0, 7);
      pen.stroke();
    }
  }

  nearest(x, y) {
    let [found, least] = [null, 14 ** 2];
    for (const [px, py, i] of this.points || []) {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [found, least] = [i, distance];
    }
    return found;
  }
}

function ticks(low, high, most) {
  const raw = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((size) => size >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}
