// Elements. What strangers chose becomes text, and never markup.

/** An element with these properties and children; a child that is no element is a text. */
export function h(name, properties, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'class') element.className = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

/** Sets a text where it is another: what does not change costs nothing. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Sets or takes away an attribute, where that changes something. */
export function attribute(element, name, value) {
  if (value === null || value === undefined) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Has a parent's children be those of the items, in their order. An element stays with its key, and is
 * `update`d; one that stands where it stood is not moved, so that the focus stays.
 */
export function reconcile(parent, items, { key, create, update }) {
  const there = parent.byKey ??= new Map();
  const wanted = new Set(items.map(key));
  for (const [name, element] of there) {
    if (!wanted.has(name)) {
      element.remove();
      there.delete(name);
    }
  }
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let element = there.get(name);
    if (!element) {
      element = create(item);
      there.set(name, element);
    }
    update?.(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
}

/** Rows of cells in place of those that are there, where anything is different. */
export function rows(body, all) {
  const print = JSON.stringify(all, (_, value) => (value instanceof Node ? value.textContent : value));
  if (body.print === print) return;
  body.print = print;
  body.replaceChildren(...all.map((cells) => h('tr', null, cells.map((cell) => {
    const { content, ...properties } = cell?.content !== undefined ? cell : { content: cell };
    return h('td', properties, ...[content].flat());
  }))));
}
