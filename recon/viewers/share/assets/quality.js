// SPDX-License-Identifier: Apache-2.0
// How much a device can show: at rest everything that it has room for, in motion what keeps the motion smooth.

const MOST_PIXELS = { desktop: 9e6, phone: 2.2e6 };
const MOST_SPLATS = { desktop: 6e6, phone: 1.2e6 };
const SLOW_MS = 42;
const FAST_MS = 21;
const STEPS = [1, 0.8, 0.64, 0.5, 0.4];

export class Quality {
  constructor() {
    const coarse = matchMedia("(pointer: coarse)").matches, memory = navigator.deviceMemory ?? 8;
    this.kind = coarse || memory < 4 ? "phone" : "desktop";
    this.mostSplats = MOST_SPLATS[this.kind] * (memory < 4 ? 0.5 : 1);
    this.pinned = false;
    this.step = 0;
    this.average = 0;
  }

  /** Pixels of the canvas per pixel of the page. */
  pixelRatio(width, height) {
    const wanted = Math.min(devicePixelRatio || 1, this.kind === "phone" ? 2 : 3);
    return Math.min(wanted, Math.max(0.75, Math.sqrt(MOST_PIXELS[this.kind] / Math.max(1, width * height))));
  }

  /** Notes how long a picture of a motion took, and draws less or more from then on. */
  note(milliseconds) {
    if (this.pinned || milliseconds > 5000) return;
    this.average = this.average ? 0.7 * this.average + 0.3 * milliseconds : milliseconds;
    if (this.average > SLOW_MS && this.step < STEPS.length - 1) this.change(1);
    else if (this.average < FAST_MS && this.step > 0) this.change(-1);
  }

  change(by) {
    this.step += by;
    // Between both limits, so that the next pictures decide anew.
    this.average = 0.5 * (SLOW_MS + FAST_MS);
  }

  /** Returns {share, splats}: of the resolution, and how many at most. */
  of(moving) {
    const step = moving && !this.pinned ? this.step : 0;
    return { share: STEPS[step], splats: step < 2 ? this.mostSplats : Math.max(4e5, this.mostSplats * STEPS[step] ** 4) };
  }
}
