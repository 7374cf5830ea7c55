// SPDX-License-Identifier: Apache-2.0
// Where blocks come from: out of the page itself as it arrives, most important first, or fetched as they are needed.

import { dot, lengthOf, subtract } from "./vectors.js";

const FETCHES_AT_ONCE = 4;

export class Loader {
  /**
   * @param scene the page's description; `scene.folder` names the folder of fetched blocks, null where all is inside.
   * @param send posts a block to the worker.
   * @param slots how many blocks the renderer has room for.
   * @param onFailure told a sentence for people.
   */
  constructor(scene, send, slots, onFailure) {
    Object.assign(this, { scene, send, slots, onFailure });
    this.asked = new Map();
    this.slotOf = new Map();
    this.fetching = 0;
    this.bytes = 0;
    if (!scene.folder) {
      new MutationObserver(() => this.pump()).observe(document.body, { childList: true });
      document.addEventListener("DOMContentLoaded", () => this.pump());
    }
  }

  /** How many blocks there is room for. */
  get wantedBlocks() {
    return Math.min(this.slots, this.scene.blocks.length);
  }

  get complete() {
    return this.slotOf.size >= this.wantedBlocks && !this.fetching;
  }

  get loadedSplats() {
    let count = 0;
    for (const block of this.slotOf.keys()) count += this.scene.blocks[block].count;
    return count;
  }

  /** Asks for what is missing, with a camera in front of what is needed first. */
  pump(camera) {
    if (this.scene.folder) this.fetchWanted(camera);
    else this.takeEmbedded();
  }

  takeEmbedded() {
    for (let block = 0; block < this.wantedBlocks; block++) {
      if (this.asked.has(block)) continue;
      const element = document.getElementById(`block-${block}`);
      // While the page is still arriving, the last element may be half of itself.
      if (!element || (document.readyState === "loading" && !element.nextElementSibling)) return;
      this.asked.set(block, block);
      this.bytes += element.textContent.length;
      this.post(block, block, element.textContent);
    }
  }

  post(block, slot, content) {
    const message = { kind: "block", block, slot, count: this.scene.blocks[block].count, content };
    this.send(message, typeof content === "string" ? [] : [content]);
  }

  fetchWanted(camera) {
    const wanted = this.ranked(camera).slice(0, this.slots);
    for (const block of wanted) {
      if (this.fetching >= FETCHES_AT_ONCE) return;
      if (this.asked.has(block)) continue;
      const slot = this.freeSlot(new Set(wanted));
      if (slot === null) return;
      this.fetchBlock(block, slot);
    }
  }

  /** Returns the blocks, those needed first in front: the common ones, then what is seen and near for its size. */
  ranked(camera) {
    const { blocks, commonBlocks } = this.scene;
    const rank = ({ low, high }, index) => {
      if (index < commonBlocks || !camera) return index - blocks.length;
      const middle = low.map((value, k) => 0.5 * (value + high[k])), radius = 0.5 * lengthOf(subtract(high, low));
      const offset = subtract(middle, camera.eye), distance = lengthOf(offset);
      const tangent = Math.hypot(camera.width / camera.fx, camera.height / camera.fy) / 2;
      const ahead = dot(offset, camera.forward) + radius, beside = Math.sqrt(Math.max(0, distance ** 2 - ahead ** 2));
      const seen = ahead > 0 && beside - radius < tangent * ahead;
      return Math.max(0, distance - radius) / radius + (seen ? 0 : 1000);
    };
    return blocks.map((block, index) => [rank(block, index), index]).sort((a, b) => a[0] - b[0]).map(([, index]) => index);
  }

  /** Returns a slot that is free or holds what is wanted least, or null. */
  freeSlot(wanted) {
    const taken = new Set(this.asked.values());
    for (let slot = 0; slot < this.slots; slot++) if (!taken.has(slot)) return slot;
    for (const [block, slot] of this.slotOf) {
      if (wanted.has(block)) continue;
      this.slotOf.delete(block);
      this.asked.delete(block);
      return slot;
    }
    return null;
  }

  async fetchBlock(block, slot) {
    this.asked.set(block, slot);
    this.fetching++;
    try {
      const response = await fetch(`${this.scene.folder}/${this.scene.blocks[block].file}`);
      if (!response.ok) throw new Error(`the server answers ${response.status}`);
      const content = await response.arrayBuffer();
      this.bytes += content.byteLength;
      this.post(block, slot, content);
    } catch (error) {
      this.asked.delete(block);
      this.onFailure(`A part of the scene cannot be loaded: ${error.message}.`);
    } finally {
      this.fetching--;
    }
  }

  /** Notes that a block has come back from the worker. */
  arrived(block, slot) {
    if (this.asked.get(block) === slot) this.slotOf.set(block, slot);
  }

  /** Forgets everything, after the graphics card did. */
  restart() {
    this.asked.clear();
    this.slotOf.clear();
    this.bytes = 0;
    this.pump();
  }

  /** Returns the slots to draw, the most important ones first, up to about `limit` splats. */
  slotsFor(limit) {
    const slots = [];
    let count = 0;
    for (const [block, slot] of [...this.slotOf].sort((a, b) => a[0] - b[0])) {
      count += this.scene.blocks[block].count;
      if (slots.length && count > limit) break;
      slots.push(slot);
    }
    return slots;
  }
}
