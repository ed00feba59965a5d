// The page itself: which view is shown, when it is read again, and what is said about how fresh it is.

import * as api from "./api.js";
import { h, patch } from "./dom.js";
import { tell } from "./dialogs.js";
import { duration } from "./format.js";
import { NAVIGATION, VIEWS, link } from "./views.js";

const FASTEST = 2000; // milliseconds between two readings
const SLOWEST = 30000;
const IDLE = 10000; // where nothing changes
const SHARE = 50; // the pause is so many times what a reading took of a processor
const HOUR = 3600;

const main = document.getElementById("main");
const THEMES = ["auto", "light", "dark"];

const app = {
  overview: null,
  samples: [],
  selected: new Set(),
  busy: false,
  route: null,
  data: null,
  failure: null,
  updated: 0, // performance.now() of the last answer
  held: false, // the user has stopped it
  skew: 0, // the server's clock minus ours
  interval: FASTEST,
  unchanged: 0,
  timer: null,
  controller: null,
  last: "",
  hasCome: false, // from another view of this page

  now: () => Date.now() + app.skew,
  pace: () => app.interval / 1000,
  mayChange: () => app.overview !== null && !app.overview.read_only,
  newestSample: () => (app.samples.length ? app.samples[app.samples.length - 1][0] : 0),
  addSamples(samples) {
    app.samples.push(...samples.filter((sample) => sample[0] > app.newestSample()));
    const oldest = app.now() / 1000 - HOUR;
    while (app.samples.length && app.samples[0][0] < oldest) app.samples.shift();
  },
  rateOf(name) {
    const [before, now] = [app.before?.queues.find((one) => one.queue === name), app.overview.queues.find((one) => one.queue === name)];
    if (!before || !now) return null;
    const seconds = (Date.parse(app.overview.time) - Date.parse(app.before.time)) / 1000;
    return seconds > 0 ? Math.max(0, now.processed_total - before.processed_total) / seconds : null;
  },
  choose(ids, chosen) {
    for (const id of ids) {
      if (chosen) app.selected.add(id);
      else app.selected.delete(id);
    }
    draw();
  },
  setBusy(busy) {
    app.busy = busy;
    draw();
  },
  refresh: () => read(),
  leave: () => (app.hasCome ? history.back() : (location.hash = "#/jobs")),
};

// --- where we are -----------------------------------------------------------------------------------------------------

function parse() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = path in VIEWS && Object.hasOwn(VIEWS, path) ? path : "";
  return { name, parameters: Object.fromEntries(new URLSearchParams(query || "")), text: location.hash };
}

async function go() {
  const before = app.route;
  app.hasCome = before !== null;
  app.route = parse();
  app.data = null;
  app.failure = null;
  app.last = "";
  app.unchanged = 0;
  if (!before || before.name !== app.route.name || before.parameters.state !== app.route.parameters.state) app.selected.clear();
  document.title = `${VIEWS[app.route.name].title} – fireforget`;
  await read();
  for (const current of document.querySelectorAll("nav [aria-current], .tabs [aria-current]")) reveal(current);
  if (before) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

// On a phone a row of links is wider than the screen: the current one comes into view, and nothing else moves.
function reveal(link) {
  const row = link.closest("nav, .tabs");
  const [inside, around] = [link.getBoundingClientRect(), row.getBoundingClientRect()];
  if (inside.left < around.left || inside.right > around.right) row.scrollLeft += inside.left - around.left - (around.width - inside.width) / 2;
}

// --- reading ----------------------------------------------------------------------------------------------------------

async function read() {
  clearTimeout(app.timer);
  app.controller?.abort();
  const controller = new AbortController();
  app.controller = controller;
  const route = app.route;
  const began = performance.now();
  try {
    const view = VIEWS[route.name];
    const [overview, data] = await Promise.all([
      api.get("overview", {}, controller.signal),
      view.load(route.parameters, controller.signal, app),
    ]);
    if (controller.signal.aborted) return;
    take(overview, data, performance.now() - began);
  } catch (error) {
    if (error.name === "AbortError" || controller.signal.aborted) return;
    controller.abort();
    if (!(error instanceof api.Failure)) {
      console.error(error);
    }
    app.failure = error;
    app.interval = FASTEST;
  }
  draw();
  plan();
}

function take(overview, data, elapsed) {
  app.skew = Date.parse(overview.time) - Date.now();
  if (Math.abs(app.skew) < 2000) app.skew = 0; // the overview may be a moment old
  if (app.overview === null || overview.time !== app.overview.time) {
    app.before = app.overview;
    app.overview = overview;
  }
  app.data = data;
  app.failure = null;
  app.updated = performance.now();
  const { seconds: _, ...shown } = data;
  const now = JSON.stringify([overview.states, overview.workers, overview.running, shown]);
  app.unchanged = now === app.last ? app.unchanged + 1 : 0;
  app.last = now;
  const took = 1000 * Math.max(overview.seconds, data.seconds || 0);
  const slowest = took > 1000 ? Infinity : SLOWEST; // a search through all jobs is not repeated for the sake of being live
  app.interval = Math.min(slowest, Math.max(FASTEST, took * SHARE, elapsed * 3, app.unchanged >= 5 ? IDLE : 0));
}

function plan() {
  clearTimeout(app.timer);
  if (document.hidden || app.held) return;
  app.timer = setTimeout(read, app.interval);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(app.timer);
  else if (!app.held) read();
});

// --- drawing ----------------------------------------------------------------------------------------------------------

function draw() {
  drawHeader();
  drawBanner();
  const view = VIEWS[app.route.name];
  if (app.failure && app.failure.status === 401) {
    patch(main, [login()]);
  } else if (app.failure && (app.data === null || [400, 404].includes(app.failure.status))) {
    patch(main, [h("h1", { key: "h1" }, view.title), h("p", { class: "empty", key: "failure" }, app.failure.message)]);
  } else if (app.data !== null && app.overview !== null) {
    const heading = view.heading ? view.heading(app.data) : view.title;
    patch(main, [h("h1", { key: "h1" }, heading), h("div", { key: app.route.name, class: `view ${app.route.name || "overview"}` }, view.show(app.data, app.route.parameters, app))]);
    for (const box of main.querySelectorAll("input.choose")) box.checked = app.selected.has(box.getAttribute("aria-label").replace("Choose ", ""));
  } else {
    patch(main, [h("h1", { key: "h1" }, view.title), h("p", { class: "empty", key: "loading" }, "Loading.")]);
    return;
  }
  main.dataset.shown = app.route.text;
}

function drawHeader() {
  const here = { job: "jobs", schedule: "schedules" }[app.route.name] || app.route.name;
  patch(document.getElementById("nav"), NAVIGATION.map(([name, title]) => h("a", { key: name, href: link(name), "aria-current": name === here ? "page" : null }, title)));
  drawStatus();
}

function drawStatus() {
  const age = app.updated ? (performance.now() - app.updated) / 1000 : null;
  const stale = Boolean(app.failure) || (age !== null && age > (app.interval / 1000) * 2 + 3);
  const said = app.held ? "stopped" : age === null ? "" : age < 1 ? "now" : `${duration(Math.floor(age))} ago`;
  const theme = document.documentElement.dataset.theme || "auto";
  patch(document.getElementById("status"), [
    app.overview && app.overview.read_only ? h("span", { class: "badge", key: "read", title: "Nothing can be changed here" }, "read only") : null,
    app.failure && app.failure.status === 401 ? null : h("span", { key: "age", id: "age", class: app.held ? "age held" : stale ? "age stale" : "age", title: "When this was last read" }, said),
    h("button", { type: "button", key: "hold", id: "hold", class: "plain", "aria-pressed": app.held ? "true" : "false", onclick: hold }, app.held ? "Go on" : "Stop"),
    h("button", { type: "button", key: "theme", id: "theme", class: "plain", onclick: nextTheme, "aria-label": `Colours: ${theme}` }, { auto: "Auto", light: "Light", dark: "Dark" }[theme]),
    app.overview && app.overview.protected ? h("button", { type: "button", key: "out", class: "plain", onclick: signOut }, "Sign out") : null,
  ]);
}

function drawBanner() {
  const words = [];
  if (app.failure && app.failure.status !== 401 && ![400, 404].includes(app.failure.status)) {
    const since = app.updated ? ` What is shown is ${duration((performance.now() - app.updated) / 1000)} old.` : "";
    words.push(h("p", { class: "failed", key: "failure" }, app.failure.message + since));
  } else if (app.overview) {
    for (const problem of app.overview.problems.slice(0, 4)) words.push(h("p", { key: problem.message.replace(/[\d,]+ s$/, "") }, problem.message));
  }
  patch(document.getElementById("banner"), words);
}

function hold() {
  app.held = !app.held;
  if (app.held) clearTimeout(app.timer);
  else read();
  drawStatus();
}

setInterval(() => {
  if (!document.hidden && app.route) drawStatus();
}, 1000);

// --- colours ----------------------------------------------------------------------------------------------------------

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % THEMES.length];
  setTheme(theme);
  try {
    localStorage.setItem("fireforget-theme", theme);
  } catch {
    // forgotten with the page
  }
  drawStatus();
}

try {
  setTheme(localStorage.getItem("fireforget-theme") || "auto");
} catch {
  // as the system has it
}

// --- the token --------------------------------------------------------------------------------------------------------

function login() {
  return h("form", { class: "login", key: "login", onsubmit: signIn },
    h("h1", null, "Token"),
    h("p", null, "This dashboard is open to those who have the token that it was started with (FIREFORGET_TOKEN)."),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, autofocus: true })),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary", id: "sign-in" }, "Sign in")));
}

async function signIn(event) {
  event.preventDefault();
  const input = document.getElementById("token");
  try {
    await api.post("session", { token: input.value });
    await read();
  } catch (error) {
    input.value = "";
    input.focus();
    tell(error.message, true);
  }
}

async function signOut() {
  await api.remove("session");
  location.reload();
}

// --- going to a job, keys ---------------------------------------------------------------------------------------------

document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = document.getElementById("find-id");
  const id = input.value.trim();
  if (id) location.hash = link("job", { id });
  input.value = "";
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  const at = Number(event.key) - 1;
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("find-id").focus();
  } else if (NAVIGATION[at]) {
    location.hash = link(NAVIGATION[at][0]);
  }
});

addEventListener("hashchange", go);
go();
