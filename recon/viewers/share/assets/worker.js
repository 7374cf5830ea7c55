// SPDX-License-Identifier: Apache-2.0
// What runs beside the page's own thread: unpacking blocks and sorting.  Messages are answered in the order in which
// they come, so an order never speaks of a block that has not been handed over before.

import { Sorter } from "./sorting.js";
import { bytesOf, inflated, unpackedBlock } from "./unpacking.js";

const sorter = new Sorter();

async function takeBlock({ slot, block, count, content }) {
  const bytes = typeof content === "string" ? bytesOf(content) : new Uint8Array(content);
  const { words, labels, chunks, ...forSorting } = unpackedBlock(await inflated(bytes), count);
  sorter.set(slot, forSorting);
  const parts = { words, labels, chunks };
  postMessage({ kind: "block", slot, block, count, parts }, [words.buffer, labels.buffer, chunks.buffer]);
}

function sort({ id, camera, slots, slotSplats, spare }) {
  const begun = performance.now();
  const { order, count } = sorter.sort(camera, slots, slotSplats, spare);
  const milliseconds = performance.now() - begun;
  postMessage({ kind: "order", id, order, count, milliseconds }, [order.buffer]);
}

onmessage = async ({ data }) => {
  try {
    if (data.kind === "block") await takeBlock(data);
    else if (data.kind === "sort") sort(data);
    else if (data.kind === "pick") {
      postMessage({ kind: "picked", id: data.id, point: sorter.pick(data.camera, data.x, data.y, data.radius) });
    }
  } catch (error) {
    postMessage({ kind: "failed", of: data.kind, block: data.block, reason: String(error?.message ?? error) });
  }
};
