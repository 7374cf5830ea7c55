// SPDX-License-Identifier: Apache-2.0
// Moves the view: what the hand asks for is followed softly, flights go from one view to another.

import { add, clamp, cross, dot, lengthOf, mix, mixed, scale, subtract } from "./vectors.js";
import { axesOf, between, copyOf, eyeOf, STEEPEST } from "./view.js";

const FOLLOW_S = 0.055;
const LEVEL_S = 0.3;
const FLIGHT_S = 1.1;

export class Navigator {
  /** @param start the view to begin with and to come home to. @param extent of the scene, world units. */
  constructor(start, extent) {
    this.start = copyOf(start);
    this.extent = extent;
    this.view = copyOf(start);
    this.goal = copyOf(start);
    this.flight = null;
    this.velocity = [0, 0, 0];
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  /** Whether time moves the view: a flight is on its way, or a key is held. */
  get flying() {
    return this.flight !== null || lengthOf(this.velocity) > 0;
  }

  /** Turns around the focus by pixels of a drag in a window of `height`. */
  orbit(dx, dy, height) {
    this.take();
    const turn = 3.2 / Math.max(height, 300);
    this.goal.yaw -= turn * dx;
    this.goal.pitch = clamp(this.goal.pitch + turn * dy, -STEEPEST, STEEPEST);
    this.goal.roll = 0;
  }

  /** Turns about the eye, as one turns one's head. */
  look(dx, dy, height) {
    this.take();
    const eye = eyeOf(this.goal), turn = this.goal.fov / Math.max(height, 300);
    this.goal.yaw -= turn * dx;
    this.goal.pitch = clamp(this.goal.pitch + turn * dy, -STEEPEST, STEEPEST);
    this.goal.roll = 0;
    this.goal.focus = add(eye, scale(axesOf(this.goal).forward, this.goal.distance));
  }

  /** Moves with the hand: what lies in focus stays under the pointer. */
  pan(dx, dy, height) {
    this.take();
    const step = (2 * this.goal.distance * Math.tan(0.5 * this.goal.fov)) / height, { right, down } = axesOf(this.goal);
    this.goal.focus = subtract(this.goal.focus, add(scale(right, step * dx), scale(down, step * dy)));
  }

  /** Goes nearer to the focus, or away from it. */
  zoom(factor) {
    this.take();
    this.goal.distance = clamp(this.goal.distance * factor, 0.01 * this.extent, 60 * this.extent);
  }

  /** Sets the speed of flying through the scene: right, up and forward, each -1 to 1 or a multiple. */
  fly(velocity) {
    if (lengthOf(velocity) && !lengthOf(this.velocity)) this.take();
    this.velocity = velocity;
  }

  /** Makes the hand's view the one that is seen, which ends a flight. */
  take() {
    if (!this.flight) return;
    this.flight = null;
    this.goal = copyOf(this.view);
  }

  /** Shows a view at once. */
  show(view) {
    this.flight = null;
    this.view = copyOf(view);
    this.goal = copyOf(view);
  }

  flyTo(view, seconds = FLIGHT_S) {
    if (this.calm) this.show(view);
    else this.flight = { from: copyOf(this.view), to: copyOf(view), time: 0, seconds };
  }

  /** Flies to look at a point from the present side, no further away than now. */
  focusOn(point) {
    const offset = subtract(eyeOf(this.view), point), distance = Math.max(lengthOf(offset), 0.02 * this.extent);
    const flat = Math.hypot(offset[0], offset[1]);
    const yaw = flat > 1e-9 ? Math.atan2(offset[1], offset[0]) : this.view.yaw;
    const pitch = clamp(Math.atan2(offset[2], flat), -STEEPEST, STEEPEST);
    this.flyTo({ ...this.view, focus: point, yaw, pitch, roll: 0, distance }, 0.6);
  }

  /** Moves on by `seconds`; returns whether anything changed. */
  update(seconds) {
    if (this.flight) return this.updateFlight(seconds);
    this.updateFlying(seconds);
    const { view, goal } = this;
    const apart = Math.max(
      lengthOf(subtract(goal.focus, view.focus)) / goal.distance, Math.abs(goal.yaw - view.yaw),
      Math.abs(goal.pitch - view.pitch), Math.abs(goal.roll - view.roll), Math.abs(Math.log(goal.distance / view.distance)),
    );
    if (apart === 0) return false;
    if (apart < 2e-4) {
      this.view = copyOf(goal);
      return true;
    }
    const share = this.calm ? 1 : 1 - Math.exp(-seconds / FOLLOW_S);
    const level = this.calm ? 1 : 1 - Math.exp(-seconds / LEVEL_S);
    view.focus = mixed(view.focus, goal.focus, share);
    view.yaw = mix(view.yaw, goal.yaw, share);
    view.pitch = mix(view.pitch, goal.pitch, share);
    view.roll = mix(view.roll, goal.roll, level);
    view.distance *= (goal.distance / view.distance) ** share;
    return true;
  }

  updateFlight(seconds) {
    const flight = this.flight;
    flight.time = Math.min(flight.time + seconds, flight.seconds);
    this.view = between(flight.from, flight.to, flight.time / flight.seconds);
    if (flight.time >= flight.seconds) this.show(flight.to);
    return true;
  }

  updateFlying(seconds) {
    if (!lengthOf(this.velocity)) return;
    const { forward } = axesOf(this.goal), level = [-Math.sin(this.goal.yaw), Math.cos(this.goal.yaw), 0];
    const up = cross(level, forward), step = 0.6 * Math.max(0.15 * this.extent, Math.min(this.goal.distance, this.extent));
    const [x, y, z] = this.velocity;
    const way = add(add(scale(level, x), scale(up, y)), scale(forward, z));
    this.goal.focus = add(this.goal.focus, scale(way, step * Math.min(seconds, 0.1)));
    if (!Number.isFinite(dot(way, way))) this.goal.focus = [...this.view.focus];
  }
}
