// The chart of the last slices, and the small one of the rate. Drawn by uPlot on a canvas: what it shows is in a table too.

import { began, compact, make, number, ticks } from "./words.js";

export const SERIES = [
  { key: "users", name: "Users", dash: [] },
  { key: "clicks", name: "Clicks", dash: [9, 4] },
  { key: "impressions", name: "Impressions", dash: [2.5, 3.5] },
  { key: "others", name: "Other types", dash: [10, 3, 3, 3] },
];
const SHOWN_LEAST = 12; // slices, also when the cluster is younger than that

const scheme = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const FONT = "12px system-ui, sans-serif";

// Where a new cluster has no slices yet, the chart need not show them.
export function since(past) {
  const first = past.slices.findIndex((_, i) => SERIES.some(({ key }) => past[key][i]));
  const last = past.slices.length - SHOWN_LEAST;
  return Math.max(0, first < 0 ? last : Math.min(first - 1, last));
}

export class PastChart {
  #box; #readout; #plot = null; #past = null; #from = 0;
  #hidden = new Set();

  constructor(box, readout, legend) {
    this.#box = box;
    this.#readout = readout;
    for (const { key, name } of SERIES) {
      const button = make("button", { type: "button", "aria-pressed": "true" }, make("i", { class: `key ${key}`, "aria-hidden": "true" }), name);
      button.addEventListener("click", () => this.#toggle(key, button));
      legend.append(button);
    }
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(box);
    scheme.addEventListener("change", () => this.#draw(true));
  }

  show(past) {
    this.#past = past;
    this.#draw(false);
  }

  #toggle(key, button) {
    if (!this.#hidden.delete(key)) this.#hidden.add(key);
    button.setAttribute("aria-pressed", String(!this.#hidden.has(key)));
    this.#plot?.setSeries(SERIES.findIndex((one) => one.key === key) + 1, { show: !this.#hidden.has(key) });
  }

  #size() {
    return { width: this.#box.clientWidth, height: this.#box.clientHeight };
  }

  #draw(anew) {
    const past = this.#past;
    if (!past?.slices.length) return;
    this.#from = since(past);
    const data = [past.start, ...SERIES.map(({ key }) => past[key])].map((column) => column.slice(this.#from));
    if (this.#plot && !anew) {
      this.#plot.setData(data);
      this.#read();
      return;
    }
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(), data, this.#box);
  }

  #options() {
    const axis = { stroke: colour("soft"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
    const step = () => this.#past.start.at(-1) - this.#past.start.at(-2);
    return {
      ...this.#size(),
      legend: { show: false },
      padding: [10, 18, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 9 } },
      scales: {
        x: { range: (_, low, high) => [low - step() / 2, high + step() / 2] },
        y: { range: (_, low, high) => [0, Math.max(4, high * 1.08)] },
      },
      axes: [{ ...axis, space: 76, size: 44, values: (_, at) => ticks(at) }, { ...axis, size: 52, values: (_, at) => at.map(compact) }],
      series: [{}, ...SERIES.map(({ key, name, dash }) => ({
        label: name,
        show: !this.#hidden.has(key),
        stroke: colour(key),
        width: 2,
        dash,
        points: { show: true, size: 5, fill: colour("card"), stroke: colour(key), dash: [] },
      }))],
      hooks: {
        // The slice of now still grows: its place is shaded, so that its low points are not taken for a fall.
        drawClear: [(u) => {
          const x = u.valToPos(this.#past.start.at(-1) - step() / 2, "x", true);
          u.ctx.fillStyle = colour("now");
          u.ctx.fillRect(x, u.bbox.top, u.bbox.left + u.bbox.width - x, u.bbox.height);
        }],
        setCursor: [() => this.#read()],
      },
    };
  }

  #read() {
    const at = this.#plot.cursor.idx;
    const past = this.#past;
    if (at === null || at === undefined) {
      this.#readout.textContent = "";
      return;
    }
    const i = at + this.#from;
    const figures = SERIES.map(({ key, name }) => `${name.toLowerCase()} ${number(past[key][i])}`).join(" · ");
    this.#readout.textContent = `Slice ${number(past.slices[i])}, ${began(past.start[i])}: ${past.complete[i] ? "" : "at least "}${figures}`;
  }
}

const SPARK_MS = 120_000;

export class RateChart {
  #box; #plot = null; #seen = [];

  constructor(box) {
    this.#box = box;
    new ResizeObserver(() => this.#plot?.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
    scheme.addEventListener("change", () => this.#draw(true));
  }

  show(at, perSecond) {
    this.#seen.push([at, perSecond]);
    while (this.#seen[0][0] < at - SPARK_MS) this.#seen.shift();
    this.#draw(false);
  }

  #draw(anew) {
    const data = [this.#seen.map(([at]) => at / 1000), this.#seen.map(([, rate]) => rate)];
    if (this.#plot && !anew) return this.#plot.setData(data);
    this.#plot?.destroy();
    this.#plot = new uPlot({
      width: this.#box.clientWidth,
      height: this.#box.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      padding: [4, 2, 2, 2],
      axes: [{ show: false }, { show: false }],
      scales: {
        x: { range: (_, low, high) => [high - SPARK_MS / 1000, high] },
        y: { range: (_, low, high) => [-0.03 * Math.max(1, high), Math.max(1, high * 1.1)] }, // so that a line at 0 is seen
      },
      series: [{}, { stroke: colour("users"), width: 1.75, fill: `${colour("users")}22`, points: { show: false }, spanGaps: false }],
    }, data, this.#box);
  }
}
