// SPDX-License-Identifier: Apache-2.0
// Vectors of three numbers, and a few functions of one.

export const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
export const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
export const scale = (a, s) => [s * a[0], s * a[1], s * a[2]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1],
  a[2] * b[0] - a[0] * b[2],
  a[0] * b[1] - a[1] * b[0],
];
export const lengthOf = (a) => Math.hypot(a[0], a[1], a[2]);
export const normalized = (a) => scale(a, 1 / Math.max(lengthOf(a), 1e-30));
export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
export const mix = (a, b, share) => a + (b - a) * share;
export const mixed = (a, b, share) => a.map((value, k) => mix(value, b[k], share));

/** Returns the angle that differs from `angle` by whole turns and is nearest to `other`. */
export const nearestTurn = (angle, other) => angle + 2 * Math.PI * Math.round((other - angle) / (2 * Math.PI));

/** Goes from 0 to 1 with no speed and no acceleration at either end. */
export const eased = (share) => share * share * share * (share * (6 * share - 15) + 10);
