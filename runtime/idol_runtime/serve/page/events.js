// The list of events, newest first.

import { $, address, clock, element } from "./text.js";

const MOST = 200;
const BAD = new Set(["lost", "output_stopped", "refused", "dropped"]);
const GOOD = new Set(["connected", "back", "output_back", "added", "resumed"]);

export class EventList {
  #last = -1;
  stream = null; // the only stream whose events are shown; null for all

  constructor() {
    this.list = $("#events");
    this.list.dataset.tracks = "true";
    $("#track-events").addEventListener("change", (change) => {
      this.list.dataset.tracks = String(change.target.checked);
    });
  }

  // Show the last events, with which a connection begins; those that are shown already are left out.
  repeat(events) {
    for (const { id, event } of events) if (id > this.#last) this.add(id, event);
  }

  // Show an event.
  add(id, { kind, source, message, values, time }) {
    this.#last = id;
    const track = kind.startsWith("track_");
    const row = element("li", BAD.has(kind) ? "bad" : GOOD.has(kind) ? "good" : "");
    row.dataset.source = source;
    row.dataset.kind = track ? "track" : "stream";
    const when = element("time", "", clock(time));
    when.dateTime = new Date(time * 1000).toISOString();
    const link = element("a", "", source);
    link.href = address(source, track ? values.id : null);
    row.hidden = this.stream !== null && source !== this.stream;
    row.append(when, link, element("span", "", message));
    this.list.prepend(row);
    while (this.list.children.length > MOST) this.list.lastElementChild.remove();
    $("#no-events").hidden = true;
  }

  // Show the events of one stream; null shows all.
  filter(stream) {
    this.stream = stream;
    for (const row of this.list.children) row.hidden = stream !== null && row.dataset.source !== stream;
  }
}
