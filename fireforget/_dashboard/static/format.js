// Numbers, instants and durations as people say them.

const numbers = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => numbers.format(value);
export const compact = (value) => (value < 10000 ? numbers.format(Math.round(value * 10) / 10) : short.format(value));
export const plural = (value, noun = "job") => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds < 0.0005) return seconds > 0 ? "< 1 ms" : "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  const whole = Math.round(seconds);
  for (const [unit, size, smaller, smallerSize] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / smallerSize);
      return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
    }
  }
  return `${whole} s`;
}

export function fromNow(text, now) {
  const seconds = (Date.parse(text) - now) / 1000;
  return seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

export const clock = (text) => text.replace("T", " ").replace(/(\.\d+)?\+00:00$/, " UTC");

export function bytes(value) {
  return value < 1048576 ? `${Math.round(value / 1024)} KiB` : `${Math.round(value / 104857.6) / 10} MiB`;
}
