// Elements, numbers and times as text. Names come from cameras and people: they are only ever set as textContent.

export const $ = (selector, root = document) => root.querySelector(selector);

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// Return the address of a stream, or of one of its tracks, in the page.
export function address(stream, track = null) {
  return `#/stream/${encodeURIComponent(stream)}${track === null ? "" : `/track/${track}`}`;
}

// Set a text only if it differs, so that screen readers and the layout are left alone.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// 14 ms · 1.3 s · 12 s
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

// 5 s · 3 min 05 s · 2 h 10 min · 4 d 3 h
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// The time of day; with the date if it is not today.
export function clock(time) {
  const date = new Date(time * 1000);
  const day = date.toDateString() === new Date().toDateString() ? "" : `${date.toLocaleDateString()} `;
  return day + date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export const rate = (fps) => (fps === null || fps === undefined ? "–" : fps.toFixed(fps < 9.95 ? 1 : 0));
