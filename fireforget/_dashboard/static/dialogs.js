// Questions before something is done, and words about what was done.

import { h, patch } from "./dom.js";

const dialog = document.getElementById("dialog");
const toasts = document.getElementById("toasts");

function show(content) {
  const focused = document.activeElement;
  return new Promise((resolve) => {
    let answer = null;
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    patch(dialog, []);
    patch(dialog, content(close));
    dialog.onclose = () => {
      patch(dialog, []);
      if (focused && focused.isConnected) focused.focus();
      resolve(answer);
    };
    dialog.oncancel = () => {
      answer = null;
    };
    dialog.showModal();
  });
}

// Resolves to true when the answer is yes.
export async function ask({ title, lines, yes, danger = false }) {
  const answer = await show((close) => [
    h("h2", { id: "dialog-title" }, title),
    lines.map((line) => h("p", null, line)),
    h("div", { class: "buttons" },
      h("button", { type: "button", autofocus: true, onclick: () => close(false) }, "Keep everything as it is"),
      h("button", { type: "button", id: "dialog-yes", class: danger ? "danger" : "primary", onclick: () => close(true) }, yes)),
  ]);
  return answer === true;
}

// Resolves to the values of the fields that were changed, or null.
export function askForm({ title, fields, yes }) {
  return show((close) => [
    h("form", {
      method: "dialog",
      onsubmit: (event) => {
        event.preventDefault();
        const changed = {};
        for (const field of fields) {
          const value = document.getElementById(`field-${field.name}`).value;
          if (value !== field.value) changed[field.name] = value;
        }
        close(changed);
      },
    },
    h("h2", { id: "dialog-title" }, title),
    fields.map((field) => h("div", { class: "field" },
      h("label", { for: `field-${field.name}` }, field.label),
      h(field.rows ? "textarea" : "input", {
        id: `field-${field.name}`, name: field.name, value: field.value, type: field.rows ? null : field.type || "text",
        rows: field.rows, disabled: field.disabled, placeholder: field.placeholder, spellcheck: "false", autocomplete: "off",
        step: field.type === "number" ? "1" : null,
      }),
      field.help ? h("small", null, field.help) : null)),
    h("div", { class: "buttons" },
      h("button", { type: "button", onclick: () => close(null) }, "Keep it as it is"),
      h("button", { type: "submit", id: "dialog-yes", class: "primary" }, yes))),
  ]);
}

const told = [];

export function tell(text, failed = false) {
  const one = { text, failed, key: `${Date.now()} ${Math.random()}` };
  told.push(one);
  if (told.length > 4) told.shift();
  draw();
  setTimeout(() => {
    const at = told.indexOf(one);
    if (at >= 0) told.splice(at, 1);
    draw();
  }, failed ? 12000 : 6000);
}

function draw() {
  patch(toasts, told.map((one) => h("p", { key: one.key, class: one.failed ? "toast failed" : "toast" }, one.text)));
}
