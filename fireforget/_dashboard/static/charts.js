// Plots as SVG. The drawing is stretched to the width there is; its words stand beside it, so that they keep their size.

import { h } from "./dom.js";
import { clock, compact, plural } from "./format.js";

const WIDTH = 600;
const HEIGHT = 100;

// `points` are [Unix seconds, number]; where more than `gap` seconds lie between two of them nobody has looked, and the line ends.
export function lines({ title, series, from, to, gap, start, unit = (value) => compact(value) }) {
  const shown = series.map((one) => ({ ...one, points: one.points.filter(([time]) => time >= from) }));
  const values = shown.flatMap((one) => one.points.map(([, value]) => value));
  const top = nice(Math.max(0, ...values));
  const x = (time) => round(((time - from) / (to - from)) * WIDTH);
  const y = (value) => round(HEIGHT - (value / top) * (HEIGHT - 4) - 1);
  const paths = shown.flatMap((one) =>
    parts(one.points, gap).map((part, number) =>
      h("path", { key: `${one.name} ${number}`, class: `line ${one.look}`, d: path(part.map(([t, v]) => [x(t), y(v)])), "vector-effect": "non-scaling-stroke" }),
    ),
  );
  const told = shown.map((one) => {
    const of = one.points.map(([, value]) => value);
    return of.length ? `${one.name}: now ${unit(of[of.length - 1])}, highest ${unit(Math.max(...of))}` : `${one.name}: nothing yet`;
  });
  return figure(title, told, series, paths, unit(top), [start ?? `${Math.round((to - from) / 60)} min ago`, "now"], shown.some((one) => one.points.length > 1),
    values.length ? "The line begins with the next reading." : "Nothing to draw yet.");
}

export function bars({ title, points, unit }) {
  const top = nice(Math.max(0, ...points.map((point) => point.processed)));
  const width = WIDTH / Math.max(points.length, 1);
  const rects = points.flatMap((point, number) => {
    const good = Math.max(0, point.processed - point.failed);
    const failed = height(point.failed, top);
    const succeeded = height(good, top);
    const at = { x: round(number * width + width * 0.1), width: round(width * 0.8) };
    const words = `${clock(point.from)}: ${compact(point.processed)} processed, ${compact(point.failed)} failed`;
    return [
      h("rect", { key: `g${point.from}`, class: "bar good", ...at, y: round(HEIGHT - failed - succeeded), height: succeeded }, h("title", null, words)),
      h("rect", { key: `f${point.from}`, class: "bar failed", ...at, y: round(HEIGHT - failed), height: failed }, h("title", null, words)),
    ];
  });
  const sum = points.reduce((total, point) => total + point.processed, 0);
  const failures = points.reduce((total, point) => total + point.failed, 0);
  const told = [`${compact(sum)} processed, ${compact(failures)} failed in ${plural(points.length, unit)}`];
  const series = [{ name: "succeeded", look: "good" }, { name: "failed", look: "failed" }];
  return figure(title, told, series, rects, compact(top), [ago(points.length, unit), "now"], sum > 0, "Nothing has run in this time.");
}

export const ago = (points, unit) => (points ? `${plural(points, unit)} ago` : "");

function figure(title, told, series, drawing, top, ends, hasData, nothing) {
  return h("figure", { class: "plot" },
    h("figcaption", null, h("h3", null, title),
      h("ul", { class: "legend" }, series.map((one) => h("li", null, h("span", { class: `swatch ${one.look}` }), one.name)))),
    h("div", { class: "canvas" },
      h("span", { class: "top" }, hasData ? top : ""),
      h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}. ${told.join(". ")}.` },
        hasData && h("line", { key: "half", class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2, "vector-effect": "non-scaling-stroke" }),
        h("line", { key: "zero", class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5, "vector-effect": "non-scaling-stroke" }),
        drawing),
      hasData ? null : h("span", { class: "nothing" }, nothing)),
    h("div", { class: "ends" }, h("span", null, ends[0]), h("span", null, ends[1])),
    h("p", { class: "told" }, told.join(" · ")));
}

function parts(points, gap) {
  const found = [];
  let last = null;
  for (const point of points) {
    if (last === null || point[0] - last > gap) found.push([]);
    found[found.length - 1].push(point);
    last = point[0];
  }
  return found;
}

function path(points) {
  if (points.length === 1) return `M${points[0][0]},${points[0][1]}h1`;
  return `M${points.map(([x, y]) => `${x},${y}`).join("L")}`;
}

const round = (value) => Math.round(value * 100) / 100;
const height = (value, top) => (value ? Math.max(1, round((value / top) * (HEIGHT - 4))) : 0);

function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

