// Numbers, durations and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const NONE = "–";

export function count(number) {
  return number === undefined ? NONE : whole.format(number);
}

/** A rate: whole from 10 on, below with a digit behind the point. */
export function rate(number) {
  if (number === undefined) return NONE;
  return number >= 10 || number === 0 ? whole.format(number) : number.toFixed(1);
}

/** Milliseconds, with three digits that count. */
export function ms(number) {
  if (number === undefined) return NONE;
  if (number >= 10000) return `${(number / 1000).toFixed(1)} s`;
  if (number >= 100) return `${whole.format(number)} ms`;
  return `${number.toFixed(number >= 10 ? 1 : 2)} ms`;
}

/** Milliseconds on an axis: round numbers. */
export function roundMs(number) {
  return number >= 1000 ? `${number / 1000} s` : `${number} ms`;
}

/** Seconds that something took. */
export function took(seconds) {
  return seconds === undefined ? NONE : ms(1000 * seconds);
}

/** Seconds that something lasts: 3 d 4 h, 12 min, 8 s. */
export function lasting(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min`;
  if (left < 86400) return `${Math.floor(left / 3600)} h ${Math.floor((left % 3600) / 60)} min`;
  return `${Math.floor(left / 86400)} d ${Math.floor((left % 86400) / 3600)} h`;
}

/** A moment of the last days, by the server's clock. */
export function moment(at, now) {
  const date = new Date(1000 * at);
  return now - at < 20 * 3600 ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

export function bytes(number) {
  if (number === undefined) return NONE;
  return number >= 2 ** 30 ? `${(number / 2 ** 30).toFixed(1)} GiB` : `${whole.format(number / 2 ** 20)} MiB`;
}

/** A train step; -1 is an unknown one. */
export function step(number) {
  return number === undefined || number < 0 ? NONE : whole.format(number);
}

/** A number of a spec, an answer or a distribution, short. */
export function value(number) {
  if (typeof number !== "number") return String(number);
  if (Number.isInteger(number)) return String(number);
  const size = Math.abs(number);
  return size >= 1e5 || size < 1e-3 ? number.toExponential(2) : String(Number(number.toPrecision(4)));
}
