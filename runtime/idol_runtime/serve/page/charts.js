// Charts of one stream: latency by stage, frame age and dropped frames, second by second.

import { duration, element, setText, span } from "./text.js";

const SECONDS = 300; // shown and remembered at most
const FEWEST_SECONDS = 60; // shown at least
const STAGES = ["wait", "prepare", "network", "track", "write"];
const GAP_S = 5; // a longer time without frames is left blank
const HEIGHT = 96; // CSS pixels
const BOTTOM = 14; // of them for the time axis

// Return the smallest of 1, 2, 3, 4, 6, 8, 10, 20, … times `unit` that is not below the value.
export function ceiling(value, unit) {
  let step = unit;
  for (let i = 1; step < value && i < 120; i++) step = unit * [1, 2, 3, 4, 6, 8][i % 6] * 10 ** Math.floor(i / 6);
  return step;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  #canvas = element("canvas");
  #legend = element("ul", "legend");

  // series: [[label, CSS variable of the colour, function of a second]]; text: function of a value.
  constructor(title, series, { unit, text, kind }) {
    Object.assign(this, { title, series, unit, text, kind });
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
    const sums = seconds.map((second) => this.series.map(([, , of]) => of(second) ?? 0));
    const highest = sums.map((row) => (this.kind === "lines" ? Math.max(...row) : row.reduce((a, b) => a + b, 0)));
    const top = ceiling(Math.max(0, ...highest), this.unit);
    const x = (time) => width * (1 - (now - time) / length);
    const y = (value) => (HEIGHT - BOTTOM) * (1 - value / top);
    this.#grid(context, width, top, y);
    const draw = { stack: this.#stack, lines: this.#lines, bars: this.#bars }[this.kind];
    draw.call(this, context, seconds, sums, x, y, width / length);
    this.#labels(context, width, top, length);
  }

  #grid(context, width, top, y) {
    context.strokeStyle = style("--line");
    for (const value of [0, top / 2, top]) {
      const at = Math.max(0.5, Math.round(y(value)) - 0.5);
      context.beginPath();
      context.moveTo(0, at);
      context.lineTo(width, at);
      context.stroke();
    }
  }

  #labels(context, width, top, length) {
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = style("--card");
    context.fillStyle = style("--quiet");
    const write = (text, left, base) => {
      context.strokeText(text, left, base);
      context.fillText(text, left, base);
    };
    write(this.text(top), 2, 11);
    write(`${span(length)} ago`, 2, HEIGHT - 2);
    context.textAlign = "right";
    write("now", width - 2, HEIGHT - 2);
    context.textAlign = "left";
  }

  // Yield the parts [first, end) of the seconds that have no gap, such as a lost camera.
  *#parts(seconds) {
    let first = 0;
    for (let i = 1; i <= seconds.length; i++) {
      if (i === seconds.length || seconds[i].time - seconds[i - 1].time > GAP_S) {
        yield [first, i];
        first = i;
      }
    }
  }

  #stack(context, seconds, sums, x, y, second) {
    for (const [first, end] of this.#parts(seconds)) {
      let below = new Array(end - first).fill(0);
      this.series.forEach(([, colour], i) => {
        const above = below.map((value, at) => value + sums[first + at][i]);
        context.beginPath();
        const point = (value, at) => context.lineTo(x(seconds[first + at].time), y(value));
        above.forEach(point);
        const last = x(seconds[end - 1].time) + second;
        context.lineTo(last, y(above.at(-1)));
        context.lineTo(last, y(below.at(-1)));
        for (let at = below.length - 1; at >= 0; at--) point(below[at], at);
        context.fillStyle = style(colour);
        context.fill();
        below = above;
      });
    }
  }

  #lines(context, seconds, sums, x, y) {
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    this.series.forEach(([, colour], i) => {
      context.strokeStyle = style(colour);
      for (const [first, end] of this.#parts(seconds)) {
        context.beginPath();
        for (let at = first; at < end; at++) context.lineTo(x(seconds[at].time), y(sums[at][i]));
        context.stroke();
      }
    });
  }

  #bars(context, seconds, sums, x, y, second) {
    context.fillStyle = style(this.series[0][1]);
    seconds.forEach(({ time }, at) => {
      context.fillRect(x(time), y(sums[at][0]), Math.max(1, second), y(0) - y(sums[at][0]));
    });
  }
}

export class Charts {
  #seconds = [];
  #dropped = null; // total at the last second
  #charts;

  constructor(root) {
    const time = { unit: 0.001, text: duration };
    this.#charts = [
      new Chart("Latency by stage", STAGES.map((s) => [s, `--${s}`, (second) => second.stages?.[s]]), { ...time, kind: "stack" }),
      new Chart("Frame age", [["mean", "--mean", (s) => s.age_s], ["worst", "--worst", (s) => s.age_worst_s]], { ...time, kind: "lines" }),
      new Chart("Dropped frames", [["in the last second", "--bad", (s) => s.dropped]], { unit: 1, text: (value) => String(Math.round(value ?? 0)), kind: "bars" }),
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
