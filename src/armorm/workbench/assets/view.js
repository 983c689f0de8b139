/* The view: responses of a file or of one prompt, the explanation of the selected one, and the
   knobs that weigh all of them again. */

class View {
  constructor(root) {
    this.root = root;
  }

  show(payload) {
    this.scored = new Scored(payload);
    this.mode = "parts";
    this.filter = { text: "", source: "", changed: false };
    this.sort = { by: "score", down: true };
    this.most = 100;
    const everything = Array.from({ length: this.scored.n }, (_, i) => i);
    this.select(rankOf(everything, this.scored.scores, this.scored.vetoed)[0], false);
    const many = this.scored.prompts.length > 1;
    this.list = many ? make("section", { class: "card list", "aria-label": "Responses" }) : null;
    this.detail = make("div", { class: "detail" });
    this.panel = make("aside", { class: "card knobs", "aria-label": "Steering" });
    this.scatter = many ? new Scatter(this.scored, (i) => this.select(i)) : null;
    const main = make("div", { class: "main" }, this.list, this.detail);
    this.root.replaceChildren(make("div", { class: "columns" }, main, this.panel));
    if (many) this.buildList();
    this.buildKnobs();
    this.update();
  }

  select(i, redraw = true) {
    const ranking = this.scored.ranking(this.scored.responses.prompt[i]);
    this.selected = i;
    this.other = ranking.find((one) => one !== i) ?? null;
    if (redraw) this.update();
  }

  steer() {
    this.scored.steer(this.scored.knobs);
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.update());
  }

  update() {
    if (this.list) this.updateList();
    this.updateDetail();
    this.updateKnobs();
    this.root.dispatchEvent(new CustomEvent("armorm-change", { bubbles: true }));
  }

  /* What a profile needs. */
  state() {
    const { knobs, names } = this.scored;
    return { steering: steeringOf(knobs, names), floors: floorsOf(knobs, names) };
  }

  /* ---- the list of a file ---- */

  buildList() {
    const { scored } = this;
    const sources = [...new Set(scored.responses.source)].filter((source) => source !== null).sort();
    const search = make("input", {
      type: "search",
      placeholder: "Search in prompts and responses",
      "aria-label": "Search in prompts and responses",
      on: { input: (event) => this.setFilter({ text: event.target.value }) },
    });
    const choice = make(
      "select",
      { "aria-label": "Source", on: { change: (event) => this.setFilter({ source: event.target.value }) } },
      make("option", { value: "" }, "All sources"),
      sources.map((source) => make("option", { value: source }, source)),
    );
    const several = scored.ofPrompt.some((rows) => rows.length > 1);
    const changed = make(
      "label",
      { class: "check" },
      make("input", { type: "checkbox", on: { change: (event) => this.setFilter({ changed: event.target.checked }) } }),
      "Only prompts whose best response changed",
    );
    this.found = make("p", { class: "quiet", role: "status" });
    this.correlation = make("p", { class: "quiet" });
    this.rows = make("tbody");
    this.heads = {};
    const head = (by, text, classes) => {
      const button = make("button", { type: "button", on: { click: () => this.setSort(by) } }, text);
      this.heads[by] = make("th", { scope: "col", class: classes }, button);
      return this.heads[by];
    };
    this.more = make("button", { type: "button", class: "plain", on: { click: () => this.showMore() } }, "Show 100 more");
    this.list.append(
      make("h2", null, "Score against length"),
      this.correlation,
      this.scatter.canvas,
      make("div", { class: "filters" }, search, sources.length > 1 ? choice : null, several ? changed : null),
      this.found,
      make(
        "div",
        { class: "scroll window" },
        make(
        "table",
        { class: "rows" },
        make("caption", { class: "hidden" }, "Responses of the file"),
        make(
          "thead",
          null,
          make("tr", null, head("file", "#", "num"), head("text", "Response"), head("length", "Length", "num wide"), head("score", "Score", "num")),
        ),
        this.rows,
        ),
        this.more,
      ),
    );
  }

  setFilter(change) {
    Object.assign(this.filter, change);
    this.most = 100;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.updateList(), 120);
  }

  setSort(by) {
    const down = by === "score" || by === "length";
    this.sort = { by, down: this.sort.by === by ? !this.sort.down : down };
    this.updateList();
  }

  showMore() {
    this.most += 100;
    this.updateList();
  }

  matching() {
    const { scored, filter } = this;
    const wanted = filter.text.trim().toLowerCase();
    if (wanted && !this.haystack)
      this.haystack = scored.responses.text.map((text, i) =>
        `${scored.prompts[scored.responses.prompt[i]].map(([, said]) => said).join(" ")} ${text ?? ""}`.toLowerCase(),
      );
    const rows = [];
    for (let i = 0; i < scored.n; i += 1) {
      const prompt = scored.responses.prompt[i];
      if (filter.source && scored.responses.source[i] !== filter.source) continue;
      if (filter.changed && !this.bestChanged[prompt]) continue;
      if (wanted && !this.haystack[i].includes(wanted)) continue;
      rows.push(i);
    }
    return rows;
  }

  updateList() {
    const { scored, sort } = this;
    this.bestChanged = scored.ofPrompt.map(
      (rows, prompt) => rows.length > 1 && scored.ranking(prompt)[0] !== this.scored.before[prompt][0],
    );
    const rows = this.matching();
    const keys = {
      file: (i) => i,
      text: (i) => scored.responses.text[i] ?? "",
      length: (i) => scored.lengths[i],
      score: (i) => scored.scores[i] - 1e6 * scored.vetoed[i],
    };
    const key = keys[sort.by];
    const sign = sort.down ? -1 : 1;
    rows.sort((a, b) => sign * (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) || a - b);
    for (const [by, cell] of Object.entries(this.heads)) {
      if (by === sort.by) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.scatter.show(rows, this.selected);
    const { correlation } = this.scatter;
    this.correlation.textContent =
      correlation === null ? "" : `Spearman correlation of score and length: ${signed(correlation, 2)}. Click a point to explain it.`;
    const changes = this.bestChanged.filter(Boolean).length;
    const contested = scored.ofPrompt.filter((group) => group.length > 1).length;
    this.found.textContent = [
      `${count(rows.length, "response", "responses")} to ${count(new Set(rows.map((i) => scored.responses.prompt[i])).size, "prompt", "prompts")}.`,
      contested ? `The best response changed for ${changes} of ${count(contested, "prompt", "prompts")}.` : "",
    ].join(" ");
    this.keepFocus(this.rows, () => this.rows.replaceChildren(...rows.slice(0, this.most).map((i) => this.listRow(i))));
    this.more.hidden = rows.length <= this.most;
  }

  listRow(i) {
    const { scored } = this;
    const prompt = scored.prompts[scored.responses.prompt[i]];
    const asked = prompt.length ? prompt[prompt.length - 1][1] : "";
    return make(
      "tr",
      { class: i === this.selected ? "selected" : null },
      make("td", { class: "num quiet" }, scored.responses.row[i]),
      make(
        "td",
        null,
        make(
          "button",
          {
            type: "button",
            class: "open",
            "data-key": `row-${i}`,
            "aria-current": i === this.selected ? "true" : null,
            on: { click: () => this.openRow(i) },
          },
          make("small", null, theirs(beginning(asked, 90))),
          theirs(beginning(scored.responses.text[i] ?? "(no text)", 140)),
        ),
        scored.vetoed[i] ? make("span", { class: "tag" }, "vetoed") : null,
      ),
      make("td", { class: "num wide" }, scored.lengths[i].toLocaleString("en")),
      make("td", { class: "num" }, number(scored.scores[i])),
    );
  }

  openRow(i) {
    this.select(i);
    this.detail.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  }

  /* ---- one response, and the others to its prompt ---- */

  updateDetail() {
    this.keepFocus(this.detail, () => this.detail.replaceChildren(...this.detailCards()));
  }

  keepFocus(container, change) {
    const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const open = [...container.querySelectorAll("details[open]")].map((one) => one.dataset.open);
    change();
    for (const one of container.querySelectorAll("details")) one.open = open.includes(one.dataset.open);
    if (key) container.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
  }

  detailCards() {
    const { scored, selected } = this;
    const prompt = scored.responses.prompt[selected];
    const several = scored.ofPrompt[prompt].length > 1;
    return [
      this.textCard(prompt),
      several ? this.rankingCard(prompt) : null,
      this.scoreCard(),
      several && this.other !== null ? this.marginCard() : null,
      scored.gateOf(selected) ? this.gateCard() : null,
      this.tokenCard(),
    ].filter((card) => card !== null);
  }

  textCard(prompt) {
    const messages = this.scored.prompts[prompt];
    const several = this.scored.ofPrompt[prompt].length > 1;
    const text = this.scored.responses.text[this.selected];
    const shown = [...messages, ...(several || text === null ? [] : [["assistant", text]])];
    if (!shown.length) return null;
    return make(
      "section",
      { class: "card texts", "aria-label": "Conversation" },
      shown.map(([role, said]) =>
        make("div", { class: `said ${role === "assistant" ? "answer" : ""}` }, make("h3", null, role), theirs(said, "text")),
      ),
    );
  }

  rankingCard(prompt) {
    const { scored } = this;
    const ranking = scored.ranking(prompt);
    const before = scored.before[prompt];
    const front = scored.front(prompt);
    const axis = axisOf(ranking.map((i) => scored.scores[i]));
    const rows = ranking.map((i, place) => {
      const moved = before.indexOf(i) - place;
      return make(
        "li",
        { class: i === this.selected ? "selected" : null },
        make("span", { class: "place" }, place + 1),
        make(
          "button",
          {
            type: "button",
            class: "open",
            "data-key": `response-${i}`,
            "aria-pressed": i === this.selected ? "true" : "false",
            on: { click: () => this.select(i) },
          },
          theirs(scored.responses.text[i] ?? `Response ${i + 1}`, "text"),
        ),
        make(
          "span",
          { class: "marks" },
          moved ? make("span", { class: "tag moved" }, moved > 0 ? `↑ ${moved}` : `↓ ${-moved}`, make("span", { class: "hidden" }, " places")) : null,
          scored.vetoed[i] ? make("span", { class: "tag veto" }, "vetoed") : null,
          front && front.size < ranking.length && front.has(i) ? make("span", { class: "tag", title: "No other response is as good in every objective and better in one" }, "Pareto front") : null,
        ),
        make("span", { class: "score num" }, number(scored.scores[i])),
        bar(0, scored.scores[i], axis, `score ${number(scored.scores[i])}`),
      );
    });
    return make(
      "section",
      { class: "card ranking", "aria-label": "Ranking" },
      make("h2", null, "Ranking"),
      make("ol", null, rows),
      make(
        "details",
        { "data-open": "ratings" },
        make("summary", { "data-key": "ratings" }, "Rating under each objective"),
        this.ratingsTable(ranking),
      ),
    );
  }

  ratingsTable(ranking) {
    const { scored } = this;
    const best = scored.names.map((_, j) => Math.max(...ranking.map((i) => scored.rewards[i * scored.k + j])));
    return make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rating under each objective" },
      make(
        "table",
        { class: "ratings" },
        make(
          "thead",
          null,
          make("tr", null, make("th", { scope: "col" }, "Objective"), ranking.map((_, place) => make("th", { scope: "col", class: "num" }, `#${place + 1}`))),
        ),
        make(
          "tbody",
          null,
          scored.names.map((name, j) =>
            make(
              "tr",
              null,
              make("th", { scope: "row" }, theirs(name)),
              ranking.map((i) => {
                const reward = scored.rewards[i * scored.k + j];
                return make("td", { class: reward === best[j] ? "num best" : "num" }, plain(scored.rating(j, reward)));
              }),
            ),
          ),
        ),
      ),
    );
  }

  scoreCard() {
    const { scored, selected } = this;
    const score = scored.scores[selected];
    const place = scored.percentile(score);
    const sure = scored.responses.details?.[selected];
    const modes = [
      ["parts", "Parts"],
      ["waterfall", "Waterfall"],
      ...(scored.reference ? [["average", "Against the average"]] : []),
    ];
    const facts = [
      place === null ? null : `higher than ${Math.round(place)} % of the reference scores`,
      sure?.deviation == null ? null : `± ${number(sure.deviation)} for new raters`,
      scored.steered || scored.steering ? "steered" : null,
    ].filter((fact) => fact !== null);
    return make(
      "section",
      { class: "card", "aria-label": "Score" },
      make(
        "header",
        { class: "head" },
        make("div", null, make("h2", null, "Score"), make("p", { class: "big num" }, number(score))),
        make("p", { class: "quiet facts" }, facts.join(" · ")),
        this.choices("How the score is shown", modes),
      ),
      make("p", { class: "sentence" }, this.sentence()),
      sure?.novel ? make("p", { class: "warning" }, "This response is unlike anything rated: its rewards are guesses.") : null,
      contributionTable(scored, selected, this.mode),
      this.mode === "average"
        ? make("p", { class: "quiet" }, `Average: mean rewards of ${scored.reference.of}, weighed as for this prompt.`)
        : null,
    );
  }

  sentence() {
    const { scored, selected } = this;
    const average = scored.reference?.rewards;
    const weights = scored.coefficientsOf(selected);
    const rewards = scored.rewardsOf(selected);
    const parts = weights
      .map((c, j) => ({ name: scored.names[j], value: c * (rewards[j] - (average ? average[j] : 0)) }))
      .sort((a, b) => b.value - a.value);
    const [most, least] = [parts[0], parts[parts.length - 1]];
    const against = average ? "Compared with an average response, " : "";
    const said = [];
    if (most.value > 5e-4) said.push([theirs(most.name), ` raises the score most (${signed(most.value)})`]);
    if (least.value < -5e-4) said.push([theirs(least.name), ` lowers it most (${signed(least.value)})`]);
    if (!said.length) return "No objective moves the score.";
    return [against, said.flatMap((part, at) => (at ? [", and ", ...part] : part)), "."];
  }

  choices(label, modes) {
    return make(
      "div",
      { class: "segments", role: "group", "aria-label": label },
      modes.map(([mode, text]) =>
        make(
          "button",
          {
            type: "button",
            "data-key": `mode-${mode}`,
            "aria-pressed": String(mode === this.mode),
            on: {
              click: () => {
                this.mode = mode;
                this.updateDetail();
              },
            },
          },
          text,
        ),
      ),
    );
  }

  marginCard() {
    const { scored, selected: a, other: b } = this;
    const margin = scored.scores[a] - scored.scores[b];
    const probability = scored.probability(margin);
    const ranking = scored.ranking(scored.responses.prompt[a]);
    const chosen = make(
      "select",
      {
        "aria-label": "Compared with",
        "data-key": "other",
        on: {
          change: (event) => {
            this.other = Number(event.target.value);
            this.updateDetail();
          },
        },
      },
      ranking
        .filter((i) => i !== a)
        .map((i) => make("option", { value: i, selected: i === b }, `#${ranking.indexOf(i) + 1}  ${beginning(scored.responses.text[i] ?? "", 50)}`)),
    );
    const vetoes = scored.vetoed[a] !== scored.vetoed[b];
    const verdict = vetoes
      ? `${scored.vetoed[a] ? "B" : "A"} ranks first: the other one is vetoed.`
      : margin === 0
        ? "A tie."
        : `${margin > 0 ? "A" : "B"} is preferred${probability === null ? "" : ` with probability ${percent(Math.max(probability, 1 - probability))}`}.`;
    return make(
      "section",
      { class: "card", "aria-label": "Comparison" },
      make("h2", null, "Why A and not B?"),
      make(
        "div",
        { class: "versus" },
        make("p", null, make("b", null, "A"), ` #${ranking.indexOf(a) + 1} `, theirs(beginning(scored.responses.text[a] ?? "", 90))),
        make("p", null, make("b", null, "B"), " ", chosen),
      ),
      make("p", { class: "sentence" }, verdict),
      marginTable(scored, a, b),
      make("h3", null, "What would flip it"),
      this.flips(a, b),
    );
  }

  flips(a, b) {
    const { scored } = this;
    const found = scored.flips(a, b).filter(({ factor }) => factor <= 10).slice(0, 3);
    if (!found.length) return make("p", { class: "quiet" }, "No factor from 0 to 10 on a single objective does.");
    const what = scored.exact ? "the gate's weight on it" : "its part";
    return make(
      "ul",
      { class: "flips" },
      found.map(({ j, factor }) =>
        make(
          "li",
          null,
          theirs(scored.names[j]),
          make("span", { class: "quiet" }, `${what} × ${Number(factor.toPrecision(2))} makes a tie`),
          make(
            "button",
            {
              type: "button",
              class: "plain",
              "data-key": `flip-${j}`,
              on: {
                click: () => {
                  const present = scored.knobs.factors[j];
                  // A little beyond the tie, on the slider's grid of 0.01 and not below zero.
                  const beyond = factor > present ? Math.floor(factor * 100 + 1) / 100 : Math.ceil(factor * 100 - 1) / 100;
                  scored.knobs.factors[j] = Math.max(0, beyond);
                  this.steer();
                },
              },
            },
            "Try it",
          ),
        ),
      ),
    );
  }

  gateCard() {
    const { scored, selected } = this;
    const usual = scored.usualGate(selected);
    return make(
      "section",
      { class: "card", "aria-label": "Gate" },
      make("h2", null, "What counts for this prompt"),
      make("p", { class: "quiet" }, `The gate reads the prompt and weighs the objectives. ${usual ? `The mark is the average of ${usual.of}.` : ""}`),
      gateTable(scored, selected),
    );
  }

  tokenCard() {
    const found = this.scored.credits(this.selected);
    if (!found) return null;
    return make(
      "section",
      { class: "card", "aria-label": "Tokens" },
      make("h2", null, "Where the score moves"),
      make("p", { class: "quiet" }, "What each token changes the score by when the model reads it: blue raises it, orange and dotted lowers it."),
      heatStrip(found),
      make("details", { "data-open": "credits" }, make("summary", { "data-key": "credits" }, "Credit of each token"), creditTable(found)),
    );
  }

  /* ---- the knobs ---- */

  buildKnobs() {
    const { scored } = this;
    this.sliders = [];
    const exact = scored.exact;
    this.flags = make("code", { class: "flags", tabindex: 0 });
    const reset = make(
      "button",
      {
        type: "button",
        class: "plain",
        on: {
          click: () => {
            scored.knobs = copyKnobs(scored.initial);
            this.steer();
          },
        },
      },
      "Reset",
    );
    const each = (build) => scored.names.map((name, j) => build(name, j));
    const top = (j) => Math.max(3, Math.ceil(1.5 * scored.knobs.factors[j]));
    const factors = each((name, j) =>
      this.slider({
        name: `factor-${j}`,
        label: name,
        low: Math.min(0, scored.knobs.factors[j]),
        high: top(j),
        step: 0.01,
        get: () => scored.knobs.factors[j],
        set: (value) => (scored.knobs.factors[j] = value),
        text: (value) => `× ${number(value, 2)}`,
        off: () => scored.knobs.mixture === 1,
      }),
    );
    const floors = each((name, j) => {
      const { zero, one } = scored.objectives[j];
      return this.slider({
        name: `floor-${j}`,
        label: name,
        low: -0.05,
        high: 1,
        step: 0.05,
        get: () => scored.knobs.floors[j] ?? -0.05,
        set: (value) => (scored.knobs.floors[j] = value < 0 ? null : Math.round(value * 100) / 100),
        text: (value) => (value < 0 ? "off" : `${one > zero ? "≥" : "≤"} ${plain(scored.rating(j, value))}`),
      });
    });
    const weights = each((name, j) =>
      this.slider({
        name: `weight-${j}`,
        label: name,
        low: Math.min(0, scored.knobs.weights[j]),
        high: Math.max(1, scored.knobs.weights[j]),
        step: 0.01,
        get: () => scored.knobs.weights[j],
        set: (value) => (scored.knobs.weights[j] = value),
        text: (value) => number(value, 2),
        off: () => scored.knobs.mixture === 0,
      }),
    );
    const mixture = this.slider({
      name: "mixture",
      label: "Share of these weights",
      low: 0,
      high: 1,
      step: 0.05,
      get: () => scored.knobs.mixture,
      set: (value) => (scored.knobs.mixture = value),
      text: percent,
    });
    const strength = this.slider({
      name: "debiasing",
      label: "Strength of the debiasing",
      low: 0,
      high: 1,
      step: 0.05,
      get: () => scored.knobs.debiasing.reduce((sum, s) => sum + s, 0) / scored.k,
      set: (value) => scored.knobs.debiasing.fill(value),
      text: percent,
    });
    const add = each((name, j) =>
      this.slider({
        name: `add-${j}`,
        label: name,
        low: Math.min(-0.5, scored.knobs.add[j]),
        high: Math.max(0.5, scored.knobs.add[j]),
        step: 0.01,
        get: () => scored.knobs.add[j],
        set: (value) => (scored.knobs.add[j] = value),
        text: (value) => signed(value, 2),
      }),
    );
    const group = (title, note, open, ...children) =>
      make("details", { open }, make("summary", null, title), note ? make("p", { class: "quiet" }, note) : null, children);
    this.panel.replaceChildren(
      ...[
        make("header", { class: "head" }, make("h2", null, "Steer"), reset),
        make("p", { class: "quiet" }, "Scores and ranking follow at once, from the saved rewards. Nothing is sent anywhere."),
        group(
          "Factors",
          exact
            ? "Multiply the gate's weight on an objective. 0 removes it together with its length penalty."
            : "Multiply an objective's part of the score. The file does not hold the debiasing, so length penalties stay as they are.",
          true,
          factors,
        ),
        group("Vetoes", "Least rating. A response below it ranks after all that are not.", false, floors),
        exact ? group("Weights in place of the gate", "The same for every prompt.", false, mixture, weights) : null,
        exact ? group("Debiasing", "0 % scores as before debiasing.", false, strength) : null,
        group("Coefficients to add", "Added to the coefficients themselves: the only way to reward or punish what debiasing drops.", false, add),
        make("div", { class: "command" }, make("h3", null, "The same on the command line"), this.flags),
      ].filter((part) => part !== null),
    );
  }

  slider({ name, label, low, high, step, get, set, text, off }) {
    const id = `armorm-${name}`;
    const output = make("output", { for: id, class: "num" });
    const input = make("input", {
      type: "range",
      id,
      min: low,
      max: high,
      step,
      "data-knob": name,
      on: {
        input: () => {
          set(Number(input.value));
          this.steer();
        },
      },
    });
    this.sliders.push(() => {
      const value = get();
      if (Number(input.value) !== value) input.value = value;
      output.textContent = text(value);
      input.setAttribute("aria-valuetext", text(value));
      input.style.setProperty("--at", `${(100 * (value - low)) / (high - low)}%`);
      input.disabled = off?.() ?? false;
    });
    return make("div", { class: "slider" }, make("label", { for: id }, theirs(label)), output, input);
  }

  updateKnobs() {
    for (const sync of this.sliders) sync();
    this.flags.textContent = steerFlags(this.scored.knobs, this.scored.names) || "no steering";
  }
}
