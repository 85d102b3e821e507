/** An element with a class and, where it has one, its text. */
export function create<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = "",
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The element with an id, which the page has. */
export function find<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

/** Shows how loud a side is, 0 to 1. */
export function showLevel(meter: HTMLElement, level: number): void {
  const percent = String(Math.round(level * 100));
  if (meter.getAttribute("aria-valuenow") === percent) return;
  meter.setAttribute("aria-valuenow", percent);
  meter.style.setProperty("--level", level.toFixed(3));
}
