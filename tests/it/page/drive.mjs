// Drives a browser for a test: each line of stdin says what to do, and a line of stdout says what came of it. Ends
// when stdin does.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [folder, colorScheme, width] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const browser = await chromium.launch({ executablePath: `${folder}/chromium`, args: ['--no-sandbox'], timeout: 50_000 });
// A test's certificates are of no authority that a browser knows.
const context = await browser.newContext({
  colorScheme, viewport: { width: Number(width), height: 900 }, ignoreHTTPSErrors: true,
});
const page = await context.newPage();
page.setDefaultTimeout(20_000);

/** What must not be. */
const faults = [];
let origin;
page.on('console', (message) => {
  if (['error', 'warning'].includes(message.type())) faults.push(message.text());
});
page.on('pageerror', (error) => faults.push(String(error)));
page.on('request', (request) => {
  const url = new URL(request.url());
  if (origin && url.origin !== origin && url.protocol !== 'data:') faults.push(`asked ${url}`);
});

const can = {
  async open({ url }) {
    origin = new URL(url).origin;
    await page.goto(url, { waitUntil: 'domcontentloaded' });
  },
  value: ({ expression }) => page.evaluate(expression),
  click: ({ selector }) => page.locator(selector).first().click(),
  fill: ({ selector, text }) => page.fill(selector, text),
  resize: ({ width: wide }) => page.setViewportSize({ width: wide, height: 900 }),
  shot: ({ path, height, ...options }) => page.screenshot({ path, ...options }),
  faults: () => faults,
  // Another world than the page's own, whose policy lets no script in from outside.
  async axe() {
    const session = await context.newCDPSession(page);
    const { frameTree } = await session.send('Page.getFrameTree');
    const world = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
    const run = async (expression) => {
      const said = await session.send('Runtime.evaluate', {
        expression, contextId: world.executionContextId, awaitPromise: true, returnByValue: true,
      });
      if (said.exceptionDetails) throw new Error(JSON.stringify(said.exceptionDetails));
      return said.result.value;
    };
    await run(`${axe};0`);
    return run(`axe.run().then(({ violations }) => violations.map(({ id, nodes }) =>
      id + ': ' + nodes.map((node) => node.html + ': ' + node.failureSummary).join('; ')))`);
  },
};

const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
say({ value: 'ready' });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ value: (await can[command.do](command)) ?? null });
  } catch (error) {
    say({ error: `${line}: ${error}` });
  }
}
await browser.close();
