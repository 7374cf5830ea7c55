// SPDX-License-Identifier: Apache-2.0
// The sliders between photograph and rendering.
"use strict";
for (const box of document.querySelectorAll(".compare")) {
  const move = (event) => {
    const rect = box.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - rect.left) / rect.width));
    box.style.setProperty("--cut", (100 * share).toFixed(2) + "%");
  };
  box.addEventListener("pointerdown", (event) => { box.setPointerCapture(event.pointerId); move(event); });
  box.addEventListener("pointermove", (event) => { if (event.buttons || event.pointerType === "mouse") move(event); });
}
