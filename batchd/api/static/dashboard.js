// The dashboard: asks the API every two seconds and shows what it says. Every text goes in as text,
// never as markup, since names come from the configuration and from clients.
"use strict";

const EVERY = 2000; // milliseconds
const BATCHES = 20;
const LANES = 20;
const KEY = "batchd-key";
const KINDS = {
  ok: "good", waiting: "wait", gone: "bad",
  completed: "good", failed: "bad", expired: "wait", cancelled: "wait", cancelling: "wait",
  paused: "wait",
};

const find = (id) => document.getElementById(id);
const paces = new Map(); // by batch: where it was at an earlier look
let timer = 0;
let looks = 0;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, method = "GET") {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { method, headers, cache: "no-store" });
  const json = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, json.error.message);
  return json;
}

// -- building and changing what is seen

function make(tag, kind, text = "") {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = text;
  return element;
}

function tell(element, text) {
  const wanted = text || "";
  if (element.textContent !== wanted) element.textContent = wanted;
  element.hidden = !wanted;
}

function mark(element, state) {
  tell(element, state);
  element.dataset.kind = KINDS[state] || "busy";
}

function fill(bar, ...shares) {
  shares.forEach((share, at) => { bar.children[at].style.width = `${100 * Math.min(share, 1)}%`; });
}

function makeBar(...kinds) {
  const bar = make("div", "bar");
  bar.append(...kinds.map((kind) => make("span", kind)));
  return bar;
}

// One element for each item, kept from look to look, so that focus and selection stay.
function keep(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const key = keyOf(item);
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] || null);
    update(element, item);
  });
  known.forEach((element) => element.remove());
}

// -- backends

function createBackend(backend) {
  const card = make("article", "card");
  const head = make("div", "head");
  const button = make("button", "end", "Resume");
  button.type = "button";
  button.addEventListener("click", () => resume(backend.name, button));
  head.append(make("h3", "", backend.name), make("span", "mark"), make("span", "quiet rates"), button);
  card.append(head, make("p", "quiet at"), make("p", "note"), make("div", "lanes"));
  return card;
}

async function resume(name, button) {
  button.disabled = true;
  try {
    await ask(`/v1/backends/${encodeURIComponent(name)}/resume`, "POST");
  } catch (error) {
    health(error.message, true);
  }
  button.disabled = false;
  look();
}

function updateBackend(card, backend) {
  mark(card.querySelector(".mark"), backend.state);
  tell(card.querySelector(".rates"), rates(backend).join(" · "));
  tell(card.querySelector(".at"), `${backend.base_url} · ${models(backend)}`);
  const wait = backend.tries_again_in ? `; trying again in ${duration(backend.tries_again_in)}` : "";
  tell(card.querySelector(".note"), backend.note && backend.note + wait);
  card.querySelector("button").hidden = backend.state !== "waiting";
  const busiest = [...backend.lanes].sort((a, b) => b.in_flight - a.in_flight).slice(0, LANES);
  busiest.sort((a, b) => a.model.localeCompare(b.model));
  keep(card.querySelector(".lanes"), busiest, (lane) => lane.model, createLane, updateLane);
}

function models(backend) {
  if (backend.models === null) return "its models are not known";
  return backend.models.length === 1 ? backend.models[0] : `${backend.models.length} models`;
}

function rates(status) {
  return [["requests", status.requests_per_minute], ["tokens", status.tokens_per_minute]]
    .filter(([, rate]) => rate)
    .map(([what, rate]) => `${count(Math.round(rate.limit))} ${what} a minute (${rate.source})`);
}

function createLane(lane) {
  const row = make("div", "lane");
  row.append(
    make("span", "name", lane.model), makeBar(""), make("span", "load"), make("span", "speed"),
    make("span", "quiet why"),
  );
  return row;
}

function updateLane(row, lane) {
  fill(row.querySelector(".bar"), lane.in_flight / lane.limit);
  tell(row.querySelector(".load"), `${lane.in_flight} of ${lane.limit}`);
  tell(row.querySelector(".speed"), lane.throughput ? `${lane.throughput.toFixed(1)} answers/s` : "");
  row.querySelector(".speed").hidden = false;
  const found = lane.auto ? `${lane.settled ? "auto, settled" : "auto"}: ${lane.reason}` : lane.reason;
  tell(row.querySelector(".why"), [found, ...rates(lane)].join(" · "));
}

// -- batches

function createBatch(batch) {
  const card = make("article", "card");
  const head = make("div", "head");
  head.append(make("h3", "", batch.id), make("span", "mark"), make("span", "quiet end when"));
  card.append(
    head, make("p", "quiet about"), makeBar("", "failed"), make("p", "counts"),
    make("p", "note again"), make("div", "notes"),
  );
  return card;
}

function updateBatch(card, batch) {
  const { total, completed, failed } = batch.request_counts;
  const { priority, paused_at: pausedAt, notes, retrying } = batch.batchd;
  mark(card.querySelector(".mark"), pausedAt ? "paused" : batch.status);
  tell(card.querySelector(".when"), `${duration(Date.now() / 1000 - batch.created_at)} ago`);
  const about = [batch.endpoint, batch.model, priority ? `priority ${priority}` : ""];
  tell(card.querySelector(".about"), about.filter(Boolean).join(" · "));
  fill(card.querySelector(".bar"), total ? completed / total : 0, total ? failed / total : 0);
  tell(card.querySelector(".counts"), total ? counts(batch) : "");
  tell(card.querySelector(".again"), retrying ? retries(retrying) : "");
  const told = batch.errors ? [...notes, `its input was not accepted: ${batch.errors.data[0].code}`] : notes;
  keep(card.querySelector(".notes"), told, (note) => note, () => make("p", "note"), tell);
}

function counts(batch) {
  const { total, completed, failed } = batch.request_counts;
  const parts = [`${count(completed + failed)} of ${count(total)} lines`];
  if (failed) parts.push(`${count(failed)} failed`);
  const pace = paceOf(batch, completed + failed);
  if (pace) parts.push(`${pace.toFixed(1)}/s`, `${duration((total - completed - failed) / pace)} left`);
  return parts.join(", ");
}

// Lines a second since a look of up to half a minute ago; 0 while unknown.
function paceOf(batch, done) {
  if (batch.status !== "in_progress" || batch.batchd.paused_at) {
    paces.delete(batch.id);
    return 0;
  }
  const now = performance.now() / 1000;
  const seen = paces.get(batch.id) || [];
  seen.push([now, done]);
  while (now - seen[0][0] > 30) seen.shift();
  paces.set(batch.id, seen);
  const [at, before] = seen[0];
  return now - at >= 1 ? (done - before) / (now - at) : 0;
}

function retries(retrying) {
  const kinds = Object.entries(retrying.kinds).sort((a, b) => b[1] - a[1]);
  const told = kinds.map(([kind, number]) => `${kind} ${count(number)}`).join(", ");
  return `${retrying.lines === 1 ? "1 line is" : `${count(retrying.lines)} lines are`} tried again: ${told}`;
}

// -- words

function count(number) {
  return number.toLocaleString("en-US");
}

function duration(seconds) {
  const left = Math.max(0, Math.round(seconds));
  for (const [name, size, smallName, small] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (left >= size) {
      const rest = Math.floor((left % size) / small);
      return `${Math.floor(left / size)} ${name}${rest ? ` ${rest} ${smallName}` : ""}`;
    }
  }
  return `${left} s`;
}

// -- the look, again and again

function health(text, isTrouble) {
  const element = find("health");
  tell(element, text);
  element.className = isTrouble ? "trouble" : "quiet";
}

async function look() {
  clearTimeout(timer);
  const number = ++looks;
  try {
    const [backends, batches] = await Promise.all([ask("/v1/backends"), ask(`/v1/batches?limit=${BATCHES}`)]);
    if (number !== looks) return;
    show(backends.data, batches.data);
  } catch (error) {
    if (number !== looks) return;
    if (error instanceof Refused && error.status === 401) {
      askForKey(sessionStorage.getItem(KEY) ? error.message : "");
      return;
    }
    health(error instanceof Refused ? error.message : "batchd does not answer; asking again", true);
  }
  timer = setTimeout(look, EVERY);
}

function show(backends, batches) {
  find("ask").hidden = true;
  find("main").hidden = false;
  find("forget").hidden = !sessionStorage.getItem(KEY);
  const away = backends.filter((backend) => backend.state !== "ok" || backend.models === null).length;
  const told = `${away} of ${backends.length} backends ${away === 1 ? "is" : "are"} not well`;
  health(away ? told : "all backends are well", away > 0);
  keep(find("backends"), backends, (backend) => backend.name, createBackend, updateBackend);
  keep(find("batches"), batches, (batch) => batch.id, createBatch, updateBatch);
  find("no-batches").hidden = batches.length > 0;
}

function askForKey(why) {
  sessionStorage.removeItem(KEY);
  find("main").hidden = true;
  find("forget").hidden = true;
  find("ask").hidden = false;
  tell(find("refused"), why);
  health("", false);
  find("key").focus();
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  find("key").value = "";
  if (!/^[!-~]+$/.test(key)) {
    tell(find("refused"), "That holds a character that no key has.");
    return;
  }
  sessionStorage.setItem(KEY, key);
  look();
});
find("forget").addEventListener("click", () => {
  looks += 1;
  clearTimeout(timer);
  askForKey("");
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (find("ask").hidden) look();
});
look();
