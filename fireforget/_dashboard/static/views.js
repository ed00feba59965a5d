// What each view asks for and shows. A view has `title`, `load(parameters, signal)` and `show(data, parameters, app)`.

import * as api from "./api.js";
import { ago, bars, lines } from "./charts.js";
import { h } from "./dom.js";
import { bytes, clock, compact, count, duration, fromNow, plural } from "./format.js";
import * as act from "./actions.js";

export const STATES = ["pending", "active", "scheduled", "retry", "archived", "completed", "cancelled", "aggregating", "blocked"];
const FILTERS = [
  ["type", "Type", "email:send or email:", "One that ends in : stands for all that begin so."],
  ["error", "Error", "timed out", "Text that the last error contains."],
  ["payload", "Payload", "user_id=7", "A member at the top of the payload, with its value."],
  ["older_than", "Older than", "10m, 12h, 7d", "Since it ended, or where it has not since it was enqueued."],
  ["newer_than", "Newer than", "30m", "Since it ended, or where it has not since it was enqueued."],
  ["group", "Group", "", "The group that it was enqueued with."],
];

export const link = (view, parameters = {}) => `#/${view}${api.query(parameters)}`;
const jobLink = (id) => h("a", { href: link("job", { id }), class: "id" }, id);
const badge = (state) => h("span", { class: `badge ${state}` }, state);
const when = (text, app) => (text ? h("time", { datetime: text, title: clock(text) }, fromNow(text, app.now())) : "");
const empty = (text) => h("p", { class: "empty" }, text);
const number = (value) => h("td", { class: value ? "number" : "number zero" }, count(value));
const name = (text) => h("td", { class: "name", title: text }, text);
const ranFor = (moment, now) => (moment ? duration(Math.max(0, (now - Date.parse(moment)) / 1000)) : "");

function table(caption, heads, rows, nothing) {
  if (!rows.length) return empty(nothing);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null,
      h("caption", { class: "hidden" }, caption),
      h("thead", null, h("tr", null, heads.filter((head) => head !== null).map((head) => (typeof head === "string"
        ? h("th", { scope: "col", class: head.startsWith(">") ? "number" : null }, head.replace(">", "")) : head)))),
      h("tbody", null, rows)));
}

function progress(job) {
  if (!job.progress) return "";
  const percent = Math.round(job.progress.fraction * 100);
  return h("span", { class: "progress" },
    h("span", { class: "track", role: "progressbar", "aria-valuenow": percent, "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `Progress of ${job.id}` },
      h("span", { class: "fill", width: `${percent}%` })),
    h("span", null, `${percent} %`),
    job.progress.note ? h("span", { class: "note" }, job.progress.note) : null);
}

// --- overview ---------------------------------------------------------------------------------------------------------

const SPANS = { hour: ["Last hour", { minutes: 60 }], day: ["Last day", { hours: 24 }], month: ["Last 30 days", { days: 30 }] };

const overview = {
  title: "Overview",
  async load(parameters, signal, app) {
    const span = SPANS[parameters.span] ? parameters.span : "hour";
    const [samples, history] = await Promise.all([
      api.get("samples", { since: app.newestSample() }, signal),
      api.get("history", SPANS[span][1], signal),
    ]);
    app.addSamples(samples.samples);
    return { history, span };
  },
  show(data, _, app) {
    const seen = app.overview;
    const now = app.now() / 1000;
    const samples = app.samples;
    const oldest = samples.length ? samples[0][0] : now;
    const from = now - [300, 900, 1800, 3600].find((span) => span >= now - oldest || span === 3600);
    const gap = Math.max(15, app.pace() * 3);
    const at = (column) => samples.map((sample) => [sample[0], sample[column]]);
    const { points, unit } = data.history;
    const known = (name) => points.filter((point) => point[name] !== null).map((point) => [Date.parse(point.from) / 1000 + point.seconds, point[name]]);
    const first = points.length ? Date.parse(points[0].from) / 1000 : now;
    return [
      h("ul", { class: "tiles" }, STATES.filter((state, place) => place < 6 || seen.states[state]).map((state) =>
        h("li", { key: state }, h("a", { class: `tile ${state}`, href: link("jobs", { state }) },
          h("strong", null, compact(seen.states[state])), h("span", null, state))))),
      h("ul", { class: "spans", "aria-label": "Time" }, Object.entries(SPANS).map(([name, [words]]) =>
        h("li", { key: name }, h("a", { href: link("", { span: name }), "aria-current": name === data.span ? "true" : null }, words)))),
      h("section", { class: "plots" },
        bars({ title: `Processed by ${unit}`, points, unit }),
        lines({ title: `Mean run and wait by ${unit}`, from: first, to: Math.max(now, first + 1), gap: points.length ? points[0].seconds * 1.5 : 1, unit: duration, start: ago(points.length, unit),
          series: [{ name: "run", look: "a", points: known("mean_run") }, { name: "wait", look: "c", points: known("mean_wait") }] }),
        lines({ title: "Jobs waiting", from, to: now, gap, series: [{ name: "pending", look: "a", points: at(1) }, { name: "active", look: "b", points: at(2) }] }),
        lines({ title: "Age of the oldest pending job", from, to: now, gap, unit: duration, series: [{ name: "age", look: "a", points: at(3) }] })),
      h("section", null, h("h2", null, "Queues"), queueTable(busiest(seen.queues), app),
        seen.queues.length > MOST_QUEUES
          ? h("p", { class: "more" }, "The fullest. ", h("a", { href: link("queues") }, `All ${plural(seen.queues.length, "queue")}`)) : null),
      h("section", null, h("h2", null, "Running now"), table("Running jobs", ["Job", "Type", "Queue", "Progress", ">Running for", "Worker"],
        seen.running.map((job) => h("tr", { key: job.id }, h("td", null, jobLink(job.id)), name(job.type), name(job.queue),
          h("td", null, progress(job)), h("td", { class: "number" }, ranFor(job.started_at, Date.parse(seen.time))),
          h("td", { class: "id" }, job.worker || ""))), "Nothing runs."),
        seen.states.active > seen.running.length
          ? h("p", { class: "more" }, h("a", { href: link("jobs", { state: "active" }) }, `All ${plural(seen.states.active)} in the hands of workers`)) : null),
    ];
  },
};

// --- queues -----------------------------------------------------------------------------------------------------------

const MOST_QUEUES = 20; // on the overview
const depth = (queue) => queue.states.pending + queue.states.active;

function busiest(queues) {
  if (queues.length <= MOST_QUEUES) return queues;
  return [...queues].sort((a, b) => depth(b) - depth(a)).slice(0, MOST_QUEUES);
}

function queueTable(queues, app) {
  const shown = STATES.filter((state, place) => place < 5 || queues.some((queue) => queue.states[state]));
  return table("Queues", ["Queue", ">pending", ">Oldest due", ">A second", ...shown.slice(1).map((state) => `>${state}`), ">Weight",
    app.mayChange() ? h("th", { scope: "col", class: "actions" }, h("span", { class: "hidden" }, "Actions")) : null],
    queues.map((queue) => {
      const weights = [...new Set(Object.values(queue.weights))].sort((a, b) => a - b);
      const rate = app.rateOf(queue.queue);
      const jobsIn = (state) => h("td", { class: queue.states[state] ? "number" : "number zero" },
        queue.states[state] ? h("a", { href: link("jobs", { state, queue: queue.queue }) }, count(queue.states[state])) : "0");
      return h("tr", { key: queue.queue },
        h("th", { scope: "row", title: queue.queue }, h("a", { href: link("jobs", { queue: queue.queue }) }, queue.queue),
          queue.paused ? h("span", { class: "badge paused", title: queue.paused_at ? `since ${clock(queue.paused_at)}` : null }, "paused") : null),
        jobsIn("pending"),
        h("td", { class: queue.latency > 60 ? "number late" : "number" }, queue.latency ? duration(queue.latency) : "–"),
        h("td", { class: "number" }, rate === null ? "–" : compact(rate)),
        shown.slice(1).map(jobsIn),
        h("td", { class: "number" }, weights.length ? weights.join(", ") : h("span", { title: "No worker serves it" }, "–")),
        app.mayChange() ? h("td", { class: "actions" }, [
          h("button", { type: "button", onclick: () => act.queue(app, queue.paused ? "resume" : "pause", queue), "aria-label": `${queue.paused ? "Resume" : "Pause"} ${queue.queue}` },
            queue.paused ? "Resume" : "Pause"),
          h("button", { type: "button", class: "danger", onclick: () => act.queue(app, "delete", queue), "aria-label": `Delete ${queue.queue}` }, "Delete"),
        ]) : null);
    }), "There is no queue yet. A queue appears with its first job.");
}

const queues = {
  title: "Queues",
  load: async () => ({}),
  show: (_, __, app) => [queueTable(app.overview.queues, app)],
};

// --- jobs -------------------------------------------------------------------------------------------------------------

const jobs = {
  title: "Jobs",
  load: (parameters, signal) => {
    const { back: _, ...asked } = parameters;
    return api.get("jobs", asked, signal);
  },
  show(data, parameters, app) {
    const { after, back, state, queue, ...more } = parameters;
    const filter = { state, queue, ...more };
    const filtered = queue || Object.keys(more).length > 0;
    const to = (changes) => link("jobs", { ...filter, ...changes });
    const names = app.overview.queues.map((one) => one.queue);
    const counted = queue ? app.overview.queues.filter((one) => one.queue === queue) : app.overview.queues;
    const inState = (one) => counted.reduce((sum, each) => sum + each.states[one], 0);
    const tabs = STATES.filter((one, place) => place < 6 || inState(one) || one === state);
    const trail = back ? back.split(" ") : [];
    const selected = app.selected;
    const hasProgress = data.jobs.some((job) => job.progress);
    for (const id of [...selected]) if (!data.jobs.some((job) => job.id === id)) selected.delete(id);
    return [
      h("ul", { class: "tabs", "aria-label": "States" },
        [undefined, ...tabs].map((one) => h("li", { key: one || "all" }, h("a", { href: to({ state: one }), "aria-current": one === state ? "page" : null },
          one || "all", h("span", { class: "count" }, compact(one ? inState(one) : STATES.reduce((sum, each) => sum + inState(each), 0))))))),
      h("form", { class: "filters", key: `filters ${JSON.stringify(filter)}`, onsubmit: (event) => submitFilters(event, state), "aria-label": "Filters" },
        h("div", { class: "field" }, h("label", { for: "f-queue" }, "Queue"),
          h("select", { id: "f-queue", name: "queue", onchange: (event) => event.target.form.requestSubmit() },
            h("option", { value: "", key: "" }, "any"),
            [...new Set([...names, ...(queue ? [queue] : [])])].map((name) => h("option", { value: name, key: `q ${name}`, selected: name === queue }, name)))),
        FILTERS.filter(([name]) => name !== "group" || more.group || state === "aggregating").map(([name, label, placeholder, help]) =>
          h("div", { class: "field" }, h("label", { for: `f-${name}` }, label),
            h("input", { id: `f-${name}`, name, value: more[name] || "", placeholder, title: help, autocomplete: "off", spellcheck: "false" }))),
        h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Filter"),
          filtered ? h("a", { class: "button", href: link("jobs", { state }) }, "Clear") : null)),
      app.mayChange() ? bulk(app, filter, selected, data) : null,
      table("Jobs", [
        app.mayChange() ? h("th", { scope: "col", class: "pick" }, h("input", {
          type: "checkbox", "aria-label": "Choose all on this page", onchange: (event) => app.choose(data.jobs.map((job) => job.id), event.target.checked),
        })) : null,
        "Job", "Type", "Queue", ...(state ? [] : ["State"]), "Payload", timeHead(state), ...(hasProgress ? ["Progress"] : []), ">Retries", "Last error"],
      data.jobs.map((job) => h("tr", { key: job.id },
        app.mayChange() ? h("td", { class: "pick" }, h("input", { type: "checkbox", "aria-label": `Choose ${job.id}`, class: "choose",
          onchange: (event) => app.choose([job.id], event.target.checked) })) : null,
        h("td", null, jobLink(job.id)), name(job.type), name(job.queue), state ? null : h("td", null, badge(job.state)),
        h("td", { class: state ? null : "name" }, h("code", { class: "cut" }, job.payload)), h("td", null, timeOf(job, app)), hasProgress ? h("td", null, progress(job)) : null,
        h("td", { class: "number" }, `${job.retry_count} / ${count(job.max_retry)}`),
        h("td", null, job.last_error ? h("span", { class: "cut error", title: job.last_error }, job.last_error) : ""))),
      filtered ? "No job matches." : state ? `No job is ${state}.` : "There is no job yet."),
      h("nav", { class: "pages", "aria-label": "Pages" },
        after ? h("a", { class: "button", href: to({}) }, "First") : null,
        after ? h("a", { class: "button", href: to({ after: trail[trail.length - 1], back: trail.slice(0, -1).join(" ") }) }, "Previous") : null,
        data.after ? h("a", { class: "button", href: to({ after: data.after, back: after ? [...trail, after].join(" ") : "" }) }, "Next") : null),
    ];
  },
};

function timeHead(state) {
  if (state === "pending" || state === "scheduled" || state === "retry") return "Due";
  if (state === "active") return "Started";
  if (state === "completed" || state === "archived" || state === "cancelled") return "Ended";
  return state ? "Enqueued" : "When";
}

function timeOf(job, app) {
  return when(job.next_process_at || (job.state === "active" ? job.started_at : job.completed_at) || job.enqueued_at, app);
}

function submitFilters(event, state) {
  event.preventDefault();
  const members = { state };
  for (const [name, value] of new FormData(event.target)) members[name] = value.trim();
  location.hash = link("jobs", members);
}

function bulk(app, filter, selected, data) {
  const chosen = data.jobs.filter((job) => selected.has(job.id));
  const may = (action, states) => states.some((state) => app.overview.may[action].includes(state));
  const button = (action, label, danger, run, name) => h("button", { type: "button", class: danger ? "danger" : null, disabled: app.busy, onclick: run, id: name }, label);
  const of = (action) => chosen.filter((job) => app.overview.may[action].includes(job.state)).map((job) => job.id);
  if (chosen.length) {
    return h("div", { class: "bulk", key: "chosen" }, h("span", null, `${plural(chosen.length)} chosen`),
      act.ACTIONS.map(([action, label, danger]) => (of(action).length
        ? button(action, `${label} ${of(action).length}`, danger, () => act.jobs(app, action, of(action)), `chosen-${action}`) : null)),
      of("update").length ? button("update", `Change ${of("update").length}…`, false, () => act.changeJobs(app, of("update")), "chosen-update") : null,
      h("button", { type: "button", onclick: () => app.choose([...selected], false) }, "Choose none"));
  }
  if (!filter.state || !data.jobs.length) return h("div", { class: "bulk quiet", key: "none" }, h("span", null, filter.state || !data.jobs.length ? "" : "Choose jobs, or a state to change all that match."));
  return h("div", { class: "bulk", key: "all" }, h("span", null, "All that match:"),
    act.ACTIONS.map(([action, label, danger]) => (may(action, [filter.state]) ? button(action, `${label} all`, danger, () => act.all(app, action, filter), `all-${action}`) : null)),
    may("update", [filter.state]) ? button("update", "Change all…", false, () => act.changeAll(app, filter), "all-update") : null);
}

// --- a job ------------------------------------------------------------------------------------------------------------

const job = {
  title: "Job",
  load: (parameters, signal) => api.get("job", { id: parameters.id }, signal),
  heading: (data) => [data.type, " ", badge(data.state)],
  show(data, _, app) {
    const facts = [
      ["Id", h("span", { class: "id" }, data.id)],
      ["Queue", h("a", { href: link("jobs", { queue: data.queue }) }, data.queue)],
      ["Priority", count(data.priority)],
      ["Retries", `${count(data.retry_count)} of ${count(data.max_retry)}`],
      ["Timeout", data.timeout === null ? "none" : duration(data.timeout)],
      ["Deadline", when(data.deadline, app)],
      ["Enqueued", when(data.enqueued_at, app)],
      ["Due", when(data.next_process_at, app)],
      ["Started", when(data.started_at, app)],
      ["Ended", when(data.completed_at, app)],
      ["Worker", data.worker],
      ["Group", data.group ? h("a", { href: link("jobs", { group: data.group }) }, data.group) : null],
      ["Progress", progress(data)],
    ];
    return [
      app.mayChange() ? h("div", { class: "bulk" },
        act.ACTIONS.map(([action, label, danger]) => (app.overview.may[action].includes(data.state)
          ? h("button", { type: "button", key: action, id: `job-${action}`, class: danger ? "danger" : null, disabled: app.busy, onclick: () => act.one(app, action, data) }, label) : null)),
        app.overview.may.update.includes(data.state)
          ? h("button", { type: "button", key: "update", id: "job-update", disabled: app.busy, onclick: () => act.change(app, data) }, "Change…") : null) : null,
      data.last_error ? h("p", { class: "last error" }, data.last_error) : null,
      h("dl", { class: "facts" }, facts.filter(([, value]) => value !== "" && value !== null && value !== undefined)
        .map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value)))),
      text(data, "payload", "Payload"),
      data.result === "null" ? null : text(data, "result", "Result"),
      Object.keys(data.headers).length ? h("section", { key: "headers" }, h("h2", null, "Headers"),
        h("dl", { class: "facts wide" }, Object.entries(data.headers).map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, h("code", null, value)))))) : null,
      data.steps.length ? h("section", { key: "steps" }, h("h2", null, "Steps"), table("Steps", ["Step", "Stored", "Result"],
        data.steps.map((step) => h("tr", { key: step.name }, h("th", { scope: "row" }, step.name), h("td", null, when(step.stored_at, app)), h("td", null, h("code", { class: "cut" }, step.result)))), "")) : null,
      related(data.needs, "Waits for"), related(data.dependants, "Waited for by"),
      h("section", { key: "attempts" }, h("h2", null, "Failed attempts"),
        data.attempts.length < data.attempts_count ? h("p", { class: "more" }, `The last ${data.attempts.length} of ${count(data.attempts_count)}.`) : null,
        data.attempts.length ? [...data.attempts].reverse().map((one, place) => h("details", { class: "attempt", key: String(one.number), open: place === 0 },
          h("summary", null, h("strong", null, `Attempt ${one.number}`), " ", when(one.started_at, app), ` · ran ${duration(one.duration)} `, h("span", { class: "cut error" }, one.error)),
          h("pre", { tabindex: "0" }, one.traceback || one.error), h("p", { class: "more" }, `on worker ${one.worker}`))) : empty("None.")),
    ];
  },
};

function text(data, part, title) {
  const isCut = data[`${part}_length`] > data[part].length;
  return h("section", { key: part }, h("h2", null, title),
    h("pre", { tabindex: "0" }, data[part]),
    h("p", { class: "more" }, isCut ? `Cut: it has ${count(data[`${part}_length`])} characters. ` : "",
      h("a", { href: `api/v1/job/text${api.query({ id: data.id, part })}`, download: `${part}.json` }, "Save it as a file")));
}

function related(list, title) {
  if (!list.length) return null;
  const hasReason = list.some((one) => one.reason);
  return h("section", { key: title }, h("h2", null, title), table(title, ["Job", "State", hasReason ? "Reason" : null],
    list.map((one) => h("tr", { key: one.id }, h("td", null, one.state ? jobLink(one.id) : h("span", { class: "id" }, one.id)),
      h("td", null, badge(one.outcome || one.state || "gone")), hasReason ? h("td", { class: "wide", title: one.reason }, one.reason || "") : null)), ""));
}

// --- workers ----------------------------------------------------------------------------------------------------------

function deaths(worker, app) {
  const last = worker.last_child_death;
  return last ? h("p", { class: "more" }, `The last child that died: ${last.pid}, ${last.reason}, ${ranFor(last.at, app.now())} ago.`) : null;
}

function children(worker, app) {
  if (worker.children === null) return h("p", { class: "more" }, "What its children run cannot be read from here.");
  if (!worker.children.length) return null;
  const shares = new Map((worker.processes || []).map((one) => [one.pid, one.bytes]));
  const memory = (child) => shares.get(child.pid) ?? child.memory;
  const progresses = new Map(worker.jobs.map((job) => [job.id, progress(job)]));
  return table(`Children of ${worker.name}`, ["Child", ">Up for", ">Memory", "Runs", "Type", "Queue", ">Running for", progresses.size ? "Progress" : null],
    worker.children.flatMap((child) => (child.jobs.length ? child.jobs : [null]).map((job, place, all) => h("tr", { key: `${child.pid} ${place}`, class: place < all.length - 1 ? "goes-on" : null },
      h("td", null, place ? "" : String(child.pid)),
      h("td", { class: "number" }, place ? "" : ranFor(child.started_at, app.now())),
      h("td", { class: "number" }, place || memory(child) === null ? "" : bytes(memory(child))),
      h("td", { class: job ? null : "zero" }, job ? jobLink(job.id) : "idle"), name(job ? job.type : ""), name(job ? job.queue : ""),
      h("td", { class: "number" }, job ? ranFor(job.since, app.now()) : ""),
      progresses.size ? h("td", null, job ? progresses.get(job.id) : "") : null))), "");
}

// The jobs that no child of it runs: they wait for one, or what its children run is not known.
function inHands(worker, app) {
  const running = new Set((worker.children || []).flatMap((child) => child.jobs.map((job) => job.id)));
  const others = worker.jobs.filter((job) => !running.has(job.id));
  const known = worker.children && worker.children.length;
  if (!known && !others.length) return empty("It runs nothing.");
  const hasProgress = others.some((one) => one.progress);
  const listed = table(`Jobs of ${worker.name}`, ["Job", "Type", "Queue", "Taken", hasProgress ? "Progress" : null],
    others.map((one) => h("tr", { key: one.id }, h("td", null, jobLink(one.id)), name(one.type), name(one.queue),
      h("td", null, when(one.started_at, app)), hasProgress ? h("td", null, progress(one)) : null)), "All that it has taken runs.");
  return known ? h("details", { key: "taken" }, h("summary", null, `Taken, and not begun yet: ${count(others.length)}`), listed) : listed;
}

function roleOf(worker, pid) {
  if (pid === worker.pid) return "supervisor";
  return (worker.children || []).some((child) => child.pid === pid) ? "child" : "";
}

const workers = {
  title: "Workers",
  load: (_, signal) => api.get("workers", {}, signal),
  show(data, _, app) {
    if (!data.workers.length) return [empty("No worker is running. Start one: python -m fireforget.worker module:registry --db PATH")];
    return data.workers.map((worker) => h("section", { class: "card", key: worker.name },
      h("h2", null, h("span", { class: "id" }, worker.name), " ", worker.alive ? h("span", { class: "badge completed" }, "alive") : h("span", { class: "badge archived" }, "dead")),
      worker.alive ? null : h("p", null, "It was killed. Its jobs are pending again as soon as another worker is there."),
      h("dl", { class: "facts" }, [
        ["Host", worker.host], ["Process", worker.pid], worker.alive ? ["Up for", ranFor(worker.started_at, app.now())] : ["Started", when(worker.started_at, app)],
        ["Children", count(worker.concurrency)], ["Children that died", worker.child_deaths === null ? null : count(worker.child_deaths)], ["Threads in each", count(worker.threads)], ["Jobs in its hands", count(worker.active)],
        ["Queues", Object.entries(worker.queues).map(([name, weight]) => `${name}=${weight}`).join(", ")],
        ["Memory", worker.processes ? `${bytes(worker.processes.reduce((sum, one) => sum + one.bytes, 0))} in ${worker.processes.length} processes${worker.processes.every((one) => one.shared_fairly) ? "" : ", shared pages counted in each"}` : null],
      ].filter(([, value]) => value !== null).map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value)))),
      deaths(worker, app),
      children(worker, app),
      inHands(worker, app),
      worker.processes ? h("details", null, h("summary", null, "Processes"), table("Processes", ["Process", "Role", ">Memory"],
        worker.processes.map((one) => h("tr", { key: String(one.pid) }, h("td", null, String(one.pid)),
          h("td", null, roleOf(worker, one.pid)), h("td", { class: "number" }, bytes(one.bytes)))), "")) : null));
  },
};

// --- schedules --------------------------------------------------------------------------------------------------------

const schedules = {
  title: "Schedules",
  load: (_, signal) => api.get("schedules", { times: 3 }, signal),
  show: (data, _, app) => [table("Schedules", ["Schedule", "Expression", "Zone", "Queue", "Next", "Last", "Missed ticks", ">Workers", app.mayChange() ? h("th", { scope: "col", class: "actions" }, h("span", { class: "hidden" }, "Actions")) : null],
    data.schedules.map((one) => h("tr", { key: one.name },
      h("th", { scope: "row" }, h("a", { href: link("schedule", { name: one.name }) }, one.name), one.paused ? h("span", { class: "badge paused" }, "paused") : null),
      h("td", null, h("code", null, one.expression)), h("td", null, one.timezone), name(one.queue), h("td", null, when(one.next_at, app)),
      h("td", null, when(one.last_at, app) || "never"), h("td", null, one.missed.replace("_", " ")), number(one.workers), app.mayChange() ? h("td", { class: "actions" }, scheduleButtons(one, app)) : null)),
    "There is no schedule. Those of a registry appear when its worker starts.")],
};

function scheduleButtons(one, app) {
  if (!app.mayChange()) return null;
  return [
    h("button", { type: "button", onclick: () => act.schedule(app, one.paused ? "resume" : "pause", one), "aria-label": `${one.paused ? "Resume" : "Pause"} ${one.name}` }, one.paused ? "Resume" : "Pause"),
    one.workers ? null : h("button", { type: "button", class: "danger", onclick: () => act.schedule(app, "delete", one), "aria-label": `Delete ${one.name}` }, "Delete"),
  ];
}

const schedule = {
  title: "Schedule",
  load: (parameters, signal) => api.get("schedule", { name: parameters.name }, signal),
  heading: (data) => [data.name, data.paused ? h("span", { class: "badge paused" }, "paused") : null],
  show: (data, _, app) => [
    app.mayChange() ? h("div", { class: "bulk" }, scheduleButtons(data, app)) : null,
    h("dl", { class: "facts" }, [["Type", data.type], ["Queue", data.queue], ["Expression", h("code", null, data.expression)], ["Zone", data.timezone],
      ["Missed ticks", data.missed.replace("_", " ")], ["Workers that have it", count(data.workers)]].map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value)))),
    h("section", null, h("h2", null, "Next ticks"), h("ol", { class: "times" }, data.next_times.map((tick) => h("li", { key: tick }, clock(tick), " · ", fromNow(tick, app.now()))))),
    h("section", null, h("h2", null, "Last ticks"), table("Last ticks", ["Tick", "Outcome", "Job", "Detail"],
      data.events.map((one) => h("tr", { key: `${one.tick} ${one.at}` }, h("td", null, clock(one.tick)), h("td", null, one.outcome), h("td", null, one.job_id ? jobLink(one.job_id) : ""), h("td", null, one.detail || ""))),
      "It has not ticked yet.")),
  ],
};

// --- groups -----------------------------------------------------------------------------------------------------------

const groups = {
  title: "Groups",
  load: (_, signal) => api.get("groups", {}, signal),
  show: (data, _, app) => [table("Groups", ["Group", "Queue", ">Jobs", "Oldest", "Newest", "State"],
    data.groups.map((one) => h("tr", { key: `${one.queue} ${one.name} ${one.closed} ${one.oldest}` },
      h("th", { scope: "row" }, h("a", { href: link("jobs", { state: "aggregating", group: one.name, queue: one.queue }) }, one.name)), h("td", null, one.queue), number(one.size),
      h("td", null, when(one.oldest, app)), h("td", null, when(one.newest, app)),
      h("td", null, one.closed ? "complete, waits for its aggregator" : one.completes_at ? `complete ${fromNow(one.completes_at, app.now())}` : "collecting"))),
    "No group waits."),
  data.count > data.groups.length ? h("p", { class: "more" }, `The ${count(data.groups.length)} largest of ${count(data.count)}.`) : null],
};

export const VIEWS = { "": overview, queues, jobs, job, workers, schedules, schedule, groups };
export const NAVIGATION = [["", "Overview"], ["queues", "Queues"], ["jobs", "Jobs"], ["workers", "Workers"], ["schedules", "Schedules"], ["groups", "Groups"]];
