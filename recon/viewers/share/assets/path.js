// SPDX-License-Identifier: Apache-2.0
// Plays a camera path: poses at equal time steps, eight numbers each (position, world_from_cam wxyz, vertical fov).

import { clamp, lengthOf, mix, mixed, subtract } from "./vectors.js";
import { axesOfRotation, viewFrom } from "./view.js";

const NUMBERS = 8;

export class Player {
  /** @param path {fps, aspect, loop, poses}. @param focus what the hand orbits after the path is left. */
  constructor(path, focus) {
    this.path = path;
    this.focus = focus;
    this.count = path.poses.length / NUMBERS;
    this.seconds = Math.max(0, (this.count - 1) / path.fps);
    this.time = 0;
    this.playing = false;
  }

  play() {
    if (this.time >= this.seconds) this.time = 0;
    this.playing = true;
  }

  /** Moves on; a path that does not loop rests at its end. */
  update(seconds) {
    this.time += seconds;
    if (this.time < this.seconds) return;
    if (this.path.loop && this.seconds > 0) this.time %= this.seconds;
    else {
      this.time = this.seconds;
      this.playing = false;
    }
  }

  /** Returns the view at the present time. */
  view() {
    const place = clamp(this.time * this.path.fps, 0, this.count - 1), index = Math.min(Math.floor(place), this.count - 1);
    const one = this.pose(index), other = this.pose(Math.min(index + 1, this.count - 1)), share = place - index;
    const sign = one.rotation.reduce((sum, value, k) => sum + value * other.rotation[k], 0) < 0 ? -1 : 1;
    const rotation = one.rotation.map((value, k) => mix(value, sign * other.rotation[k], share));
    const norm = Math.hypot(...rotation), eye = mixed(one.eye, other.eye, share);
    return viewFrom({
      ...axesOfRotation(rotation.map((value) => value / norm)),
      eye,
      distance: Math.max(lengthOf(subtract(this.focus, eye)), 1e-6),
      fov: mix(one.fov, other.fov, share),
      aspect: this.path.aspect,
    });
  }

  pose(index) {
    const numbers = this.path.poses.slice(NUMBERS * index, NUMBERS * (index + 1));
    return { eye: numbers.slice(0, 3), rotation: numbers.slice(3, 7), fov: numbers[7] };
  }
}
