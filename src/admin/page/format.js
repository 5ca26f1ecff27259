// Numbers and times, as people read them.

const DASH = '–';

/** A count, with its thousands apart. */
export const count = (n) => Math.round(n).toLocaleString('en');

/** A rate: three digits. */
export function rate(n) {
  if (n === undefined || n === null) return DASH;
  if (n === 0) return '0';
  if (n < 0.1) return '<0.1';
  return n < 9.95 ? n.toFixed(1) : count(n);
}

/** A share as a percentage. */
export function percent(share) {
  if (share === undefined || share === null) return DASH;
  if (share === 0) return '0 %';
  if (share < 0.001) return '<0.1 %';
  return `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

/** How long something takes. */
export function time(seconds) {
  if (seconds === undefined || seconds === null) return DASH;
  if (seconds < 0.000_95) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 0.009_95) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.999_5) return `${Math.round(seconds * 1e3)} ms`;
  return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

/** How long something has lasted, in its largest unit. */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const now = () => Date.now() / 1000;

/** How long ago a moment was; or in how long it will be. */
export function ago(moment) {
  const passed = now() - moment;
  return passed < 0 ? `in ${span(-passed)}` : `${span(passed)} ago`;
}

/** A moment of today by its time, another with its day. */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const clock = at.toLocaleTimeString('en-GB');
  return at.toDateString() === new Date().toDateString() ? clock : `${day(seconds)} ${clock}`;
}

export const day = (seconds) => new Date(seconds * 1000).toLocaleDateString('en-CA');
