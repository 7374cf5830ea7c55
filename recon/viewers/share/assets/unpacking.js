// SPDX-License-Identifier: Apache-2.0
// From a block's bytes (recon/viewers/share/packing.py) to what the graphics card takes and to centres for sorting.

export const CHUNK = 256;
const CHUNK_FLOATS = 18;
const TEXEL_FLOATS = 20;
const ROW_SPLATS = 2048;
/** At alpha 1/255 a Gaussian of opacity one ends here, in standard deviations; a little more, for the tilt of views. */
const REACH = 1.3 * Math.sqrt(2 * Math.log(255));

/** Returns the bytes of base64 text. */
export function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** Returns the bytes that were compressed with raw DEFLATE. */
export async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Returns {words, labels, chunks} for the renderer's textures, and {centers, opacities, boxes} for sorting.
 * A box is six numbers of the centres in a chunk and how far its splats reach beyond.
 */
export function unpackedBlock(data, count) {
  const chunkCount = Math.ceil(count / CHUNK), padded = chunkCount * CHUNK;
  const table = new Float32Array(data.buffer, data.byteOffset, CHUNK_FLOATS * chunkCount);
  const planes = data.subarray(4 * CHUNK_FLOATS * chunkCount);
  if (planes.length !== 20 * padded) throw new Error(`A block has ${planes.length} bytes instead of ${20 * padded}.`);
  const rows = Math.ceil(padded / ROW_SPLATS);
  const words = new Uint32Array(4 * ROW_SPLATS * rows), labels = new Uint32Array(ROW_SPLATS * rows);
  const wordBytes = new Uint8Array(words.buffer), labelBytes = new Uint8Array(labels.buffer);
  for (let plane = 0; plane < 16; plane++) {
    const from = plane * padded;
    for (let i = 0; i < padded; i++) wordBytes[16 * i + plane] = planes[from + i];
  }
  for (let plane = 0; plane < 4; plane++) {
    const from = (16 + plane) * padded;
    for (let i = 0; i < padded; i++) labelBytes[4 * i + plane] = planes[from + i];
  }
  const chunks = new Float32Array(TEXEL_FLOATS * 8 * rows), boxes = new Float32Array(7 * chunkCount);
  for (let chunk = 0; chunk < chunkCount; chunk++) {
    const own = table.subarray(CHUNK_FLOATS * chunk, CHUNK_FLOATS * (chunk + 1));
    chunks.set(own, TEXEL_FLOATS * chunk);
    boxes.set(boxOf(own), 7 * chunk);
  }
  return { words, labels, chunks, boxes, ...centersOf(words, table, count) };
}

function boxOf(own) {
  const widest = Math.max(own[6] + 127 * own[9], own[7] + 127 * own[10], own[8] + 127 * own[11]);
  const high = [0, 1, 2].map((axis) => own[axis] + 8191 * own[3 + axis]);
  return [own[0], own[1], own[2], ...high, REACH * Math.exp(widest)];
}

function centersOf(words, table, count) {
  const centers = new Float32Array(3 * count), opacities = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const own = CHUNK_FLOATS * (i >>> 8), first = words[4 * i], second = words[4 * i + 1];
    centers[3 * i] = table[own] + table[own + 3] * (first & 8191);
    centers[3 * i + 1] = table[own + 1] + table[own + 4] * ((first >>> 13) & 8191);
    centers[3 * i + 2] = table[own + 2] + table[own + 5] * (second & 8191);
    opacities[i] = words[4 * i + 3] >>> 24;
  }
  return { centers, opacities };
}
