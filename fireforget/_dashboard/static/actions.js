// What can be done to jobs, queues and schedules: asked again where it destroys something, then sent, then told.

import * as api from "./api.js";
import { ask, askForm, tell } from "./dialogs.js";
import { plural } from "./format.js";

export const ACTIONS = [["run", "Run", false], ["archive", "Archive", false], ["cancel", "Cancel", true], ["delete", "Delete", true]];
const DONE = { run: "pending again", archive: "archived", cancel: "cancelled", delete: "deleted" };
const CONSEQUENCE = {
  run: "They become pending now.",
  archive: "They do not run until somebody runs them again.",
  cancel: "They do not run any more; those that run are interrupted.",
  delete: "They are gone, with their payloads, results and attempts. This cannot be undone.",
};

const capital = (text) => text[0].toUpperCase() + text.slice(1);

async function send(app, run) {
  app.setBusy(true);
  try {
    await run();
  } catch (error) {
    tell(error.message, true);
  } finally {
    app.setBusy(false);
    await app.refresh();
  }
}

export async function one(app, action, job) {
  if (action === "delete" || (action === "cancel" && job.state === "active")) {
    const lines = action === "delete" ? ["It is gone, with its payload, result and attempts. This cannot be undone."] : ["It runs. It is interrupted, and its process is killed a second later."];
    if (!(await ask({ title: `${capital(action)} this job?`, lines: [job.id, ...lines], yes: `${capital(action)} it`, danger: true }))) return;
  }
  await send(app, async () => {
    const answer = await api.post("jobs", { action, ids: [job.id] });
    if (answer.refused.length) throw new Error(answer.refused[0].message);
    const state = answer.changed[0].state;
    tell(`Job ${job.id} is ${state === "active" ? "asked to end" : state || "deleted"}.`);
    if (action === "delete") app.leave();
  });
}

export async function jobs(app, action, ids) {
  const title = `${capital(action)} ${plural(ids.length)}?`;
  if (action !== "run" && !(await ask({ title, lines: [CONSEQUENCE[action]], yes: `${capital(action)} ${plural(ids.length)}`, danger: action !== "archive" }))) return;
  await send(app, async () => {
    const answer = await api.post("jobs", { action, ids });
    if (answer.changed.length) tell(`${plural(answer.changed.length)} ${DONE[action]}.`);
    for (const refused of answer.refused.slice(0, 3)) tell(refused.message, true);
    app.choose(ids, false);
  });
}

const members = (filter) => Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
const told = (filter) => Object.entries(members(filter)).map(([name, value]) => `${name.replace("_", " ")}: ${value}`).join(" · ");

export async function all(app, action, filter) {
  await send(app, async () => {
    const { count } = await api.get("jobs/count", filter);
    if (!count) {
      tell("No job matches any more.");
      return;
    }
    const yes = `${capital(action)} ${plural(count)}`;
    if (!(await ask({ title: `${yes}?`, lines: [told(filter), CONSEQUENCE[action]], yes, danger: action === "delete" || action === "cancel" }))) return;
    tell(`${yes}: this may take a while.`);
    const answer = await api.post("jobs", { action, filter: members(filter), confirm: true });
    tell(`${plural(answer.count)} ${DONE[action]}.`);
  });
}

// --- changing ---------------------------------------------------------------------------------------------------------

const FIELDS = [
  { name: "queue", label: "Queue", value: "", placeholder: "unchanged" },
  { name: "priority", label: "Priority", value: "", type: "number", placeholder: "unchanged" },
  { name: "process_in", label: "Due in", value: "", placeholder: "unchanged", help: "Seconds, or such as 10m, 1.5h, 7d; 0 is now." },
  { name: "deadline", label: "Deadline", value: "", placeholder: "unchanged", help: "Such as 2030-01-31T09:00:00+00:00." },
];

async function askChanges(title, yes, fields) {
  const values = await askForm({ title, yes, fields });
  if (values === null) return null;
  const changes = { ...values };
  if ("priority" in changes) changes.priority = Number(changes.priority);
  if (changes.deadline === "") changes.deadline = null;
  for (const name of ["process_in", "queue"]) if (changes[name] === "") delete changes[name];
  if (Object.keys(changes).length) return changes;
  tell("Nothing was changed.");
  return null;
}

export async function change(app, job) {
  const whole = job.payload.length === job.payload_length;
  const [queue, priority, processIn, deadline] = FIELDS;
  const changes = await askChanges("Change this job", "Change it", [
    { ...queue, value: job.queue },
    { ...priority, value: String(job.priority) },
    processIn,
    { ...deadline, value: job.deadline || "", placeholder: "none", help: `${deadline.help} Empty: none.` },
    { name: "payload", label: "Payload", value: job.payload, rows: 8, disabled: !whole, help: whole ? null : "Too long to be changed here." },
  ]);
  if (changes !== null) await changed(app, [job.id], changes);
}

export async function changeJobs(app, ids) {
  const changes = await askChanges(`Change ${plural(ids.length)}`, `Change ${plural(ids.length)}`, FIELDS);
  if (changes !== null) await changed(app, ids, changes);
}

async function changed(app, ids, changes) {
  await send(app, async () => {
    const answer = await api.post("jobs", { action: "update", ids, changes });
    if (answer.changed.length) tell(answer.changed.length === 1 ? `Job ${answer.changed[0].id} was changed and is ${answer.changed[0].state}.` : `${plural(answer.changed.length)} changed.`);
    for (const refused of answer.refused.slice(0, 3)) tell(refused.message, true);
    app.choose(ids, false);
  });
}

export async function changeAll(app, filter) {
  await send(app, async () => {
    const { count } = await api.get("jobs/count", filter);
    const changes = await askChanges(`Change ${plural(count)}: ${told(filter)}`, `Change ${plural(count)}`, FIELDS);
    if (changes === null) return;
    const answer = await api.post("jobs", { action: "update", filter: members(filter), changes, confirm: true });
    tell(`${plural(answer.count)} changed.`);
  });
}

export async function queue(app, action, one) {
  const name = one.queue;
  if (action === "delete") {
    const lines = one.size ? [`${plural(one.size)} in it are gone with it. This cannot be undone.`] : ["It is empty."];
    if (!(await ask({ title: `Delete queue ${name}?`, lines, yes: one.size ? `Delete it with ${plural(one.size)}` : "Delete it", danger: true }))) return;
  }
  await send(app, async () => {
    const answer = await api.post("queues", { action, queue: name, ...(action === "delete" ? { force: true, confirm: true } : {}) });
    if (action === "delete") tell(`Queue ${name} is deleted, with ${plural(answer.count)}.`);
    else tell(action === "pause" ? `Queue ${name} is paused: workers take nothing more from it.` : `Queue ${name} goes on.`);
  });
}

export async function schedule(app, action, one) {
  if (action === "delete" && !(await ask({ title: `Delete schedule ${one.name}?`, lines: ["Its history goes with it. The jobs that it enqueued stay."], yes: "Delete it", danger: true }))) return;
  await send(app, async () => {
    await api.post("schedules", { action, schedule: one.name });
    tell(`Schedule ${one.name} ${{ pause: "is paused", resume: "goes on with its next tick", delete: "is deleted" }[action]}.`);
    if (action === "delete") location.hash = "#/schedules";
  });
}
