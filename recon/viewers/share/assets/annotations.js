// SPDX-License-Identifier: Apache-2.0
// Points with text: a numbered pin in the picture, and a card that opens beside it.

import { add, lengthOf, scale, subtract } from "./vectors.js";
import { axesOf, axesOfRotation, eyeOf, projected, viewFrom } from "./view.js";

export class Annotations {
  /** @param layer the element of pins and card. @param entries of the page. @param onOpen told an index, or -1. */
  constructor(layer, entries, onOpen) {
    this.entries = entries;
    this.onOpen = onOpen;
    this.open = -1;
    this.visible = true;
    this.card = layer.querySelector(".card");
    this.pins = entries.map((entry, index) => this.makePin(layer, entry, index));
    this.card.querySelector("button").addEventListener("click", () => this.close());
  }

  makePin(layer, entry, index) {
    const pin = document.createElement("button");
    pin.className = "pin";
    pin.textContent = String(index + 1);
    pin.title = entry.title;
    pin.setAttribute("aria-label", `${index + 1}: ${entry.title}`);
    pin.addEventListener("click", () => (this.open === index ? this.close() : this.show(index)));
    layer.append(pin);
    return pin;
  }

  show(index) {
    const entry = this.entries[index];
    if (!entry) return;
    this.open = index;
    this.visible = true;
    this.card.querySelector("h2").textContent = entry.title;
    this.card.querySelector("p").textContent = entry.text;
    this.card.hidden = false;
    this.pins.forEach((pin, k) => pin.classList.toggle("open", k === index));
    this.onOpen(index);
  }

  close() {
    if (this.open < 0) return;
    this.open = -1;
    this.card.hidden = true;
    this.pins.forEach((pin) => pin.classList.remove("open"));
    this.onOpen(-1);
  }

  toggle() {
    this.visible = !this.visible;
    if (!this.visible) this.close();
  }

  /** Puts pins and card where `camera`, in pixels of the page, sees them. */
  place(camera) {
    this.entries.forEach((entry, index) => {
      const { x, y, depth } = projected(camera, entry.position), pin = this.pins[index];
      const inside = depth > 0.01 && x > -20 && y > -20 && x < camera.width + 20 && y < camera.height + 20;
      pin.hidden = !this.visible || !inside;
      if (pin.hidden) return;
      pin.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, -50%)`;
      pin.style.zIndex = String(Math.round(1e6 / (1 + depth)));
      if (index === this.open) this.placeCard(x, y, camera);
    });
  }

  placeCard(x, y, camera) {
    const { offsetWidth, offsetHeight } = this.card;
    const left = x + 28 + offsetWidth > camera.width - 12 ? x - 28 - offsetWidth : x + 28;
    const top = Math.min(Math.max(12, y - 0.5 * offsetHeight), camera.height - offsetHeight - 90);
    this.card.style.transform = `translate(${Math.max(12, left).toFixed(1)}px, ${Math.max(12, top).toFixed(1)}px)`;
  }

  /** Returns the view from which to look at an annotation: its own, else from the present side, nearer. */
  viewOf(index, present, extent) {
    const { position, view } = this.entries[index];
    if (view) {
      const { right, forward } = axesOfRotation(view.rotation), offset = subtract(position, view.eye);
      return viewFrom({ eye: view.eye, right, forward, distance: lengthOf(offset), fov: view.fov, aspect: view.aspect });
    }
    const distance = Math.min(lengthOf(subtract(eyeOf(present), position)), 0.7 * extent);
    const { right, forward } = axesOf({ ...present, roll: 0 });
    const eye = add(position, scale(forward, -distance));
    return viewFrom({ eye, right, forward, distance, fov: present.fov, aspect: present.aspect });
  }
}
