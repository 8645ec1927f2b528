// Charts of one stream: latency by stage, frame age and dropped frames, second by second.

import { duration, element, setText } from "./text.js";

const SECONDS = 300; // shown and remembered at most
const FEWEST_SECONDS = 60; // shown at least
const STAGES = ["wait", "prepare", "network", "track", "write"];
const GAP_S = 5; // a longer time without frames interrupts a line
const HEIGHT = 96; // CSS pixels
const BOTTOM = 14; // of them for the time axis

// Return the smallest of 1, 2, 3, 4, 6, 8, 10, 20, … times `unit` that is not below the value.
export function ceiling(value, unit) {
  let step = unit;
  for (let i = 1; step < value && i < 120; i++) step = unit * [1, 2, 3, 4, 6, 8][i % 6] * 10 ** Math.floor(i / 6);
  return step;
}

const sum = (values) => values.reduce((a, b) => a + b, 0);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  #canvas = element("canvas");
  #legend = element("ul", "legend");

  // series: [[label, CSS variable of the colour, function of a second]]; unit: of the axis; text: function of a value.
  // lines: draw lines, not bars.
  constructor(title, series, { unit, text, lines = false }) {
    Object.assign(this, { title, series, unit, text, lines });
    this.root = element("figure");
    this.root.append(element("figcaption", "", title), this.#canvas, this.#legend);
    this.#canvas.setAttribute("role", "img");
    this.values = series.map(([label, colour]) => {
      const item = element("li");
      const mark = element("i");
      mark.style.background = `var(${colour})`;
      const value = element("b");
      item.append(mark, element("span", "", label), value);
      this.#legend.append(item);
      return value;
    });
  }

  draw(seconds, now, length) {
    const width = this.#canvas.clientWidth;
    if (!width) return;
    const last = seconds.at(-1);
    this.series.forEach(([, , of], i) => setText(this.values[i], last ? this.text(of(last)) : "–"));
    this.#canvas.setAttribute(
      "aria-label",
      `${this.title}: ${this.series.map(([label], i) => `${label} ${this.values[i].textContent}`).join(", ")}`,
    );
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(HEIGHT * ratio);
    const context = this.#canvas.getContext("2d");
    context.scale(ratio, ratio);
    const rows = seconds.map((second) => this.series.map(([, , of]) => of(second) ?? 0));
    const top = ceiling(Math.max(0, ...rows.map((row) => (this.lines ? Math.max(...row) : sum(row)))), this.unit);
    const x = (time) => Math.round(width * ratio * (1 - (now - time) / length)) / ratio;
    const y = (value) => (HEIGHT - BOTTOM) * (1 - value / top);
    context.fillStyle = style("--line");
    for (const value of [0, top / 2, top]) context.fillRect(0, Math.max(0, Math.round(y(value)) - 1), width, 1);
    if (this.lines) this.#drawLines(context, seconds, rows, x, y);
    else this.#drawBars(context, seconds, rows, x, y);
    this.#label(context, width, top, length);
  }

  #drawBars(context, seconds, rows, x, y) {
    const colours = this.series.map(([, colour]) => style(colour));
    seconds.forEach(({ time }, at) => {
      const left = x(time);
      for (let i = colours.length; i > 0; i--) {
        const above = y(sum(rows[at].slice(0, i)));
        context.fillStyle = colours[i - 1];
        context.fillRect(left, above, Math.max(1, x(time + 1) - left), y(0) - above);
      }
    });
  }

  #drawLines(context, seconds, rows, x, y) {
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    this.series.forEach(([, colour], i) => {
      context.strokeStyle = style(colour);
      context.beginPath();
      seconds.forEach(({ time }, at) => {
        const gap = at && time - seconds[at - 1].time > GAP_S;
        context[gap ? "moveTo" : "lineTo"](x(time), y(rows[at][i]));
      });
      context.stroke();
    });
  }

  #label(context, width, top, length) {
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = style("--card");
    context.fillStyle = style("--quiet");
    const labels = [["left", this.text(top), 11], ["left", `${Math.round(length)} s ago`, HEIGHT - 2], ["right", "now", HEIGHT - 2]];
    for (const [side, text, base] of labels) {
      context.textAlign = side;
      const at = side === "left" ? 2 : width - 2;
      context.strokeText(text, at, base);
      context.fillText(text, at, base);
    }
  }
}

export class Charts {
  #seconds = [];
  #dropped = null; // total at the last second
  #charts;

  constructor(root) {
    const time = { unit: 0.001, text: duration };
    this.#charts = [
      new Chart("Latency by stage", STAGES.map((s) => [s, `--${s}`, (second) => second.stages?.[s]]), time),
      new Chart("Frame age", [["mean", "--network", (s) => s.age_s], ["worst", "--write", (s) => s.age_worst_s]], { ...time, lines: true }),
      new Chart("Dropped frames", [["in the last second", "--bad", (s) => s.dropped]], { unit: 1, text: (value) => `${Math.round(value ?? 0)}/s` }),
    ];
    root.append(...this.#charts.map((chart) => chart.root));
  }

  // Replace everything by columns of seconds, oldest first; seconds without frames are left out.
  load({ time, frames, dropped, age_s, age_worst_s, stages }) {
    this.#seconds = time
      .map((at, i) => ({
        time: at, frames: frames[i], dropped: dropped[i], age_s: age_s[i], age_worst_s: age_worst_s[i],
        stages: Object.fromEntries(STAGES.map((stage) => [stage, stages[stage][i]])),
      }))
      .filter((second) => second.frames)
      .slice(-SECONDS);
  }

  // Add a second, whose number of dropped frames is the total.
  add({ time, dropped, age_s, age_worst_s, stages }) {
    const since = dropped - (this.#dropped ?? dropped);
    this.#dropped = dropped;
    const second = Math.floor(time) - 1; // the last whole one
    if (stages.network === null || second <= (this.#seconds.at(-1)?.time ?? 0)) return;
    this.#seconds.push({ time: second, dropped: Math.max(0, since), age_s, age_worst_s, stages });
    if (this.#seconds.length > SECONDS) this.#seconds.shift();
  }

  draw(now) {
    const shown = this.#seconds.filter((second) => second.time > now - SECONDS);
    const length = Math.min(Math.max(now - (shown[0]?.time ?? now), FEWEST_SECONDS), SECONDS);
    for (const chart of this.#charts) chart.draw(shown, now, length);
  }
}
