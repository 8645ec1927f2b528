// The list of the tracks of one stream.

import { streamPath } from "./feed.js";
import { $, clock, element, setText, span } from "./text.js";

const SHOWN = 40; // rows at most
const SHORTEST_S = 30; // the timelines begin with the first track, at least this and at most that long ago
const LONGEST_S = 300;
const SVG = "http://www.w3.org/2000/svg";

// Return the path of the presence intervals [[start, end], …] in a box of 300 x 1 for the last seconds before now.
export function timeline(intervals, now, seconds) {
  const x = (time) => Math.min(Math.max(300 * (1 - (now - time) / seconds), 0), 300);
  let path = "";
  for (const [start, end] of intervals) {
    const from = x(start).toFixed(1);
    if (now - end <= seconds) path += `M${from} 0H${Math.max(x(end), x(start) + 1).toFixed(1)}V1H${from}z`;
  }
  return path;
}

const MISSED_S = 1.5; // a track that is missing for less is still shown as visible

// Return "visible", "lost" (may come back) or "left"; tracks are visible in a live stream only, and leave with its end.
export function stateOf(track, stream, now) {
  if (track.left || stream === "ended") return "left";
  return stream === "live" && (track.present || now - track.last_seen < MISSED_S) ? "visible" : "lost";
}

// Return how long a track has been in view or out of it, or when it left.
export function stateText(track, stream, now) {
  const state = stateOf(track, stream, now);
  if (state === "visible") return `in view for ${span(now - track.intervals.at(-1)[0])}`;
  if (state === "lost") return `out of view for ${span(now - track.last_seen)}`;
  return `left ${clock(track.last_seen)}`;
}

class Row {
  constructor(onFollow) {
    this.root = element("li");
    this.button = element("button", "track");
    this.button.type = "button";
    this.button.addEventListener("click", onFollow);
    this.image = element("img");
    this.image.alt = "";
    this.image.loading = "lazy";
    this.image.addEventListener("error", () => this.image.removeAttribute("src"));
    [this.class, this.id] = [element("span"), element("span")];
    this.score = element("span", "score");
    this.state = element("span", "when");
    const [top, name] = [element("span", "top-line"), element("span", "class")];
    name.append(this.class, this.id);
    top.append(name, this.state);
    const line = document.createElementNS(SVG, "svg");
    line.setAttribute("viewBox", "0 0 300 1");
    line.setAttribute("preserveAspectRatio", "none");
    line.setAttribute("aria-hidden", "true");
    this.path = document.createElementNS(SVG, "path");
    line.append(this.path);
    this.button.append(this.image, top, this.score, line);
    this.root.append(this.button);
  }

  update(track, state, now, seconds, stream, followed) {
    this.button.dataset.state = state;
    this.button.style.setProperty("--track", track.colour);
    this.button.setAttribute("aria-pressed", String(followed));
    setText(this.class, track.class);
    setText(this.id, ` #${track.id}`);
    setText(this.score, track.score.toFixed(2));
    const age = { visible: span(now - track.first_seen), lost: `unseen ${span(now - track.last_seen)}` }[state];
    setText(this.state, age ?? `left ${clock(track.last_seen)}`);
    this.path.setAttribute("d", timeline(track.intervals, now, seconds));
    if (track.thumbnail_time) {
      // A new picture every 10 s is enough.
      const version = Math.floor(track.thumbnail_time / 10);
      const source = streamPath(stream, `/tracks/${track.id}.jpg?v=${version}`);
      if (this.source !== source) this.image.src = this.source = source;
    }
  }
}

export class TrackList {
  #rows = new Map();
  tracks = [];

  // onFollow(id): a track was chosen.
  constructor(root, stream, onFollow) {
    this.list = $("ul", root);
    [this.summary, this.scale] = root.querySelectorAll("p");
    this.stream = stream;
    this.onFollow = onFollow;
    setText(this.summary, "none yet");
  }

  find(id) {
    return this.tracks.find((track) => track.id === id);
  }

  // Show the tracks; state: of the stream; followed: id of the followed one, or null.
  update(tracks, state, now, followed) {
    const visible = tracks.filter((track) => stateOf(track, state, now) === "visible").sort((a, b) => a.id - b.id);
    const others = tracks.filter((track) => !visible.includes(track)).sort((a, b) => b.last_seen - a.last_seen);
    const shown = [...visible, ...others].slice(0, SHOWN);
    const hidden = tracks.length - shown.length;
    const longest = now - Math.min(...tracks.map((track) => track.first_seen));
    const seconds = Math.min(Math.max(longest, SHORTEST_S), LONGEST_S);
    const numbers = `${visible.length} in view, ${others.length} earlier${hidden ? `, ${hidden} not listed` : ""}`;
    setText(this.summary, tracks.length ? numbers : "none yet");
    setText(this.scale, tracks.length ? `last ${span(seconds)}` : "");
    this.tracks = tracks;
    const ids = new Set(shown.map((track) => track.id));
    for (const [id, row] of this.#rows) {
      if (!ids.has(id)) {
        row.root.remove();
        this.#rows.delete(id);
      }
    }
    const focused = document.activeElement;
    shown.forEach((track, place) => {
      let row = this.#rows.get(track.id);
      if (!row) this.#rows.set(track.id, (row = new Row(() => this.onFollow(track.id))));
      row.update(track, stateOf(track, state, now), now, seconds, this.stream, track.id === followed);
      if (this.list.children[place] !== row.root) this.list.insertBefore(row.root, this.list.children[place] ?? null);
    });
    if (this.list.contains(focused)) focused.focus({ preventScroll: true }); // a row that is moved loses it
  }
}
