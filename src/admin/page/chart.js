// Small charts of the last fifteen minutes. The right edge is now.

const SAMPLES = 180;
const SVG = 'http://www.w3.org/2000/svg';

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A chart without lines yet. */
export function chart(kind) {
  const svg = element('svg', { class: kind, viewBox: '0 0 179 100', preserveAspectRatio: 'none', role: 'img' });
  svg.append(element('path', { class: 'base', d: 'M0 100H179' }));
  return svg;
}

/** The largest of some series. */
export function most(all) {
  let largest = 0;
  for (const series of all) for (const value of series) if (value > largest) largest = value;
  return largest;
}

/** The path of a series: a gap is where there is no value. */
function path(series, top) {
  const values = series.slice(-SAMPLES);
  const start = SAMPLES - values.length;
  let line = '';
  let pen = 'M';
  values.forEach((value, place) => {
    if (value === null) {
      pen = 'M';
      return;
    }
    line += `${pen}${start + place} ${(100 - (value / top) * 96).toFixed(1)}`;
    pen = 'L';
  });
  // A single sample is a dot.
  return line.replace(/(^|(?<=\d))M(\S+ \S+)(?=M|$)/g, '$&h1');
}

/** Draws series, the first of which is filled. `classes` has theirs; `label` says what is seen. */
export function draw(svg, all, { classes = [], label, top }) {
  const print = JSON.stringify([all, label]);
  if (svg.print === print) return;
  svg.print = print;
  svg.setAttribute('aria-label', label);
  const height = Math.max(top ?? 0, most(all)) || 1;
  const made = [];
  all.forEach((series, place) => {
    const kind = classes[place] ?? '';
    const line = path(series, height);
    if (place === 0 && line && !series.includes(null)) {
      const from = SAMPLES - Math.min(series.length, SAMPLES);
      made.push(element('path', { class: `area ${kind}`, d: `${line}L179 100L${from} 100Z` }));
    }
    made.push(element('path', { class: `line ${kind}`, d: line }));
  });
  svg.replaceChildren(svg.firstChild, ...made);
}
