// SPDX-License-Identifier: Apache-2.0
// The order of depth.  Only chunks that may touch the picture are looked at.  A depth's float32 bits grow with it, so
// the top bits of their range are a key of 16 bits that is as fine, relative to the depth, everywhere; splats are
// counted per key and put into place, which needs no comparison.

import { CHUNK } from "./unpacking.js";

const KEYS = 65536;
const NEAR = 0.01;
const ROW_NUMBERS = 2048;
/** Splats outside of the picture reach into it by this much at least: the blur of a pixel out to alpha 1/255. */
const MARGIN_PX = 2;

export class Sorter {
  constructor() {
    this.slots = new Map();
    this.starts = new Uint32Array(KEYS + 1);
    this.reserve(0);
  }

  /** Sets what a slot holds: {centers, opacities, boxes}. */
  set(slot, block) {
    this.slots.set(slot, block);
    let count = 0;
    for (const { opacities } of this.slots.values()) count += opacities.length;
    if (count > this.depths.length) this.reserve(Math.ceil(1.25 * count));
  }

  reserve(count) {
    this.depths = new Float32Array(count);
    this.bits = new Uint32Array(this.depths.buffer);
    this.numbers = new Uint32Array(count);
  }

  /**
   * Fills `order` with the numbers of the splats in front of `camera`, nearest first.
   * @param slots which to take, in any order.
   * @param slotSplats a splat's number is its place in its slot plus this times the slot.
   * @returns {order, count}; the order is the given array where that is long enough.
   */
  sort(camera, slots, slotSplats, order) {
    const count = this.gather(camera, slots, slotSplats);
    const { bits, numbers, starts } = this;
    const needed = ROW_NUMBERS * Math.ceil(count / ROW_NUMBERS);
    if (!order || order.length < needed) order = new Uint32Array(Math.ceil(1.25 * needed / ROW_NUMBERS) * ROW_NUMBERS);
    if (!count) return { order, count };
    let low = 0xffffffff, high = 0;
    for (let i = 0; i < count; i++) {
      const value = bits[i];
      if (value < low) low = value;
      if (value > high) high = value;
    }
    const shift = Math.max(0, 32 - Math.clz32(high - low) - 16);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      const key = (bits[i] - low) >>> shift;
      bits[i] = key;
      starts[key + 1]++;
    }
    for (let key = 0; key < KEYS; key++) starts[key + 1] += starts[key];
    for (let i = 0; i < count; i++) order[starts[bits[i]]++] = numbers[i];
    return { order, count };
  }

  /** Writes depths and numbers of what may be seen and returns how many there are. */
  gather(camera, slots, slotSplats) {
    const { depths, numbers } = this, planes = sidesOf(camera), [fx, fy, fz] = camera.forward;
    const back = -(fx * camera.eye[0] + fy * camera.eye[1] + fz * camera.eye[2]);
    let count = 0;
    for (const slot of slots) {
      const block = this.slots.get(slot);
      if (!block) continue;
      const { centers, boxes } = block, total = centers.length / 3, first = slot * slotSplats;
      for (let chunk = 0; CHUNK * chunk < total; chunk++) {
        if (!mayTouch(boxes, 7 * chunk, planes)) continue;
        const end = Math.min(total, CHUNK * (chunk + 1));
        for (let i = CHUNK * chunk, at = 3 * i; i < end; i++, at += 3) {
          const depth = fx * centers[at] + fy * centers[at + 1] + fz * centers[at + 2] + back;
          depths[count] = depth;
          numbers[count] = first + i;
          // What lies behind is overwritten by the next.
          count += depth > NEAR ? 1 : 0;
        }
      }
    }
    return count;
  }

  /** Returns the centre nearest to the camera among the solid ones within `radius` pixels of [x, y], or null. */
  pick(camera, x, y, radius) {
    let best = null, nearest = Infinity;
    const { right, down, forward, eye } = camera;
    for (const { centers, opacities } of this.slots.values()) {
      for (let i = 0, at = 0; i < opacities.length; i++, at += 3) {
        if (opacities[i] < 100) continue;
        const ox = centers[at] - eye[0], oy = centers[at + 1] - eye[1], oz = centers[at + 2] - eye[2];
        const depth = forward[0] * ox + forward[1] * oy + forward[2] * oz;
        if (depth < 0.02 || depth >= nearest) continue;
        const dx = camera.cx + (camera.fx / depth) * (right[0] * ox + right[1] * oy + right[2] * oz) - x;
        const dy = camera.cy + (camera.fy / depth) * (down[0] * ox + down[1] * oy + down[2] * oz) - y;
        if (dx * dx + dy * dy < radius * radius) {
          nearest = depth;
          best = [centers[at], centers[at + 1], centers[at + 2]];
        }
      }
    }
    return best;
  }
}

/** Returns the planes of the picture's sides and of the camera, each {normal, back, unit}: inside is not negative. */
function sidesOf({ width, height, fx, fy, cx, cy, right, down, forward, eye }) {
  const plane = (axis, slope, sign) => {
    const normal = axis.map((value, k) => sign * (value - slope * forward[k]));
    return { normal, back: -normal.reduce((sum, value, k) => sum + value * eye[k], 0), unit: Math.hypot(...normal) };
  };
  return [
    plane(right, (-cx - MARGIN_PX) / fx, 1),
    plane(right, (width - cx + MARGIN_PX) / fx, -1),
    plane(down, (-cy - MARGIN_PX) / fy, 1),
    plane(down, (height - cy + MARGIN_PX) / fy, -1),
    { normal: forward, back: -forward.reduce((sum, value, k) => sum + value * eye[k], 0), unit: 0 },
  ];
}

function mayTouch(boxes, at, planes) {
  for (let k = 0; k < planes.length; k++) {
    const { normal, back, unit } = planes[k];
    const x = normal[0] > 0 ? boxes[at + 3] : boxes[at];
    const y = normal[1] > 0 ? boxes[at + 4] : boxes[at + 1];
    const z = normal[2] > 0 ? boxes[at + 5] : boxes[at + 2];
    if (normal[0] * x + normal[1] * y + normal[2] * z + back + unit * boxes[at + 6] < 0) return false;
  }
  return true;
}
