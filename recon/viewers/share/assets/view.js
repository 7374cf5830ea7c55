// SPDX-License-Identifier: Apache-2.0
// How one looks at the scene: a point in focus, the side and distance that it is seen from, and a lens.
//
// A view is {focus, yaw, pitch, roll, distance, fov, aspect}: radians, +z up.  `fov` is the vertical field of view of a
// picture of the shape `aspect` (width / height), all of which is shown whatever shape the window has.
// A camera is what the renderer takes: {width, height, fx, fy, cx, cy, right, down, forward, eye}, OpenCV axes.

import { add, cross, dot, eased, mix, mixed, nearestTurn, normalized, scale, subtract } from "./vectors.js";

export const STEEPEST = 0.499 * Math.PI;

/** Returns the unit vectors {right, down, forward} of a view, in the world. */
export function axesOf(view) {
  const c = Math.cos(view.pitch), s = Math.sin(view.pitch);
  const forward = [-c * Math.cos(view.yaw), -c * Math.sin(view.yaw), -s];
  const level = [-Math.sin(view.yaw), Math.cos(view.yaw), 0];
  const steep = cross(forward, level);
  const cr = Math.cos(view.roll), sr = Math.sin(view.roll);
  return {
    right: add(scale(level, cr), scale(steep, sr)),
    down: subtract(scale(steep, cr), scale(level, sr)),
    forward,
  };
}

/** Returns where a view is seen from. */
export const eyeOf = (view) => subtract(view.focus, scale(axesOf(view).forward, view.distance));

/** Returns the camera of a view in a picture of so many pixels. */
export function cameraOf(view, width, height) {
  const tangent = Math.tan(0.5 * view.fov) * Math.max(1, (view.aspect * height) / width);
  const focal = (0.5 * height) / tangent;
  return { width, height, fx: focal, fy: focal, cx: 0.5 * width, cy: 0.5 * height, ...axesOf(view), eye: eyeOf(view) };
}

/** Returns the view from `eye` with the axes `right` and `forward`, focussed at `distance`. */
export function viewFrom({ eye, right, forward, distance, fov, aspect }) {
  const out = scale(normalized(forward), -1);
  const pitch = Math.asin(Math.min(1, Math.max(-1, out[2])));
  // Where one looks straight down or up, only the picture's own side tells what is to the right.
  const yaw = Math.abs(out[2]) > 0.9999 ? Math.atan2(-right[0], right[1]) : Math.atan2(out[1], out[0]);
  const view = { focus: add(eye, scale(forward, distance)), yaw, pitch, roll: 0, distance, fov, aspect };
  const level = axesOf(view);
  view.roll = Math.atan2(dot(right, level.down), dot(right, level.right));
  return view;
}

/** Returns the axes of a rotation world_from_cam, a quaternion wxyz. */
export function axesOfRotation([w, x, y, z]) {
  return {
    right: [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
    down: [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
    forward: [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
  };
}

/** Returns a copy that shares nothing. */
export const copyOf = (view) => ({ ...view, focus: [...view.focus] });

/** Returns the view on the way from one to another; distances and lenses change by even factors. */
export function between(from, to, share) {
  const part = eased(share);
  return {
    focus: mixed(from.focus, to.focus, part),
    yaw: mix(from.yaw, nearestTurn(to.yaw, from.yaw), part),
    pitch: mix(from.pitch, to.pitch, part),
    roll: mix(from.roll, nearestTurn(to.roll, from.roll), part),
    distance: from.distance * (to.distance / from.distance) ** part,
    fov: mix(from.fov, to.fov, part),
    aspect: from.aspect * (to.aspect / from.aspect) ** part,
  };
}

/** Returns the pixel [x, y] of a point, and its depth; the depth is not positive behind the camera. */
export function projected(camera, point) {
  const offset = subtract(point, camera.eye);
  const depth = dot(offset, camera.forward);
  const x = camera.cx + (camera.fx * dot(offset, camera.right)) / depth;
  const y = camera.cy + (camera.fy * dot(offset, camera.down)) / depth;
  return { x, y, depth };
}
