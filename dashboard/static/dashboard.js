// What of a snapshot goes where. Every text is set as text; what an element is called here is its id in index.html.

import { Live } from "./live.js";
import { PastChart, RateChart, SERIES, since } from "./charts.js";
import { began, bytes, duration, make, mark, moment, number, rate, say, share } from "./words.js";

const $ = (id) => document.getElementById(id);

const past = new PastChart($("chart"), $("readout"), $("legend"));
const spark = new RateChart($("spark"));
let newest = null, newestAt = 0, state = "waiting", told = {};

say($("host"), location.host);
document.title = `Tallyslice · ${location.host}`;
say($("first-command"), `curl -X POST "${location.origin}/analytics?timestamp=$(date +%s)&user=ada&click"`);

function show(snapshot) {
  newest = snapshot;
  newestAt = Date.now();
  $("token-form").hidden = true;
  $("figures").hidden = false;
  showCurrent(snapshot);
  showRates(snapshot);
  showPast(snapshot.past);
  showWorkers(snapshot);
  showCluster(snapshot);
  showNotices(snapshot);
  announce(snapshot);
}

// The slice of now

function showCurrent({ at, current }) {
  if (!current) {
    say($("now-title"), "No slices yet");
    say($("span"), "this node has not met its cluster");
    return;
  }
  const { start, end } = current;
  const seconds = (end - start) / 1000;
  say($("now-title"), `Slice ${number(current.slice)}`);
  say($("span"), `began ${seconds < 172_800 ? began(start / 1000) : moment(start)} · ends in ${duration((end - at) / 1000)}`);
  const passed = Math.min(100, Math.max(0, (100 * (at - start)) / (end - start)));
  $("progress").setAttribute("aria-valuenow", passed.toFixed(0));
  $("progress").firstElementChild.style.width = `${passed}%`;
  for (const { key } of SERIES) say($(key), `${current.complete ? "" : "≥ "}${number(current[key])}`);
  showTypes(current);
  $("first").hidden = current.users + current.clicks + current.impressions + current.others > 0 || !current.complete;
}

function showTypes({ types, types_more, events_more }) {
  const kinds = types.length + types_more;
  say($("others-hint"), kinds ? `events of ${number(kinds)} further ${kinds === 1 ? "type" : "types"}` : "all other events");
  $("types").hidden = !kinds;
  rows($("types-list"), types, ([name]) => name, () => make("li", {}, make("span"), make("span")), (row, [name, count]) => {
    say(row.children[0], name);
    say(row.children[1], number(count));
  });
  say($("types-more"), types_more ? `and ${number(types_more)} smaller types with ${number(events_more)} events together` : "");
}

function showRates({ at, events_per_second, node }) {
  say($("rate-cluster"), rate(events_per_second));
  say($("rate-node"), rate(node.events_per_second));
  say($("rate-node-hint"), node.processes > 1 ? `taken by its ${node.processes} processes` : "taken at this door");
  spark.show(at, events_per_second);
}

// The last slices

function showPast(slices) {
  past.show(slices);
  if (!$("past-rows").closest("details").open) return;
  const from = since(slices);
  const newestFirst = slices.slices.map((_, i) => i).slice(from).reverse();
  rows($("past-rows"), newestFirst, (i) => String(slices.slices[i]), newPastRow, (row, i) => {
    const least = slices.complete[i] ? "" : "≥ ";
    say(row.children[0], number(slices.slices[i]));
    say(row.children[1], began(slices.start[i]));
    SERIES.forEach(({ key }, n) => say(row.children[n + 2], least + number(slices[key][i])));
  });
}

const newPastRow = () => make("tr", {}, make("th", { scope: "row" }), ...Array.from({ length: 5 }, () => make("td")));
$("past-rows").closest("details").addEventListener("toggle", () => newest && showPast(newest.past));

// Workers

const HEALTH = {
  ok: ["ok", "Healthy"], away: ["bad", "Away"], refused: ["bad", "Refused"], unknown: ["warn", "Not met yet"],
  silent: ["warn", "Slow to answer"], parked: ["warn", "Refuses slices"],
};

function healthOf(worker) {
  if (worker.state === "ok" && worker.silent_seconds !== null && worker.silent_seconds > 3) return "silent";
  return worker.state === "ok" && worker.parked ? "parked" : worker.state;
}

function whyOf(worker) {
  const why = [];
  if (worker.detail) why.push(worker.detail);
  if (worker.silent_seconds !== null && worker.silent_seconds > 3) why.push(`last answer ${duration(worker.silent_seconds)} ago`);
  if (worker.parked) why.push(`${number(worker.parked)} ${worker.parked === 1 ? "slice is" : "slices are"} not taken`);
  return why.join("; ");
}

function newWorkerRow() {
  const cell = (attributes, ...children) => make("td", { role: "cell", ...attributes }, ...children);
  return make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader" }),
    cell({}, make("span", { class: "health" }), make("div", { class: "why" })),
    cell({}, make("div", { class: "share" }, make("span", { class: "track", "aria-hidden": "true" }, make("i")), make("span", { class: "of" }))),
    cell({ class: "num", "data-name": "Users" }), cell({ class: "num", "data-name": "Queue" }), cell({ class: "num", "data-name": "Spool" }));
}

function showWorkers({ workers, workers_more, current }) {
  const users = workers.reduce((sum, worker) => sum + worker.users, 0);
  rows($("worker-rows"), workers, (worker) => worker.id, newWorkerRow, (row, worker) => {
    const [name, health, part, ...figures] = row.children;
    say(name, worker.id);
    const state = healthOf(worker);
    if (health.firstElementChild.dataset.state !== state) {
      health.firstElementChild.dataset.state = state;
      health.firstElementChild.replaceChildren(mark(HEALTH[state][0]), HEALTH[state][1]);
    }
    say(health.lastElementChild, whyOf(worker));
    const total = current?.users || users;
    part.querySelector("i").style.width = total ? `${(100 * worker.users) / total}%` : "0";
    say(part.querySelector(".of"), worker.in_route ? share(worker.users, total) : "no part");
    [worker.users, worker.queue_events, worker.spool_events].forEach((n, i) => {
      say(figures[i], number(n));
      figures[i].classList.toggle("zero", n === 0);
    });
  });
  say($("workers-note"), workers_more ? `and ${number(workers_more)} more, all healthy` : "");
}

// The cluster

function showCluster({ cluster, node }) {
  say($("version"), cluster.version.slice(0, 12));
  $("version").title = cluster.version;
  say($("cluster-id"), cluster.id ? cluster.id.slice(0, 12) : "not met yet");
  $("cluster-id").title = cluster.id ?? "";
  say($("slices"), `${duration(cluster.slice_seconds)} each${cluster.first === null ? "" : `, slice 0 began ${moment(cluster.first)}`}`);
  say($("registry"), `at worker ${cluster.registry}, ${number(cluster.claims)} ${cluster.claims === 1 ? "claim" : "claims"}`);
  const routes = cluster.settled.length ? cluster.settled : [null];
  rows($("routes"), routes, (route) => (route ? `${route.first}:${route.workers}` : "none"), () => make("li"), showRoute);
  showRefused(cluster.refused);
  const spooled = node.spool_events ? `${number(node.spool_events)} events (${bytes(node.spool_bytes)}) wait on this node's disk, the oldest for ${duration(node.spool_age_seconds)}` : "";
  if (spooled) say($("workers-note"), spooled);
}

function showRoute(row, route) {
  if (!route) return say(row, "none that this node knows of yet");
  const { first, last, workers, differs } = route;
  const key = `${first}-${last}-${workers}-${differs}`;
  if (row.dataset.shown === key) return;
  row.dataset.shown = key;
  const name = first === last ? `slice ${number(first)}` : `slices ${number(first)} to ${number(last)}`;
  const held = workers.length <= 12 ? workers.map((id) => make("span", { class: "chip" }, id)) : [`${workers.length} workers`];
  row.replaceChildren(make("span", {}, name), make("span", { class: "to" }, "at "), make("span", {}, ...held));
  if (differs) row.append(make("span", { class: "differs" }, "the file now proposes another route"));
}

function showRefused(refused) {
  const key = JSON.stringify(refused);
  if (told.refused === key) return;
  told.refused = key;
  if (!refused) return $("refused").replaceChildren(make("p", { class: "hint" }, "none since this node started"));
  const when = `${moment(refused.at)} · ${refused.stands ? "the file is still refused" : "mended since"}`;
  $("refused").replaceChildren(make("p", { class: "hint" }, when), make("ul", {}, ...refused.reasons.map((reason) => make("li", {}, reason))));
}

// What people should know

function showNotices({ current, workers, node, cluster }) {
  const notices = [];
  if (current && !current.complete) {
    notices.push(["bad", current.silent.length
      ? `At least: worker ${current.silent.join(", ")} does not answer. What it told last is in the figures; there may be more.`
      : "At least: some of this slice is known to be lost, or came after it was closed."]);
  }
  if (cluster.refused?.stands) notices.push(["warn", "The cluster file on disk is refused; the one before is in use. Why is under Cluster."]);
  const known = new Set(workers.map((worker) => worker.detail));
  if (node.processes_silent.length) notices.push(["warn", `Process ${node.processes_silent.join(", ")} of this node does not answer: what it takes, and what waits in it, is not shown.`]);
  for (const problem of node.problems) if (!known.has(problem)) notices.push(["warn", problem]);
  const key = JSON.stringify(notices);
  if (told.notices === key) return;
  told.notices = key;
  $("notices").replaceChildren(...notices.map(([kind, text]) => make("p", { class: "notice", "data-kind": kind }, mark("warn"), make("span", {}, text))));
}

// Said aloud when a worker goes or comes back; not when a number moves, which is always.
function announce({ workers }) {
  const away = workers.filter((worker) => worker.state !== "ok").map((worker) => worker.id).join(", ");
  if (told.away !== undefined && told.away !== away) say($("announce"), away ? `Not healthy: worker ${away}` : "All workers are healthy");
  told.away = away;
}

// How old it is

function showState(next) {
  if (next !== state && state !== "waiting" && next !== "denied") {
    say($("announce"), next === "live" ? "The figures are live again" : "The figures are not live");
  }
  state = next;
  showAge();
}

function showAge() {
  const age = newest ? duration((Date.now() - newestAt) / 1000) : null;
  const texts = {
    waiting: "Connecting", live: "Live", denied: "Token needed",
    stale: `Stale · ${age} old`,
    lost: age ? `No connection · ${age} old` : "No connection",
  };
  $("status").dataset.state = state;
  say($("status-text"), texts[state]);
  $("figures").dataset.old = String(state === "stale" || state === "lost");
}
setInterval(showAge, 1000);

function askForToken(why) {
  $("token-form").hidden = false;
  $("figures").hidden = true;
  if (why === "wrong") say($("token-why"), "That token is not one that this node knows. Try another.");
  if (why === "scope") say($("token-why"), "That token may not read figures: it lacks the scope read. Try another.");
  $("token").value = "";
  $("token").focus();
}

// Rows of a list or table, one for each value, found again by its key.
function rows(parent, values, keyOf, newRow, fill) {
  const old = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  const wanted = values.map((value) => {
    const key = keyOf(value);
    const row = old.get(key) ?? newRow();
    row.dataset.key = key;
    fill(row, value);
    return row;
  });
  if (wanted.length !== parent.children.length || wanted.some((row, i) => parent.children[i] !== row)) parent.replaceChildren(...wanted);
}

const live = new Live({ onSnapshot: show, onState: showState, onDenied: askForToken });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  live.useToken($("token").value.trim());
});
live.run();
