// Numbers, times and small marks as people read them. Nothing here makes HTML of a text: types of events are named by
// whoever sends them.

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export const number = (n) => whole.format(n);
export const compact = (n) => short.format(n);

export function rate(perSecond) {
  if (perSecond === null) return "–";
  return perSecond >= 100 || perSecond === 0 ? whole.format(Math.round(perSecond)) : perSecond.toFixed(1);
}

export function share(part, total) {
  return total ? `${((100 * part) / total).toFixed(1)} %` : "–";
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 5400 && s !== 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ""}`;
  if (s < 172_800) return `${(s / 3600).toFixed(1).replace(/\.0$/, "")} h`;
  return `${Math.round(s / 86_400)} days`;
}

export const moment = (ms) => `${day.format(ms)}, ${clockSeconds.format(ms)}`;
export const began = (seconds) => `${day.format(seconds * 1000)}, ${clock.format(seconds * 1000)}`;

// Marks of a time axis: the day where it changes, else the hour.
export function ticks(seconds) {
  let last = null;
  return seconds.map((s) => {
    const today = day.format(s * 1000);
    const text = today === last ? clock.format(s * 1000) : `${clock.format(s * 1000)}\n${today}`;
    last = today;
    return text;
  });
}

export function bytes(n) {
  const unit = n >= 1 << 20 ? ["MiB", 1 << 20] : n >= 1 << 10 ? ["KiB", 1 << 10] : ["bytes", 1];
  return `${whole.format(Math.round(n / unit[1]))} ${unit[0]}`;
}

export function say(element, text) {
  // Only what changes: a text that somebody has selected stays selected.
  if (element.textContent !== text) element.textContent = text;
}

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const MARKS = {
  ok: "M3 8.5 6.5 12 13 4.5",
  bad: "M4 4l8 8M12 4l-8 8",
  warn: "M8 2 15 14H1ZM8 6.5v3.5M8 12v.2",
};

export function mark(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  for (const [key, value] of Object.entries({ d: MARKS[kind], fill: "none", stroke: "currentColor", "stroke-width": "2", "stroke-linecap": "round", "stroke-linejoin": "round" })) path.setAttribute(key, value);
  svg.append(path);
  return svg;
}
