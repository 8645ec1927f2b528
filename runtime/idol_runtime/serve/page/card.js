// One stream: its picture, state, figures, tracks and charts.

import { Charts } from "./charts.js";
import { between, draw, hit, pointAt, zoomed } from "./follow.js";
import { TrackList, stateText } from "./tracks.js";
import { $, address, clock, duration, rate, setText, span } from "./text.js";

const STATES = {
  added: "Starting", waiting: "Waiting", connected: "Live", back: "Live", live: "Live", lost: "Lost", ended: "Ended",
  unknown: "Unknown",
};
const STALE_S = 3; // a live picture that is older is not shown as live
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Card {
  #bitmap = null; // the last picture; closed when replaced
  #record = null; // its record
  #next = null; // picture that waits while another one is decoded
  #decoding = false;
  #shownAt = 0; // performance.now() of the last picture
  #window = null; // part of the frame that is shown
  #frames = 0; // processed so far
  #second = {}; // last figures
  #told = ""; // kind of what was last told about the followed track

  // page: open(stream, track or none), remove(stream), speak(sentence), now(), connection.
  constructor(info, page) {
    this.name = info.name;
    this.page = page;
    this.followed = null;
    this.visible = false;
    this.askedAt = 0; // performance.now() of the first request for pictures
    this.root = $("#card").content.cloneNode(true).firstElementChild;
    const part = (selector) => $(selector, this.root);
    this.view = part(".view");
    this.canvas = part("canvas");
    this.notice = part(".notice");
    this.bar = part(".following");
    this.charts = part(".charts");
    this.dd = Object.fromEntries(["fps", "age", "dropped", "identities"].map((name) => [name, part(`.${name}`)]));
    const link = part(".name");
    link.textContent = this.name;
    link.href = address(this.name);
    part(".remove").setAttribute("aria-label", `Remove stream ${this.name}`);
    part(".remove").addEventListener("click", () => page.remove(this.name));
    part(".stop").addEventListener("click", () => page.open(this.name));
    this.zoom = part(".zoom");
    this.zoom.addEventListener("click", () => {
      this.zoom.setAttribute("aria-pressed", String(!this.zooming));
      this.#draw();
    });
    this.canvas.addEventListener("click", (event) => this.#click(event));
    this.tracks = new TrackList(part(".tracks"), this.name, (id) =>
      id === this.followed ? page.open(this.name) : page.open(this.name, id),
    );
    this.plots = new Charts($("div", this.charts));
    new ResizeObserver(() => this.plots.draw(page.now())).observe($("div", this.charts));
    this.update(info);
  }

  get zooming() {
    return this.zoom.getAttribute("aria-pressed") === "true";
  }

  // "live" if frames come, "ended" with the run, "unknown" without a server, else the state of the stream.
  // A file is added, and frames follow.
  get state() {
    const { state, live } = this.info;
    if (this.page.connection !== "open") return this.page.connection === "ended" ? "ended" : "unknown";
    return state === "connected" || state === "back" || (!live && state === "added" && this.#frames) ? "live" : state;
  }

  get live() {
    return this.state === "live";
  }

  // Take a StreamInfo; return the sentence to announce if the state has changed.
  update(info) {
    const before = this.info?.state;
    this.info = info;
    $(".state", this.root).title = info.source;
    return before && before !== info.state ? `${this.name}: ${STATES[info.state]}` : "";
  }

  // Show the stream alone and large, or among the others.
  enlarge(large) {
    if (large === this.root.classList.contains("large")) return;
    this.root.classList.toggle("large", large);
    this.charts.open = large;
  }

  setVisible(visible) {
    if (visible && !this.visible) this.askedAt = performance.now();
    this.visible = visible;
  }

  // Take a frame; its picture is decoded unless a newer one arrives first.
  frame(record, jpeg) {
    this.#frames = record.frames;
    if (!jpeg.length) return;
    this.#next = [record, jpeg];
    if (!this.#decoding) this.#decode();
  }

  async #decode() {
    this.#decoding = true;
    while (this.#next) {
      const [record, jpeg] = this.#next;
      this.#next = null;
      const blob = new Blob([jpeg], { type: "image/jpeg" });
      const bitmap = await createImageBitmap(blob).catch(() => null);
      if (!bitmap) continue; // broken; the next one follows
      this.#bitmap?.close();
      [this.#bitmap, this.#record, this.#shownAt] = [bitmap, record, performance.now()];
      this.#draw();
      this.tick();
    }
    this.#decoding = false;
  }

  #draw() {
    if (!this.#bitmap) return;
    const { size, instances } = this.#record;
    const whole = { x: 0, y: 0, width: size[1], height: size[0] };
    const instance = this.followed === null ? null : instances.find(({ id }) => id === this.followed);
    if (!this.zooming || !this.#window) this.#window = whole;
    if (this.zooming && instance) {
      const target = zoomed(size, instance.box_xyxy);
      this.#window = still.matches ? target : between(this.#window, target, 0.35);
    }
    this.view.style.aspectRatio = `${size[1]} / ${size[0]}`;
    draw(this.canvas, this.#bitmap, size, this.#window, instance, this.followed !== null);
  }

  #click(event) {
    if (!this.#record) return;
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const scale = Math.min(width / this.canvas.width, height / this.canvas.height); // bars on two sides
    const across = 0.5 + (event.clientX - left - width / 2) / (scale * this.canvas.width);
    const down = 0.5 + (event.clientY - top - height / 2) / (scale * this.canvas.height);
    const instance = hit(this.#record.instances, ...pointAt(this.#window, across, down));
    this.page.open(this.name, instance && instance.id !== this.followed ? instance.id : null);
  }

  // Follow a track; null ends it.
  follow(id) {
    if (id === this.followed) return;
    [this.followed, this.#window, this.#told] = [id, null, ""];
    this.zoom.setAttribute("aria-pressed", "false");
    this.bar.hidden = id === null;
    this.#draw();
    this.tick();
  }

  // Take the list of tracks from the server.
  setTracks(tracks) {
    this.tracks.update(tracks, this.state, this.page.now(), this.followed);
    this.#describe();
  }

  // Take the figures of a second.
  stats(second) {
    this.#second = second;
    this.#frames = second.frames;
    this.plots.add(second);
    this.tick();
    if (this.visible && this.charts.open) this.plots.draw(this.page.now());
  }

  // Update everything that depends on the time.
  tick() {
    const { state } = this;
    const changed = this.root.dataset.state !== state;
    this.root.dataset.state = state;
    setText($(".state", this.root), state === "live" && !this.info.live ? "Playing" : STATES[state]);
    const { fps, age_s, tracks = 0, dropped = 0 } = this.#second;
    setText(this.dd.fps, this.live ? rate(fps) : "–");
    setText(this.dd.age, this.live ? duration(age_s) : "–");
    setText(this.dd.identities, tracks.toLocaleString("en"));
    setText(this.dd.dropped, dropped.toLocaleString("en"));
    if (changed) this.setTracks(this.tracks.tracks);
    const problem = this.#problem();
    this.view.classList.toggle("stale", problem !== null);
    this.notice.hidden = problem === null;
    if (problem) {
      setText(this.notice.firstElementChild, problem[0]);
      setText(this.notice.lastElementChild, problem[1]);
    }
    this.canvas.setAttribute("aria-label", problem ? `${this.name}: ${problem.join(", ")}` : this.#label());
    this.#describe();
  }

  #label() {
    const names = (this.#record?.instances ?? []).map((instance) => `${instance.class} #${instance.id}`);
    return `${this.name}: live picture with ${names.length ? names.join(", ") : "no tracks"}`;
  }

  // Return the title and the sentence that lie over the picture; null over a picture that is live.
  #problem() {
    const { state } = this;
    const { since, message } = this.info;
    const ago = span(this.page.now() - since);
    // The first picture of a connection may be old: the server keeps it from the last client.
    const age = Math.max((performance.now() - this.#shownAt) / 1000, this.page.now() - (this.#record?.wall ?? 0));
    const old = this.#bitmap ? `Last picture ${clock(this.#record.wall)}, ${span(age)} old` : "No picture yet";
    if (state === "unknown") return ["No connection to the server", old];
    if (state === "lost") return [`${this.info.live ? "Camera" : "Source"} lost ${ago} ago`, old];
    if (state === "ended") return ["Ended", this.info.state === "ended" ? message.replace(/^ended (early: )?/, "") : old];
    if (state !== "live") return [STATES[state], message || `for ${ago}`];
    const limit = Math.max(STALE_S, this.#second.fps ? 3 / this.#second.fps : 0);
    if (this.#bitmap && age < limit) return null;
    if ((performance.now() - this.askedAt) / 1000 < limit) return ["Loading", old];
    return ["No new picture", old];
  }

  // Tell what the followed track does; screen readers hear a change, not every second.
  #describe() {
    if (this.followed === null) return;
    const { state } = this;
    const track = this.tracks.find(this.followed);
    const instance = this.#record?.instances.find(({ id }) => id === this.followed);
    const name = `${(track ?? instance)?.class ?? "track"} #${this.followed}`;
    let told = this.tracks.tracks.length ? "not seen in the last ten minutes" : "not seen yet";
    if (state === "unknown") told = "no connection to the server";
    else if (state !== "live" && state !== "ended") told = `the stream is ${STATES[state].toLowerCase()}`;
    else if (track) told = stateText(track, state, this.page.now());
    else if (instance) told = state === "live" ? "in view" : "left";
    if (track ?? instance) this.bar.style.setProperty("--track", (track ?? instance).colour);
    const status = $("p", this.bar);
    status.dataset.lost = String(!told.startsWith("in view"));
    setText(status.firstElementChild, `Following ${name}: `);
    setText(status.lastElementChild, told);
    const kind = told.replace(/ for .*/, "");
    if (kind !== this.#told) this.page.speak(`${name}: ${kind}`);
    this.#told = kind;
  }

  // Release the picture.
  close() {
    this.#next = null;
    this.#bitmap?.close();
    this.#bitmap = null;
    this.root.remove();
  }
}
