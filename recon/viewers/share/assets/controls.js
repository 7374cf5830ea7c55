// SPDX-License-Identifier: Apache-2.0
// Mouse, touch and keys.  What they mean is in the help that the key ? opens.

import { lengthOf } from "./vectors.js";

const DOUBLE_TAP_MS = 320;
const FLYING_KEYS = { KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyE: [0, 1, 0], KeyQ: [0, -1, 0] };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param canvas what is dragged on.
 * @param navigator what is moved.
 * @param actions functions: `changed()`, `touched()` before the hand takes over, `picked(x, y)` on a double click, and
 *   `key(key, event)` for all other keys, which returns whether it was of use.
 */
export function attachControls(canvas, navigator, actions) {
  attachPointers(canvas, navigator, actions);
  attachKeys(navigator, actions);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    actions.touched();
    const lines = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 400 : 1;
    // A pinch on a touch pad comes as a wheel with the control key, in small steps.
    const speed = event.ctrlKey ? 0.008 : 0.0012;
    navigator.zoom(Math.exp(speed * Math.max(-240, Math.min(240, event.deltaY * lines))));
    actions.changed();
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

function attachPointers(canvas, navigator, actions) {
  const pointers = new Map();
  let lastTap = { time: 0, x: 0, y: 0 }, moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (pointers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = [event.offsetX, event.offsetY], dx = now[0] - last[0], dy = now[1] - last[1];
    if (!dx && !dy) return;
    moved += Math.hypot(dx, dy);
    actions.touched();
    if (pointers.size >= 2) twoFingers(pointers, event.pointerId, last, now, canvas, navigator);
    else drag(event, dx, dy, canvas, navigator);
    pointers.set(event.pointerId, now);
    actions.changed();
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId) || event.type === "pointercancel" || pointers.size) return;
    const tap = { time: event.timeStamp, x: event.offsetX, y: event.offsetY };
    const near = Math.hypot(tap.x - lastTap.x, tap.y - lastTap.y) < 24;
    if (moved < 6 && near && tap.time - lastTap.time < DOUBLE_TAP_MS) actions.picked(tap.x, tap.y);
    lastTap = moved < 6 ? tap : { time: 0, x: 0, y: 0 };
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
}

function drag(event, dx, dy, canvas, navigator) {
  const height = canvas.clientHeight;
  if (event.shiftKey || event.buttons & 6) navigator.pan(dx, dy, height);
  else if (event.ctrlKey || event.altKey || event.metaKey) navigator.look(dx, dy, height);
  else navigator.orbit(dx, dy, height);
}

function twoFingers(pointers, id, last, now, canvas, navigator) {
  const other = [...pointers].find(([key]) => key !== id)[1];
  const gap = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) + 1;
  navigator.zoom(gap(last) / gap(now));
  // Each finger moves the middle between both by half of its own way.
  navigator.pan(0.5 * (now[0] - last[0]), 0.5 * (now[1] - last[1]), canvas.clientHeight);
}

function attachKeys(navigator, actions) {
  const held = new Set();
  const fly = (fast) => {
    const velocity = [0, 0, 0];
    for (const code of held) FLYING_KEYS[code].forEach((value, k) => (velocity[k] += value));
    navigator.fly(velocity.map((value) => value * (fast ? 3 : 1)));
    if (lengthOf(velocity)) actions.touched();
    actions.changed();
  };
  addEventListener("keydown", (event) => {
    if (event.target.closest?.("input, textarea, dialog[open]") && event.key !== "Escape" && event.key !== "?") return;
    if (FLYING_KEYS[event.code] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      held.add(event.code);
      fly(event.shiftKey);
    } else if (ARROWS[event.key]) {
      actions.touched();
      const [x, y] = ARROWS[event.key].map((value) => 24 * value);
      if (event.shiftKey) navigator.pan(-x, -y, innerHeight);
      else navigator.orbit(-x, -y, innerHeight);
      actions.changed();
    } else if (event.ctrlKey || event.metaKey || event.altKey || !actions.key(event.key, event)) return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => {
    if (held.delete(event.code)) fly(event.shiftKey);
  });
  addEventListener("blur", () => {
    held.clear();
    fly(false);
  });
}
