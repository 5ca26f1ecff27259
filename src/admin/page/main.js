// The status page: what is known is drawn when it changes, once a frame at most.

import * as access from './access.js';
import { attribute, find, text } from './dom.js';
import * as explain from './explain.js';
import * as journal from './journal.js';
import { apply } from './model.js';
import * as panels from './panels.js';
import * as services from './services.js';
import { follow } from './stream.js';

/** From one sample of the past to the next. */
const EVERY = 5000;

const changed = new Set();
let is_due = false;
let journal_due = 0;

function draw() {
  is_due = false;
  const began = performance.now();
  const parts = new Set(changed);
  changed.clear();
  panels.render(parts);
  if (parts.has('services')) {
    services.render();
    panels.registries();
  }
  performance.measure('callboard-update', { start: began, end: performance.now() });
}

function hear(frame) {
  const began = performance.now();
  apply(frame).forEach((part) => changed.add(part));
  if (frame.services.length || frame.gone.length || frame.parts.listed || frame.parts.findings || frame.parts.routes) changed.add('services');
  performance.measure('callboard-apply', { start: began, end: performance.now() });
  if (!is_due) {
    is_due = true;
    requestAnimationFrame(draw);
  }
  if (frame.whole) panels.refresh();
  const joined = frame.services.some((service) => service.own || service.gone.length);
  if (joined && !journal_due) {
    journal_due = setTimeout(() => {
      journal_due = 0;
      journal.refresh(services.show);
    }, frame.whole ? 0 : 1000);
  }
}

function say(state, why) {
  attribute(find('link'), 'data-state', state);
  text(find('link'), { live: 'live', lost: 'not connected' }[state]);
  find('trouble').hidden = !why;
  text(find('trouble'), why ?? '');
}

access.prepare();
services.prepare();
panels.prepare(services.show);
explain.prepare(services.show);
find('token').addEventListener('click', async () => {
  if (await access.askForToken('It is needed where admin.token is set.')) dispatchEvent(new Event('token'));
});
setInterval(() => {
  if (document.hidden) return;
  panels.refresh();
  services.tick();
}, EVERY);
follow(hear, say);
