// What the server is asked, and how. Every path is relative to the page, wherever it is mounted.

export class Failure extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function query(members) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(members)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") found.append(name, one);
    }
  }
  const text = found.toString();
  return text ? `?${text}` : "";
}

export const get = (name, members = {}, signal = undefined) => ask(`api/v1/${name}${query(members)}`, { signal });

export const post = (name, body) => act(name, "POST", body);

export const remove = (name) => act(name, "DELETE", {});

function act(name, method, body) {
  return ask(`api/v1/${name}`, {
    method,
    headers: { "Content-Type": "application/json", "X-Fireforget": "1" },
    body: JSON.stringify(body),
  });
}

async function ask(path, settings) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", redirect: "error", ...settings });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "unreachable", "The dashboard does not answer: it was stopped, or the network is gone.");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!response.ok || answer === null) {
    const told = answer && answer.error ? answer.error : { code: "broken", message: `The answer was ${response.status}.` };
    throw new Failure(response.status, told.code, told.message);
  }
  return answer;
}
