// The live page: connects the records of the server with cards, events, forms and the address.

import { Card } from "./card.js";
import { EventList } from "./events.js";
import { Feed, request, streamPath } from "./feed.js";
import { Forms } from "./forms.js";
import { $, address, setText } from "./text.js";

const TRACKS_MS = 1000; // between two looks at the tracks of a stream

const cards = new Map();
const events = new EventList();
const forms = new Forms();
const page = {
  connection: "lost", // or "open", or "ended" with the run
  skew: 0, // seconds by which the clock of the server is ahead
  now: () => Date.now() / 1000 + page.skew,
  open(stream = null, track = null) {
    location.hash = stream === null ? "#/" : address(stream, track);
    show(); // now, not with the event
  },
  remove: (stream) => forms.showRemove(stream),
  speak,
};
const feed = new Feed(receive, connection);
let hello = null;
let route = { stream: null, track: null };

// Records

function receive(record, jpeg) {
  const take = {
    hello: greet,
    streams: ({ streams }) => setStreams(streams),
    frame: () => cards.get(record.stream)?.frame(record, jpeg),
    stats: ({ time, streams }) => {
      page.skew = time - Date.now() / 1000;
      for (const second of streams) cards.get(second.name)?.stats({ time, ...second });
    },
    event: ({ id, event }) => events.add(id, event),
  }[record.type];
  take?.(record);
}

function greet(record) {
  hello = record;
  events.repeat(record.events);
  setText($("#run"), [record.bundle, record.graph, record.backend, record.device].filter(Boolean).join(" · "));
  $("#add").hidden = !record.editable;
}

function setStreams(streams) {
  const names = new Set(streams.map(({ name }) => name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    sight.unobserve(card.view);
    card.close();
    cards.delete(name);
  }
  for (const info of streams) {
    let card = cards.get(info.name);
    if (card) speak(card.update(info));
    else {
      card = new Card(info, page);
      cards.set(info.name, card);
      $("#streams").append(card.root);
      sight.observe(card.view);
      loadHistory(card);
    }
    $(".remove", card.root).hidden = !hello?.editable;
    card.tick();
  }
  show();
  watch(0);
}

function speak(sentence) {
  if (sentence) setText($("#spoken"), sentence);
}

// Connection

function connection(state, reason) {
  const again = page.connection !== "open";
  page.connection = state;
  $("#connection").dataset.state = $("#banner").dataset.state = state;
  setText($("#connection"), { open: "Connected", ended: "Run ended", lost: "Connecting" }[state]);
  $("#banner").hidden = state === "open";
  const lost = `No connection to the server${reason ? `: ${reason}` : ""}. This page connects again by itself.`;
  const ended = "The run has ended. This page connects to the next one by itself.";
  setText($("#banner"), { open: "", ended, lost }[state]);
  if (state === "open" && again) for (const card of cards.values()) loadHistory(card);
  tick();
}

function tick() {
  for (const card of cards.values()) card.tick();
}
setInterval(tick, 500);

async function loadHistory(card) {
  try {
    const response = await request(streamPath(card.name, "/history"));
    card.plots.load(await response.json());
  } catch {
    // The charts begin with the next second.
  }
}

// One request at a time, however many streams there are.
async function followTracks() {
  const started = performance.now();
  for (const card of [...cards.values()].filter((one) => one.visible)) {
    if (page.connection !== "open" || document.hidden) break;
    try {
      const response = await request(streamPath(card.name, "/tracks"));
      card.setTracks((await response.json()).tracks);
    } catch {
      // The next look is soon.
    }
  }
  setTimeout(followTracks, Math.max(250, TRACKS_MS - (performance.now() - started)));
}
followTracks();

// Visible streams

let watchTimer = 0;

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      for (const card of cards.values()) if (card.view === target) card.setVisible(isIntersecting);
    }
    watch(150);
  },
  { rootMargin: "100px" },
);

function watch(delay) {
  clearTimeout(watchTimer);
  watchTimer = setTimeout(() => {
    const visible = [...cards.values()].filter((card) => card.visible);
    feed.watch(document.hidden ? [] : visible.map((card) => card.name));
  }, delay);
}
document.addEventListener("visibilitychange", () => {
  for (const card of cards.values()) card.askedAt = performance.now();
  watch(document.hidden ? 5000 : 0);
});

// Address: #/, #/stream/NAME, #/stream/NAME/track/ID

function show() {
  const [, stream, track] = /^#\/stream\/([^/]+)(?:\/track\/(\d+))?$/.exec(location.hash) ?? [];
  const before = route.stream;
  route = { stream: null, track: track === undefined ? null : Number(track) };
  try {
    route.stream = stream === undefined ? null : decodeURIComponent(stream);
  } catch {
    // Not an address of this page.
  }
  const focused = cards.has(route.stream);
  document.body.classList.toggle("focus", focused);
  $("#back").hidden = route.stream === null;
  for (const [name, card] of cards) {
    card.root.hidden = focused && name !== route.stream;
    card.enlarge(focused && name === route.stream);
    card.follow(name === route.stream ? route.track : null);
  }
  events.filter(focused ? route.stream : null);
  document.title = `${focused ? `${route.stream} · ` : ""}idol_deploy`;
  showEmpty(focused);
  if (route.stream !== before) scrollTo({ top: 0 });
}

function showEmpty(focused) {
  const unknown = hello && route.stream !== null && !focused;
  const none = hello && !cards.size;
  $("#empty").hidden = !unknown && !none;
  $("#streams").hidden = !$("#empty").hidden;
  setText($("#empty h2"), unknown ? "This stream does not exist" : "No streams");
  const how = hello?.editable ? "Choose Add stream, or add one to the streams file." : "Add one to the streams file.";
  setText($("#empty p"), unknown ? "It may have been removed." : how);
}

addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("dialog[open]") || route.stream === null) return;
  page.open(route.track === null ? null : route.stream);
});

show();
feed.watch([]);
