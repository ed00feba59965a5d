// Elements as plain values, and bringing the document to what they say. Text only ever becomes text: nothing here parses markup.
// Elements that are there already are kept, so that a new reading takes neither the focus, nor a selection, nor an open <details>.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "rect", "line", "title", "g"]);
const ONCE = new Set(["value", "checked", "open"]); // afterwards they are the user's

export function h(tag, props, ...children) {
  const list = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
  return { tag, props: props || {}, children: list.map((child) => (typeof child === "object" ? child : String(child))) };
}

export function patch(parent, nodes) {
  const wanted = nodes.flat(Infinity).filter((node) => node !== null && node !== undefined && node !== false && node !== "");
  const keys = new Set(wanted.map((node) => (typeof node === "object" ? node.props.key : undefined)));
  const known = new Map();
  for (const child of parent.childNodes) {
    if (child.fireKey !== undefined) known.set(child.fireKey, child);
  }
  let at = parent.firstChild;
  const pass = () => {
    while (at && at.fireKey !== undefined && !keys.has(at.fireKey)) at = drop(at);
  };
  for (const node of wanted) {
    pass();
    if (typeof node !== "object") {
      const text = String(node);
      if (at && at.nodeType === Node.TEXT_NODE) {
        if (at.data !== text) at.data = text;
        at = at.nextSibling;
      } else {
        parent.insertBefore(document.createTextNode(text), at);
      }
      continue;
    }
    const key = node.props.key;
    let element = null;
    if (key !== undefined) {
      element = known.get(key) || null;
    } else if (at && at.fireTag === node.tag && at.fireKey === undefined) {
      element = at;
    }
    if (element && element.fireTag !== node.tag) element = null;
    const isNew = !element;
    if (isNew) element = create(node, parent);
    if (element === at) at = at.nextSibling;
    else parent.insertBefore(element, at);
    update(element, node, isNew);
  }
  while (at) at = drop(at);
}

function drop(element) {
  const next = element.nextSibling;
  element.remove();
  return next;
}

function create(node, parent) {
  const isSvg = SVG_TAGS.has(node.tag) && (node.tag === "svg" || parent.namespaceURI === SVG);
  const element = isSvg ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  element.fireTag = node.tag;
  element.fireKey = node.props.key;
  element.fireProps = {};
  return element;
}

function update(element, node, isNew) {
  const before = element.fireProps;
  const now = node.props;
  for (const name of Object.keys(before)) {
    if (!(name in now)) set(element, name, null);
  }
  for (const [name, value] of Object.entries(now)) {
    if (name === "key" || (ONCE.has(name) && !isNew)) continue;
    if (value !== before[name]) set(element, name, value);
  }
  element.fireProps = now;
  patch(element, node.children);
}

function set(element, name, value) {
  if (name.startsWith("on")) {
    element[name] = value;
  } else if (name === "value" || name === "checked" || name === "indeterminate") {
    element[name] = value ?? "";
  } else if (name === "width" && element.fireTag === "span") {
    element.style.width = value === null ? "" : value;
  } else if (value === null || value === undefined || value === false) {
    element.removeAttribute(name);
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}
